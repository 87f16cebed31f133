"""AdaLoRA under transformers' own Trainer, on the bundled model and data: one callback, and nothing else to write.

python examples/seq2seq_trainer.py --steps 600
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from peft import AdaLoraConfig, get_peft_model
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import spectune
from spectune.starter.bundle import data_files, model_directory

WORDS = {"0": "negative", "1": "neutral", "2": "positive"}


def tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list[int]]]:
    """The rows of a CSV file as token ids, labels as words."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sources = tokenizer([row["text"] for row in rows], truncation=True, max_length=128)["input_ids"]
    targets = tokenizer(text_target=[WORDS[row["label"]] for row in rows])["input_ids"]
    return [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]


def main() -> None:
    """Train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps")
    parser.add_argument("--output", default="runs/trainer", help="where checkpoints and the adapter go")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    options = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    train, validation = (tokens(path, tokenizer) for path in data_files())
    base = AutoModelForSeq2SeqLM.from_pretrained(model_directory(), dtype=torch.float32)
    config = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM",
        target_modules=spectune.default_targets(base),
        init_r=12,
        target_r=8,
        lora_alpha=48,
        orth_reg_weight=0.05,
        total_step=1,  # PEFT wants a number; the callback puts in the Trainer's, and the phases that go with it
    )
    model = get_peft_model(base, config)
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=options.output,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=max(1, options.steps // 10),
            save_steps=max(1, options.steps // 4),
            report_to="none",
        ),
        train_dataset=train,
        eval_dataset=validation[:200],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        callbacks=[spectune.AdaLoraCallback()],
    )
    trainer.train(resume_from_checkpoint=options.resume)
    print(trainer.evaluate())
    trainer.save_model(f"{options.output}/adapter")
    print(f"ranks: {sorted(model.base_model.engine.ranks().values())}")


if __name__ == "__main__":
    main()
