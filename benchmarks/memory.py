"""Peak memory of a training step, each contender in a fresh process of its own.

On a CPU: the highest resident memory while steps are taken, less that after the imports; what building the model cost
is forgotten before the steps. On a GPU: the most that torch had allocated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks.contenders import CONTENDERS, Setting, ready
from benchmarks.shapes import build, tokens

STEPS = 3


def peak_of(contender: str, **scene: Any) -> dict[str, float]:
    """Megabytes (10⁶ bytes) of one contender: {"built", "peak"}; see `measure` for the scene."""
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps({"contender": contender, **scene})]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(scene: Mapping[str, Any]) -> dict[str, float]:
    """What `peak_of` returns, in this process, which must have done nothing else.

    Args:
        scene: contender, shape, dtype, device, batch, source, target, init_r, target_r, threads.
    """
    torch.set_num_threads(scene["threads"])
    imported = _resident("VmRSS")
    base = build(scene["shape"], getattr(torch, scene["dtype"]), scene["device"])
    batch = tokens(base, scene["batch"], scene["source"], scene["target"])
    contender = ready(CONTENDERS[scene["contender"]](base, Setting(batch, scene["init_r"], scene["target_r"])))
    if scene["device"] == "cuda":
        built = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        built = _resident("VmRSS") - imported
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    for _ in range(STEPS):
        contender.step()
    peak = torch.cuda.max_memory_allocated() if scene["device"] == "cuda" else _resident("VmHWM") - imported
    return {"built": built / 1e6, "peak": peak / 1e6}


def _resident(field: str) -> int:
    """Bytes of this process's resident memory, now (VmRSS) or at most (VmHWM); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the system does not tell {field}")


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
