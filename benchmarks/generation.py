"""How fast a fine-tuned adapter is evaluated by generation, loss included: PEFT's example, Seq2SeqTrainer, spectune.

    python -m benchmarks.generation [--shape bart-base] [--task mr_sentiment] [--rows 128] [--batch 32] [--rounds 3]

All contenders evaluate the same pruned adapter on the same rows in the same precision, and must write the same tokens.
A shape has random weights and hardly ever ends an output by itself: all outputs have the same length. `--adapter DIR`
takes a trained adapter instead, whose outputs end where it ends them.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.alternate import Timings, alternate
from benchmarks.rows import LENGTH, Rows, bundled_tokenizer, read, write_base
from benchmarks.writing import table, write
from peft import AdaLoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
from transformers.utils import logging as hub_logging

import spectune
from spectune.adapter.targets import default_targets
from spectune.evaluation.evaluate import evaluate_examples
from spectune.evaluation.generation import GenerationSettings, generation_config

INIT_R, TARGET_R = 12, 8


@dataclass(frozen=True)
class Work:
    """What every contender gets."""

    adapter: Path
    """With its base's directory in adapter_config.json."""
    rows: Rows
    tokenizer: Any
    settings: GenerationSettings


Found = tuple[list[str], float]
"""Texts in the order of the rows, and the loss as the contender defines it."""


