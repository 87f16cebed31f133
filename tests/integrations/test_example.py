"""`examples/seq2seq_trainer.py` as a person runs it: a process of its own, offline; and as its page shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "seq2seq_trainer.py"


def example(*options: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    command = [sys.executable, str(EXAMPLE), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_trains_and_saves(tmp_path: Path) -> None:
    output = example("--steps", "8", "--output", str(tmp_path))
    ranks = json.loads(output.splitlines()[-1].removeprefix("ranks: "))
    assert sum(ranks) == 8 * len(ranks)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (8, 1, 2)
    assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) > 0


def test_the_page_shows_what_the_example_does() -> None:
    code = (ROOT / "docs" / "trainer.md").read_text("utf-8").split("```python")[1].split("```")[0]
    shown = {line.strip().rstrip(",") for line in code.splitlines() if "callbacks=" in line or "total_step" in line}
    source = {line.strip().split("  #")[0].rstrip(",") for line in EXAMPLE.read_text("utf-8").splitlines()}
    assert len(shown) == 2
    assert {line.split("  #")[0].rstrip(",") for line in shown} <= source
