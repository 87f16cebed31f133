"""The ways in which people train AdaLoRA on an encoder-decoder today, as functions of one job."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.rows import LENGTH, Rows
from peft import AdaLoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    get_linear_schedule_with_warmup,
)

from spectune.adapter.targets import default_targets


@dataclass(frozen=True)
class Job:
    """One epoch over the training rows and an evaluation of the validation rows, for every contender."""

    base: Path
    train: Rows
    validation: Rows
    batch_size: int
    learning_rate: float
    scratch: Path
    init_r: int = 12
    target_r: int = 8

    @property
    def steps(self) -> int:
        """Optimizer steps of the epoch."""
        return math.ceil(len(self.train.examples) / self.batch_size)

    @property
    def schedule(self) -> dict[str, int]:
        """AdaLoRA's schedule: a tenth of warm-up, half of the run frozen."""
        total = self.steps
        return {"total_step": total, "tinit": max(1, total // 10), "tfinal": total // 2, "deltaT": 1}


@dataclass
class Counts:
    """What a contender saw, for the comparison to be one."""

    steps: int = 0
    examples: int = 0


def adapted(job: Job, dtype: torch.dtype = torch.float32) -> Any:
    """The base with PEFT's AdaLoRA, whose own weights stay float32."""
    torch.manual_seed(42)
    base = AutoModelForSeq2SeqLM.from_pretrained(job.base, dtype=dtype)
    options: dict[str, Any] = {"init_r": job.init_r, "target_r": job.target_r, **job.schedule}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(
            base,
            AdaLoraConfig(
                task_type="SEQ_2_SEQ_LM",
                target_modules=default_targets(base),
                lora_alpha=2 * job.init_r,
                orth_reg_weight=0.5,
                **options,
            ),
        )


@contextmanager
def counting(model: Any, counts: Counts) -> Iterator[None]:
    """Count the rows of training forwards and the allocator's calls, which are the steps."""
    tuner = model.base_model
    former = tuner.update_and_allocate

    def rows(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training:
            counts.examples += len(kwargs["input_ids"])

    def step(number: int) -> None:
        counts.steps += 1
        former(number)

    hook = model.register_forward_pre_hook(rows, with_kwargs=True)
    tuner.update_and_allocate = step
    try:
        yield
    finally:
        hook.remove()
        del tuner.update_and_allocate


def tokenized(rows: Rows, tokenizer: Any) -> list[dict[str, Any]]:
    """Rows through the tokenizer as the examples of transformers do it."""
    encoded = tokenizer([example.source for example in rows.examples], truncation=True, max_length=LENGTH)
    targets = tokenizer([example.target for example in rows.examples], truncation=True, max_length=LENGTH)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": labels}
        for ids, mask, labels in zip(encoded["input_ids"], encoded["attention_mask"], targets["input_ids"], strict=True)
    ]


def by_example(job: Job, counts: Counts, *, pads: bool) -> Any:
    """PEFT's example: a plain loop, the allocator after the optimizer, evaluation by teacher-forced argmax.

    Args:
        job: what to train.
        counts: filled in.
        pads: pad every source to 128 as the example does, instead of to the batch's longest.
    """
    model, tokenizer = adapted(job), AutoTokenizer.from_pretrained(job.base)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": LENGTH} if pads else {}
    collator = DataCollatorForSeq2Seq(tokenizer, **padding)
    longest = max(job.train.longest_target, job.validation.longest_target)

    def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
        batch = dict(collator(features))
        batch["labels"] = batch["labels"][:, :longest].contiguous()  # the example pads labels to a length of their own
        return batch

    def loader(rows: Rows, shuffle: bool) -> Any:
        features: Any = tokenized(rows, tokenizer)
        return DataLoader(features, batch_size=job.batch_size, shuffle=shuffle, collate_fn=collate)

    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate)
    rate = get_linear_schedule_with_warmup(optimizer, 0, job.steps)
    with counting(model, counts):
        model.train()
        for step, batch in enumerate(loader(job.train, shuffle=True), start=1):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            rate.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
    model.eval()
    texts = []
    for batch in loader(job.validation, shuffle=False):
        with torch.no_grad():
            outputs = model(**batch)
        float(outputs.loss)
        texts += tokenizer.batch_decode(outputs.logits.argmax(-1), skip_special_tokens=True)
    model.save_pretrained(job.scratch / "example")
    return model


class Allocator(TrainerCallback):
    """The callback that AdaLoRA needs under transformers' Trainer."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After `optimizer.step()`, while gradients are there; steps are counted from 1."""
        kwargs["model"].base_model.update_and_allocate(state.global_step + 1)


def by_trainer(job: Job, counts: Counts, *, dtype: torch.dtype = torch.float32, autocast: bool = False) -> Any:
    """Seq2SeqTrainer with predict_with_generate over PEFT's AdaLoRA.

    Args:
        job: what to train.
        counts: filled in.
        dtype: how the base's weights are held.
        autocast: its option `bf16`, over weights held in `dtype`.
    """
    model, tokenizer = adapted(job, dtype), AutoTokenizer.from_pretrained(job.base)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(job.scratch / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=job.learning_rate,
        predict_with_generate=True,
        generation_max_length=job.validation.longest_target + 3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=autocast,
        label_names=["labels"],
    )

    def exact_match(found: Any) -> dict[str, float]:
        predictions, labels = (
            tokenizer.batch_decode(np.where(ids == -100, tokenizer.pad_token_id, ids), skip_special_tokens=True)
            for ids in (found.predictions, found.label_ids)
        )
        return {"exact_match": float(np.mean([a == b for a, b in zip(predictions, labels, strict=True)]))}

    validation: Any = tokenized(job.validation, tokenizer)
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        train_dataset=tokenized(job.train, tokenizer),
        eval_dataset=validation,
        processing_class=tokenizer,
        compute_metrics=exact_match,
        callbacks=[Allocator()],
    )
    with counting(model, counts):
        trainer.train()
    model.save_pretrained(job.scratch / "trainer" / "adapter")
    return model
