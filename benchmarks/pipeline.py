"""Examples a second of a whole fine-tuning: tokenise, one epoch, evaluate, save.

    python -m benchmarks.pipeline [--shape bart-base] [--task mr_sentiment] [--rows 128] [--validation-rows 64]

Contenders: PEFT's example (everything padded to 128), the same with dynamic padding, Seq2SeqTrainer with PEFT's AdaLoRA
and a callback, and `spectune.train`; the last two in float32 and, where the machine multiplies it faster, in bfloat16
(the Trainer by its own option and with weights held so). All see the same examples once, in equally many steps of equal
batches; the final loss is one function of the model that each left.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.alternate import Timings, alternate
from benchmarks.pipeline_peers import Counts, Job, by_example, by_trainer
from benchmarks.rows import LENGTH, bundled_tokenizer, read, write_base
from benchmarks.writing import table, write
from transformers.utils import logging as hub_logging

import spectune
from spectune.data.collation import collate
from spectune.evaluation.loss import evaluation_loss
from spectune.training.device import choose_device, fastest_dtype
from spectune.training.progress import Reporter


@dataclass
class Outcome:
    """What a contender's last round left."""

    counts: Counts = field(default_factory=Counts)
    loss: float = float("nan")
    proof: float = 0.0
    """Seconds of the reload proof, which only one contender has; they are in its time."""


def by_spectune(job: Job, counts: Counts, outcome: Outcome, *, dtype: str = "float32") -> Any:
    """`spectune.train`, from files to the proven adapter; the untrained model is not scored, as with the others."""
    files = {}
    for name, rows in (("train_file", job.train), ("validation_file", job.validation)):
        path = job.scratch / f"{name}.jsonl"
        records = [{"text": example.source, "target": example.target} for example in rows.examples]
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        files[name] = str(path)
    schedule = {name: value for name, value in job.schedule.items() if name != "total_step"}
    result = spectune.train(
        {
            "model": {"model_name_or_path": str(job.base), "dtype": dtype},
            "data": {
                **files,
                "text_column": "text",
                "target_column": "target",
                "task": "text2text",
                "max_source_length": LENGTH,
                "max_target_length": LENGTH,
            },
            "adapter": {
                "init_r": job.init_r,
                "target_r": job.target_r,
                "lora_alpha": 2 * job.init_r,
                "orth_reg_weight": 0.5,
                **schedule,
            },
            "train": {
                "output_dir": str(job.scratch / "spectune"),
                "num_train_epochs": 1,
                "per_device_train_batch_size": job.batch_size,
                "learning_rate": job.learning_rate,
            },
            "evaluation": {"eval_on_start": False, "metrics": ["exact_match"], "per_device_eval_batch_size": 32},
        },
        overwrite=True,
        reporter=Reporter(quiet=True),
    )
    counts.steps, counts.examples = result.summary["allocator_calls"], len(job.train.examples)
    outcome.proof = result.summary["timings"]["reload"]
    return spectune.load(result.adapter).model


def final_loss(model: Any, job: Job) -> float:
    """Cross entropy per target token of the validation rows, the same for every contender."""
    ids, labels = job.validation.tokenized.input_ids, job.validation.tokenized.labels
    batches = [
        collate(ids[start : start + 16], labels[start : start + 16], pad_token_id=0) for start in range(0, len(ids), 16)
    ]
    return evaluation_loss(model, batches)


def contenders() -> dict[str, Callable[..., Any]]:
    """By name; spectune's last is what `dtype: auto` takes on this machine."""
    found: dict[str, Callable[..., Any]] = {
        "peft example, padded to 128": partial(by_example, pads=True),
        "peft example, padded to the batch": partial(by_example, pads=False),
        "trainer, float32": by_trainer,
        "spectune, float32": by_spectune,
    }
    if fastest_dtype(choose_device(use_cpu=False)[0])[0] is torch.bfloat16:
        found["trainer, bfloat16 by its option"] = partial(by_trainer, autocast=True)
        found["trainer, bfloat16 weights"] = partial(by_trainer, dtype=torch.bfloat16)
        found["spectune, bfloat16"] = partial(by_spectune, dtype="bfloat16")
    return found


