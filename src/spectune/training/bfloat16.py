"""How much faster this machine multiplies in bfloat16 than in float32: measured once for each processor and torch.

The number is kept in the user's cache directory and the first one stands, so that a machine always chooses the same
precision: a run in another one could not be resumed. Where it cannot be kept there is no number.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

_SHAPE = (512, 768, 768)  # rows, in features, out features: a batch of texts through a matrix of a base-size model
_REPEATS, _WARM_UPS = 7, 2


def bfloat16_gain(device: torch.device) -> float | None:
    """Time of a product in float32 over its time in bfloat16, as first measured on this machine.

    None where the measurement cannot be kept. Takes well under a second the first time, a file's reading later.
    """
    facts = _facts(device)
    try:
        directory = cache_directory()
        path = directory / f"bfloat16-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
        known = _read(path)
        if known is not None:
            return known
        directory.mkdir(parents=True, exist_ok=True)
        return _keep_first(path, facts, measure_gain(device))
    except (OSError, RuntimeError):  # no home, no room, no right to write
        return None


def cache_directory() -> Path:
    """Where this user's programs keep what they can find out again."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "spectune"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "spectune" / "Cache"
    home = Path.home()
    return home / "Library" / "Caches" / "spectune" if sys.platform == "darwin" else home / ".cache" / "spectune"


def measure_gain(device: torch.device) -> float:
    """The best of a few products in each precision, in turns."""
    rows, width, out = _SHAPE
    operands = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(rows, width, device=device, dtype=dtype)
        operands[dtype] = x, torch.ones(out, width, device=device, dtype=dtype)
    best = dict.fromkeys(operands, float("inf"))
    for turn in range(_WARM_UPS + _REPEATS):
        for dtype, (x, weight) in operands.items():
            seconds = _seconds(x, weight)
            if turn >= _WARM_UPS:
                best[dtype] = min(best[dtype], seconds)
    return best[torch.float32] / best[torch.bfloat16]


def _seconds(x: Tensor, weight: Tensor) -> float:
    started = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def _facts(device: torch.device) -> dict[str, str]:
    """What the number depends on."""
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else f"{platform.machine()} {platform.processor()}"


def _read(path: Path) -> float | None:
    """The number of a whole file; a missing or damaged one counts as none."""
    try:
        gain = json.loads(path.read_text(encoding="utf-8"))["gain"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return float(gain) if isinstance(gain, int | float) and gain > 0 else None


def _keep_first(path: Path, facts: dict[str, str], gain: float) -> float | None:
    """Write the number unless another process has; the number that is kept."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps({**facts, "gain": round(gain, 3)}) + "\n", encoding="utf-8")
    try:
        if _read(path) is None:
            path.unlink(missing_ok=True)  # damaged
        os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    return _read(path)
