"""The small world that runs are tortured in: random T5 and BART, a table, forty steps with everything switched on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import make_tokenizer
from tests.training.conftest import proof_in_this_process, tiny_model

import spectune
from spectune.errors import RunError
from spectune.files import OLD, PARTIAL
from spectune.manifest import sha256, verify_manifest
from spectune.training import finish
from spectune.training.directory import list_checkpoints, step_of
from spectune.training.progress import Reporter

STEPS = 40
Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class World:
    """Directories of the bases, the table, and room for runs."""

    root: Path

    def base(self, kind: str) -> Path:
        """A model with its tokenizer."""
        return self.root / kind

    @property
    def table(self) -> Path:
        """46 rows, text and label."""
        return self.root / "rows.csv"


def make_world(root: Path) -> World:
    """Write bases and table below `root`."""
    world, tokenizer = World(root), make_tokenizer()
    for kind in ("t5", "bart"):
        model = tiny_model(kind, len(tokenizer))
        if kind == "bart":  # now and then no adapted layer takes part at all
            model.config.encoder_layerdrop = model.config.decoder_layerdrop = 0.2
        model.save_pretrained(world.base(kind))
        tokenizer.save_pretrained(world.base(kind))
    words = ("profit", "sales", "outlook", "demand", "the order book")
    rows = [f"{words[n % 5]} number {n} {'rose' if n % 2 else 'fell'},{n % 2}" for n in range(46)]
    world.table.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return world


def settings(world: World, kind: str, output: Path, **changes: dict[str, Any]) -> Settings:
    """A run of forty steps: accumulation, dropout everywhere, label smoothing, bucketing, evaluations in between."""
    made: Settings = {
        "model": {"model_name_or_path": str(world.base(kind))},
        "data": {
            "train_file": str(world.table),
            "label_names": {0: "negative", 1: "positive"},
            "validation_split": 0.2,
            "max_source_length": 48,
            "max_target_length": 8,
        },
        "adapter": {"init_r": 4, "target_r": 2, "tinit": 6, "tfinal": 16, "deltaT": 5, "lora_dropout": 0.1},
        "train": {
            "output_dir": str(output),
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "label_smoothing_factor": 0.1,
            "learning_rate": 5e-3,
            "logging_steps": 7,
            "save_steps": 4,
            "use_cpu": True,
        },
        "evaluation": {"eval_strategy": "steps", "eval_steps": 16, "eval_on_start": False},
    }
    for section, values in changes.items():
        made[section] = made[section] | values
    return made


def train(run: Settings, *, resume: bool | str = False, overwrite: bool = False) -> None:
    """The run, quietly, with the reload proof in this process."""
    module: Any = finish
    prove_reload, module.prove_reload = module.prove_reload, proof_in_this_process
    try:
        spectune.train(run, resume=resume, overwrite=overwrite, reporter=Reporter(quiet=True))
    finally:
        module.prove_reload = prove_reload


def directory(run: Settings) -> Path:
    """The run directory."""
    return Path(run["train"]["output_dir"])


def outcome(run: Settings) -> dict[str, Any]:
    """What must not depend on interruptions: the export, the last state, the journal, the metrics."""
    root = directory(run)
    last = list_checkpoints(root / "checkpoints")[-1]
    summary = json.loads((root / "summary.json").read_text("utf-8"))
    return {
        "export": {name: sha256(root / "adapter" / f"{name}.safetensors") for name in ("adapter_model", "importance")},
        "state": states(root)[step_of(last)],
        "journal": journal_facts(root),
        "metrics": summary["metrics"],
        "ranks": summary["ranks"],
    }


def states(root: Path) -> dict[int, tuple[str, Any]]:
    """Every checkpoint by step: the hash of its tensors (weights, moments, averages, random states), and its values."""
    found = {}
    for path in list_checkpoints(root / "checkpoints"):
        values = json.loads((path / "state.json").read_text("utf-8"))
        del values["progress"]["journal"]  # in bytes, and the journal also says how fast it went
        found[step_of(path)] = (sha256(path / "state.safetensors"), values)
    return found


def journal_facts(root: Path) -> list[dict[str, Any]]:
    """The journal without what the clock said."""
    events = [json.loads(line) for line in (root / "journal.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in event.items() if k not in ("seconds", "tokens_per_second")} for event in events]


def as_if_killed_at(root: Path, step: int, copy: Path) -> None:
    """Copy a finished run as a kill right after the checkpoint of `step` would have left it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("adapter", "summary.json", "predictions.jsonl"))
    for path in list_checkpoints(copy / "checkpoints"):
        if step_of(path) > step:
            shutil.rmtree(path)


def damage(root: Path) -> list[str]:
    """What is not whole in a run directory: must be nothing, whatever happened to its process."""
    wrong = []
    for path in [*(root / "checkpoints").glob("step-*"), *root.glob("adapter")]:
        if path.suffix in (PARTIAL, OLD):
            continue
        try:
            verify_manifest(path)
        except RunError as error:
            wrong.append(str(error))
    return wrong
