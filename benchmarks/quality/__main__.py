"""Quality at equal saved size, by generation, with the same search of the learning rate for every method.

    python -m benchmarks.quality search --tasks clinc150 scan             each method, validation only
    python -m benchmarks.quality confirm --tasks clinc150 --methods spectune "PEFT LoRA" --seeds 1 2 3
    python -m benchmarks.quality curve --tasks clinc150 --methods spectune "PEFT LoRA"      validation on the way
    python -m benchmarks.quality table --write README.md docs/quality.md --figure docs/ranks.svg

A run is a line of results/quality.jsonl; what is there is not run again, so that a benchmark that was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.quality.methods import METHODS
from benchmarks.quality.pool import Pool, Wanted
from benchmarks.quality.rank_figure import confirmed_ranks, figure
from benchmarks.quality.report import report, write_between
from benchmarks.quality.results import Results
from benchmarks.quality.tasks import TASKS
from benchmarks.writing import RESULTS

FILE = RESULTS / "quality.jsonl"
POINTS = 8
"""Validation scores on the way of a run for a curve."""


def main() -> None:
    """Parse, run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["search", "confirm", "curve", "table"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2])
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 of a search, else 1 to 3")
    parser.add_argument("--base", default="starter", help="`starter` or a directory")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--points", type=int, default=0, help="validation scores on the way; of a curve by default 8")
    parser.add_argument("--output", type=Path, default=FILE)
    parser.add_argument("--write", nargs="*", type=Path, default=[], help="files whose marked part becomes the tables")
    parser.add_argument("--figure", type=Path, help="where the ranks of `spectune` are drawn")
    options = parser.parse_args()
    results = Results(options.output)
    if options.stage == "table":
        print(report(results))
        for path in options.write:
            write_between(path, results)
        found = confirmed_ranks(results, "spectune", min(options.ranks))
        if options.figure is not None and found:
            options.figure.write_text(figure(found), encoding="utf-8")
        return
    seeds = options.seeds or ([0] if options.stage == "search" else [1, 2, 3])
    wanted = Wanted(options.stage, options.tasks, options.methods, options.ranks, seeds)
    points = options.points or (POINTS if options.stage == "curve" else 0)
    Pool(results, wanted, base=options.base, jobs=options.jobs, points=points).run()


if __name__ == "__main__":
    main()
