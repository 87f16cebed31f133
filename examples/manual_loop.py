"""The six steps by hand: torch, transformers, PEFT and `spectune.attach`, on the bundled model and data.

    python examples/manual_loop.py --steps 600

The loop in step 4 is the one that PEFT's documentation gives for AdaLoRA, and one call that removes the dead terms.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import AdaLoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import logging

import spectune
from spectune.starter.bundle import data_files, model_directory

WORDS = {"0": "negative", "1": "neutral", "2": "positive"}
BATCH = 32
Row = tuple[str, str]
"""A text and its target."""


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, labels as words."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], WORDS[row["label"]]) for row in csv.DictReader(file)]


def batches(rows: list[Row], tokenizer: PreTrainedTokenizerBase, steps: int) -> Iterator[BatchEncoding]:
    """`steps` training batches, shuffled anew for every epoch; padding in the labels is −100, which no loss counts."""
    order: list[Row] = []
    shuffle = random.Random(0)
    for _ in range(steps):
        if len(order) < BATCH:
            order = shuffle.sample(rows, len(rows))
        chosen, order = order[:BATCH], order[BATCH:]
        texts, targets = zip(*chosen, strict=True)
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
        labels = tokenizer(text_target=list(targets), padding=True, return_tensors="pt")
        batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        yield batch


def write(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], size: int = 64) -> list[str]:
    """What the model writes for each row; it never sees the target."""
    model.eval()
    texts: list[str] = []
    for start in range(0, len(rows), size):
        sources = [text for text, _ in rows[start : start + size]]
        batch = tokenizer(sources, padding=True, truncation=True, max_length=128, return_tensors="pt")
        tokens = model.generate(**batch, max_new_tokens=8, num_beams=1, do_sample=False)
        texts += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def exact_match(texts: list[str], rows: list[Row]) -> float:
    """The share of texts that are their row's target."""
    return sum(text == target for text, (_, target) in zip(texts, rows, strict=True)) / len(rows)


def prepare(validation_rows: int | None) -> tuple[list[Row], list[Row], PreTrainedTokenizerBase]:
    """Step 1."""
    print("1. Prepare data")
    train_file, validation_file = data_files()
    train, validation = read(train_file), read(validation_file)[:validation_rows]
    print(f"   {len(train):,} rows to train on, {len(validation):,} to evaluate on; the first: {train[0]}")
    return train, validation, AutoTokenizer.from_pretrained(model_directory())


def configure(steps: int) -> AdaLoraConfig:
    """Step 2: warm-up for a tenth of the run, frozen for half of it."""
    print("2. Configure AdaLoRA")
    config = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM",
        target_modules="all-linear",
        init_r=12,
        target_r=8,
        lora_alpha=48,
        tinit=steps // 10,
        tfinal=steps // 2,
        deltaT=max(1, steps // 500),
        total_step=steps,
        orth_reg_weight=0.05,
    )
    print(f"   warm-up to step {config.tinit}, decrease to step {steps - config.tfinal}, frozen to step {steps}")
    return config


def adapt(config: AdaLoraConfig) -> tuple[PeftModel, spectune.AdaLoraEngine]:
    """Step 3."""
    print("3. Load and adapt")
    base = AutoModelForSeq2SeqLM.from_pretrained(model_directory(), dtype=torch.float32)
    model = get_peft_model(base, config)
    engine = spectune.attach(model)
    print(
        f"   {len(engine.ranks())} matrices; {engine.target_budget} of {engine.initial_budget} rank-one terms will stay"
    )
    return model, engine


def train_with_allocation(
    model: PeftModel, engine: spectune.AdaLoraEngine, rows: list[Row], tokenizer: PreTrainedTokenizerBase, steps: int
) -> None:
    """Step 4. The loss that the model returns in training is cross entropy plus penalty, as in PEFT."""
    print("4. Train with rank allocation")
    warm_up = max(1, steps // 20)
    optimizer = torch.optim.AdamW(engine.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min((done + 1) / warm_up, 1 - done / (steps + 1)))
    model.train()
    for step, batch in enumerate(batches(rows, tokenizer, steps), start=1):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        rate.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        if step == engine.schedule.freeze_step:
            print(f"   survivors fixed; {engine.compact(optimizer)} terms removed from memory")
        if step % max(1, steps // 10) == 0:
            print(f"   step {step:>4}: loss {loss.item():.3f}, {sum(engine.ranks().values())} live terms")


def evaluate(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], before: float) -> list[str]:
    """Step 5."""
    print("5. Evaluate by generation")
    texts = write(model, tokenizer, rows)
    print(f"   exact match {exact_match(texts, rows):.3f} (before training {before:.3f})")
    for text, (source, target) in list(zip(texts, rows, strict=True))[:3]:
        print(f"   {source!r} → {text!r} ({target!r})")
    return texts


def save_and_reload(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], texts: list[str]) -> int:
    """Step 6: plain PEFT loads what was saved; returns the number of rows for which it writes another text."""
    print("6. Save and reload")
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        # PEFT reads AdaLoRA's rank pattern as if it were LoRA's, and says that it ignores it
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match")
        model.save_pretrained(directory)
        name = PeftConfig.from_pretrained(directory).base_model_name_or_path
        fresh = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32)
        reloaded = PeftModel.from_pretrained(fresh, directory)
        size = (Path(directory) / "adapter_model.safetensors").stat().st_size
    different = sum(a != b for a, b in zip(texts, write(reloaded, tokenizer, rows), strict=True))
    print(f"   {size / 1000:,.0f} kB; plain PEFT writes the same text for {len(rows) - different} of {len(rows)} rows")
    return different


def main() -> int:
    """Run the six steps; exit status 1 if one text differs after the reload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps")
    parser.add_argument("--rows", type=int, default=None, help="validation rows to generate for (default: all)")
    options = parser.parse_args()
    torch.manual_seed(0)
    logging.disable_progress_bar()
    train, validation, tokenizer = prepare(options.rows)
    config = configure(options.steps)
    model, engine = adapt(config)
    before = exact_match(write(model, tokenizer, validation), validation)
    train_with_allocation(model, engine, train, tokenizer, options.steps)
    texts = evaluate(model, tokenizer, validation, before)
    return 1 if save_and_reload(model, tokenizer, validation, texts) else 0


if __name__ == "__main__":
    raise SystemExit(main())
