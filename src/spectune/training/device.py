"""Which device a run uses, and in which precision the frozen base is held."""

from __future__ import annotations

from typing import Any

import torch

from spectune.config import RunConfig
from spectune.errors import ConfigError


def choose_device(use_cpu: bool) -> tuple[torch.device, str | None]:
    """The device, and a line to print where a GPU is present but does not work."""
    if use_cpu or not torch.cuda.is_available():
        return torch.device("cpu"), None
    try:
        ones = torch.ones(8, 8, device="cuda")
        (ones @ ones).sum().item()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        return torch.device("cpu"), f"the GPU does not work ({reason}); going on with the CPU"
    return torch.device("cuda"), None


def choose_dtype(config: RunConfig, model_type: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Precision of the base's weights, and why.

    `auto` is bfloat16 where the hardware multiplies it natively, else float32; it is read from the processor's
    features, not timed, so that the same machine always chooses the same.

    Raises:
        ConfigError: float16 on a CPU, or for a T5 (its activations overflow).
    """
    wanted = config.model.dtype
    if wanted == "auto" and config.model.quantization == "int8":
        return torch.float32, "auto: PEFT's 8-bit layer returns float32"
    if wanted == "auto":
        native = native_bfloat16(device)
        reason = f"auto: {device.type} {'has' if native else 'has no'} bfloat16 units"
        return (torch.bfloat16 if native else torch.float32), reason
    if wanted == "float16" and device.type == "cpu":
        raise ConfigError("model.dtype float16 needs a GPU; use auto, float32 or bfloat16")
    if wanted == "float16" and "t5" in model_type:
        raise ConfigError(f"model.dtype float16 overflows in {model_type}; use auto, bfloat16 or float32")
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype, "as configured"


def native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself, read from its features."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
