"""Asserts on what a run left behind: `python scripts/check_summary.py runs/demo`. Status 1 if a check fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectune.config import RunConfig
from spectune.runfile import load_run_config

LEAST_EXACT_MATCH = 0.90
FILES = (
    "journal.jsonl",
    "predictions.jsonl",
    "report.html",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/generation_config.json",
    "adapter/README.md",
)

Check = tuple[str, bool]


def checks(run: Path, summary: dict[str, Any], config: RunConfig) -> Iterator[Check]:
    """What must hold for the run, as (sentence, whether it does)."""
    exact_match = summary["metrics"]["exact_match"]["value"]
    yield f"exact match {exact_match:.3f} is at least {LEAST_EXACT_MATCH}", exact_match >= LEAST_EXACT_MATCH
    yield "the reloaded adapter writes the same texts", summary["reload_identical"] is True
    yield f"no mismatch in {summary['reload']['rows']} reloaded rows", summary["reload"]["mismatches"] == 0
    calls, steps = summary["allocator_calls"], summary["total_steps"]
    yield f"allocator calls {calls} equal the {steps} steps", calls == steps > 0
    yield f"freeze_step {summary['freeze_step']} lies inside the run", 0 < summary["freeze_step"] < steps
    ranks = summary["ranks"]
    budget = config.adapter.target_r * len(ranks)
    yield f"the ranks of {len(ranks)} matrices sum to the budget {budget}", sum(ranks.values()) == budget > 0
    yield "the ranks differ between matrices", len(set(ranks.values())) > 1
    for name in FILES:
        yield f"{name} is there", (run / name).is_file() and (run / name).stat().st_size > 0


def main() -> int:
    """Checks the run directory given as the only argument."""
    run = Path(sys.argv[1])
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    results = list(checks(run, summary, load_run_config(run / "run.yaml")))
    for sentence, holds in results:
        print(f"{'ok  ' if holds else 'FAIL'}  {sentence}")
    return 0 if all(holds for _, holds in results) else 1


if __name__ == "__main__":
    sys.exit(main())