class Numbers:
    """A tokenizer that writes token ids as numbers, so that equal texts are equal tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """`12 7 300` for each row, special tokens left out."""
        return [" ".join(str(int(token)) for token in row if int(token) not in self._special) for row in rows]


def make_adapter(shape: str, directory: Path, tokenizer: Any) -> Path:
    """A pruned adapter over random weights, as a run leaves it: PEFT's files, ranks unequal, ΔW not zero."""
    base = write_base(shape, directory / "base", tokenizer)
    schedule: dict[str, Any] = {
        "init_r": INIT_R,
        "target_r": TARGET_R,
        "tinit": 1,
        "tfinal": 1,
        "deltaT": 1,
        "total_step": 4,
    }
    options = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM", target_modules=default_targets(base), lora_alpha=2 * INIT_R, **schedule
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(base, options)
    engine = spectune.attach(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for bank in engine.store.banks:
            bank.rows.copy_(torch.randn(bank.rows.shape, generator=generator) * 0.05)
    for step in range(1, 5):
        for bank in engine.store.banks:
            bank.rows.grad = torch.randn(bank.rows.shape, generator=generator)
        model.base_model.update_and_allocate(step)
    model.save_pretrained(directory / "adapter")
    return directory / "adapter"


def load(work: Work, *, trainable: bool = False) -> Any:
    """The adapter on a fresh base, by plain PEFT; Seq2SeqTrainer asks for losses, which needs a trainable one."""
    config = PeftConfig.from_pretrained(str(work.adapter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForSeq2SeqLM.from_pretrained(config.base_model_name_or_path)
        model: Any = PeftModel.from_pretrained(base, work.adapter, is_trainable=trainable)
    return model.eval()


def by_example(work: Work) -> Callable[[Any], Found]:
    """PEFT's example: batches of 8 in the data's order, everything padded to 128; generation put beside its loss."""
    model = load(work, trainable=True)
    config = generation_config(model, work.settings)

    @torch.no_grad()
    def evaluate(tokenizer: Any) -> Found:
        collator = DataCollatorForSeq2Seq(work.tokenizer, padding="max_length", max_length=LENGTH)
        features, texts, losses = work.rows.features(), list[str](), list[float]()
        for start in range(0, len(features), 8):
            batch = dict(collator(features[start : start + 8]))
            sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
            losses.append(
                float(model(**sources, labels=batch["labels"][:, : work.rows.longest_target].contiguous()).loss)
            )
            generated = model.generate(**sources, generation_config=config)
            texts += [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
        return texts, sum(losses) / len(losses)

    return evaluate


def by_trainer(work: Work, batch_size: int) -> Callable[[Any], Found]:
    """Seq2SeqTrainer with predict_with_generate over PEFT's AdaLoRA, batches padded to their longest row."""
    model = load(work, trainable=True)
    config: GenerationConfig = generation_config(model, work.settings)
    model.get_base_model().generation_config = config
    scratch = tempfile.mkdtemp(prefix="spectune-benchmark-")
    arguments = Seq2SeqTrainingArguments(
        output_dir=scratch,
        per_device_eval_batch_size=batch_size,
        predict_with_generate=True,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    )
    collator = DataCollatorForSeq2Seq(work.tokenizer, model=model)

    def evaluate(tokenizer: Any) -> Found:
        trainer = Seq2SeqTrainer(model=model, args=arguments, data_collator=collator, processing_class=work.tokenizer)
        found = trainer.predict(work.rows.features(), generation_config=config)  # type: ignore[arg-type]
        ids = np.where(found.predictions == -100, work.tokenizer.pad_token_id, found.predictions)
        texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return texts, (found.metrics or {})["test_loss"]

    return evaluate


def by_spectune(work: Work) -> Callable[[Any], Found]:
    """What an evaluation inside `spectune train` and `spectune evaluate` does."""
    model = load(work)

    def evaluate(tokenizer: Any) -> Found:
        found = evaluate_examples(
            model,
            tokenizer,
            work.rows.examples,
            work.rows.tokenized,
            settings=work.settings,
            metric_names=["exact_match"],
            task="text2text",
        )
        return found.predictions, found.metrics["eval_loss"].value

    return evaluate


def contenders(work: Work) -> dict[str, Callable[[Any], Found]]:
    """By name; the second and third differ in the batch size alone."""
    batch = work.settings.batch_size
    return {
        "peft example": by_example(work),
        "trainer, 8 rows": by_trainer(work, 8),
        f"trainer, {batch} rows": by_trainer(work, batch),
        f"spectune, {batch} rows": by_spectune(work),
    }


def check_equal(found: dict[str, list[str]]) -> int:
    """Rows that any contender wrote otherwise than the last one; the benchmark demands none."""
    last = list(found.values())[-1]
    return sum(any(texts[row] != last[row] for texts in found.values()) for row in range(len(last)))


def measure(work: Work, rounds: int) -> tuple[list[dict[str, Any]], Timings]:
    """Check the outputs, then time all contenders in turn.

    Raises:
        SystemExit: the outputs are not the same.
    """
    all_of_them = contenders(work)
    numbers = Numbers(work.tokenizer)
    texts = {name: evaluate(numbers)[0] for name, evaluate in all_of_them.items()}
    different = check_equal(texts)
    if different:
        raise SystemExit(f"{different} of {len(work.rows.examples)} rows differ between the contenders")
    written = list(texts.values())[-1]
    if 4 * len(set(written)) < len(written):
        raise SystemExit(
            f"only {len(set(written))} of {len(written)} outputs differ; equal outputs would prove nothing"
        )
    tokens = sum(len(text.split()) for text in written)
    timings = alternate(
        {name: partial(evaluate, work.tokenizer) for name, evaluate in all_of_them.items()},
        rounds=rounds,
        warm_up=0,  # the check was the warm-up
    )
    ours = list(all_of_them)[-1]
    rows = [
        {
            "contender": name,
            "seconds": timings.median(name),
            "examples a second": len(work.rows.examples) / timings.median(name),
            "new tokens a second": tokens / timings.median(name),
            "spectune is faster by": timings.ratio(name, ours),
        }
        for name in all_of_them
    ]
    return rows, timings


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="bart-base", help="a shape of benchmarks/shapes.py, random weights")
    parser.add_argument("--adapter", type=Path, help="a trained adapter, in the place of a shape")
    parser.add_argument("--task", default="mr_sentiment", help="a data set under SPECTUNE_DATA")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="rows generated together")
    parser.add_argument("--new-tokens", type=int, help="most tokens of an output; the longest target plus 2 by default")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    tokenizer = bundled_tokenizer()
    rows = read(options.task, "test", options.rows, tokenizer)
    settings = GenerationSettings(
        max_new_tokens=options.new_tokens or rows.longest_target + 2, batch_size=options.batch
    )
    with tempfile.TemporaryDirectory() as scratch:
        adapter = options.adapter or make_adapter(options.shape, Path(scratch), tokenizer)
        found, timings = measure(Work(adapter, rows, tokenizer, settings), options.rounds)
    print(table(found))
    name = f"generation-{'trained' if options.adapter else options.shape}-{options.task}"
    facts = {"rows": len(rows.examples), "max_new_tokens": settings.max_new_tokens, "batch": options.batch}
    write(name, {**facts, "results": found, "seconds": timings.values}, torch.device("cpu"))


if __name__ == "__main__":
    main()
