"""The AdaLoRA engine: banks of rank-one triplets, importance, allocation, compaction.

Only `peft_host` and `peft_classes` know PEFT. `schedule` and `roles` import no torch, so that a run can be planned
without it.
"""
