"""A base shared out among processes trains what a whole one trains, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parallel.conftest import Config, Group, configuration, losses

from spectune.formats.adapter_files import WEIGHTS
from spectune.manifest import sha256


def weights(config: Config) -> str:
    return sha256(Path(config["train"]["output_dir"]) / "adapter" / WEIGHTS)


def test_the_same_run(group: Group, bases: dict[str, Path], table: Path, tmp_path: Path) -> None:
    found, ends = [], []
    for fsdp in (False, True):
        config = configuration(
            bases["t5"], table, tmp_path / f"run-{fsdp}",
            evaluation={"eval_strategy": "steps", "eval_steps": 5, "constrain_labels": True, "per_device_eval_batch_size": 2},
        )
        config["train"] |= {"fsdp": fsdp}
        import time
        t=time.time()
        found.append(group.run(2, config))
        print("time", fsdp, time.time()-t)
        assert [one["error"] for one in found[-1]] == [None, None], found[-1]
        ends.append(weights(config))
    print([f[0]["summary"] for f in found])
    assert losses(tmp_path / "run-True") == losses(tmp_path / "run-False")
    assert ends[0] == ends[1]
