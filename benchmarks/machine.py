"""What a number was measured on: versions and machine, without host names or paths."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from spectune.training.device import native_bfloat16
from spectune.training.outputs import versions


def facts(device: torch.device) -> dict[str, Any]:
    """{"versions", "machine"} of this process, as JSON can hold them."""
    return {"versions": versions(), "machine": _machine(device)}


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_units": native_bfloat16(device),
    }


def _processor() -> str:
    """The processor's own name, where the system tells."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
