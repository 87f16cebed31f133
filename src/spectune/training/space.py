"""Room on the disk, asked for before a run starts and not found missing at its first save."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.errors import RunError
from spectune.training.directory import list_checkpoints
from spectune.training.session import Session

_BANK_COPIES = 5  # the triplets, two moments, two importance averages
_EXTRA_COPIES = 3  # modules trained in full have no averages
_BESIDE = 16 * 2**20  # tokenizer, journal, random states, predictions, report


def check_space(session: Session, engine: AdaLoraEngine, *, replaces: bool) -> None:
    """Refuse a run that its disk cannot hold.

    Counted are the checkpoints that are kept (`save_total_limit` and the best), one being written, and the adapter
    twice, since the new one is whole before the old one goes.

    Args:
        replaces: an earlier run in the directory goes before the first checkpoint.

    Raises:
        RunError: says how much is free and how much it takes.
    """
    banks = _bytes([bank.rows for bank in engine.store.banks])
    extra = _bytes(engine.parameters()) - banks
    checkpoint = _BANK_COPIES * banks + _EXTRA_COPIES * extra
    limit, paths = session.config.train.save_total_limit, session.paths
    there = 0 if replaces else len(list_checkpoints(paths.checkpoints))
    more = max(1, limit + 2 - there)
    needed = more * checkpoint + 2 * (banks + extra) + _BESIDE
    free = shutil.disk_usage(paths.root).free + (paths.size if replaces else 0)
    if free < needed:
        raise RunError(
            f"{paths.root} has {free / 1e6:,.0f} MB of free disk, and the run takes about {needed / 1e6:,.0f} "
            f"MB ({more} more checkpoints of {checkpoint / 1e6:,.1f} MB); make room, lower train.save_total_limit "
            f"({limit}) or name another train.output_dir"
        )


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
