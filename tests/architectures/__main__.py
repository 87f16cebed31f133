"""Take every type through everything; write `RESULTS.json` and `docs/architectures.md`. A minute on one core."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from tests.architectures.builders import CONFIGS
from tests.architectures.table import PAGE, save
from tests.architectures.trial import Row, examine
from transformers.utils import logging


def main() -> int:
    """All rows; exit status 1 where something does not hold."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [_examined(name) for name in CONFIGS]
    save(rows)
    print(f"{len(rows)} rows into {PAGE}")
    return 0 if all(all(row.checks.values()) for row in rows) else 1


def _examined(name: str) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        row = examine(name, Path(directory))
    failed = [check for check, holds in row.checks.items() if not holds]
    print(f"{name:<28} {'all green' if not failed else 'NOT ' + ', '.join(failed)}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