def measure(
    job: Job, rounds: int, warm_up: int = 0, chosen: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], Timings]:
    """Run the contenders in turn, or of them those that are named; rows for the table.

    Where none of spectune's is named all of them run.

    Raises:
        SystemExit: contenders saw other examples or made other steps.
    """
    outcomes: dict[str, Outcome] = {}
    every = contenders()
    wanted = set(chosen or every)
    if not any(map(_is_ours, wanted)):
        wanted |= set(filter(_is_ours, every))
    names = {name: work for name, work in every.items() if name in wanted}

    def run(name: str) -> float:
        outcome = outcomes[name] = Outcome()
        extra = {"outcome": outcome} if _is_ours(name) else {}
        start = time.perf_counter()
        model = names[name](job, outcome.counts, **extra)
        seconds = time.perf_counter() - start
        outcome.loss = final_loss(model, job)
        return seconds

    timings = alternate(
        {name: partial(run, name) for name in names},
        rounds=rounds,
        warm_up=warm_up,
        measure=lambda work: float(work()),
    )
    seen = {name: (outcome.counts.steps, outcome.counts.examples) for name, outcome in outcomes.items()}
    if set(seen.values()) != {(job.steps, len(job.train.examples))}:
        raise SystemExit(f"contenders differ in steps or examples: {seen}")
    ours = list(filter(_is_ours, names))
    return [_row(name, ours, timings, outcomes, len(job.train.examples)) for name in names], timings


def _is_ours(name: str) -> bool:
    return name.startswith("spectune")


def _row(name: str, ours: list[str], timings: Timings, outcomes: dict[str, Outcome], examples: int) -> dict[str, Any]:
    """A contender beside each precision of spectune that ran; its loss beside that of the first of them."""
    row: dict[str, Any] = {
        "contender": name,
        "seconds": timings.median(name),
        "of them proof": outcomes[name].proof,
        "examples a second": examples / timings.median(name),
        "final loss": outcomes[name].loss,
        "loss against spectune's": outcomes[name].loss / outcomes[ours[0]].loss - 1,
    }
    for own in ours:
        kind = own.rpartition(" ")[2]
        row[f"{kind} is faster by"] = timings.ratio(name, own)
        row[f"{kind} without proof"] = timings.median(name) / (timings.median(own) - outcomes[own].proof)
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="bart-base", help="a shape of benchmarks/shapes.py, random weights")
    parser.add_argument("--task", default="mr_sentiment", help="a data set under SPECTUNE_DATA")
    parser.add_argument("--rows", type=int, default=128, help="training rows; the whole split by a large number")
    parser.add_argument("--validation-rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--contender", nargs="+", choices=list(contenders()), default=[], help="fewer than all")
    options = parser.parse_args(arguments)
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    tokenizer = bundled_tokenizer()
    with tempfile.TemporaryDirectory() as scratch:
        write_base(options.shape, Path(scratch, "base"), tokenizer)
        job = Job(
            base=Path(scratch, "base"),
            train=read(options.task, "train", options.rows, tokenizer),
            validation=read(options.task, "validation", options.validation_rows, tokenizer),
            batch_size=options.batch,
            learning_rate=options.learning_rate,
            scratch=Path(scratch),
        )
        rows, timings = measure(job, options.rounds, chosen=options.contender)
    print(table(rows))
    facts = {"rows": len(job.train.examples), "validation_rows": len(job.validation.examples), "steps": job.steps}
    name = f"pipeline-{options.shape}-{options.task}"
    write(name, {**facts, "results": rows, "seconds": timings.values}, torch.device("cpu"))


if __name__ == "__main__":
    main()
