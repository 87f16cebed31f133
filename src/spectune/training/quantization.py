"""Whether a quantised base can be trained here: the library, and its paths for the device."""

from __future__ import annotations

from typing import Any

import torch

from spectune.errors import ConfigError, first_line

_WIDTH = 64  # of the smallest layer that every kernel of bitsandbytes takes


def check_quantization(kind: str, device: torch.device) -> None:
    """Run one small quantised layer forward and backward on the device.

    Raises:
        ConfigError: bitsandbytes cannot be imported, or has no path for this device.
    """
    try:
        import bitsandbytes
    except Exception as error:  # whatever a broken native library raises
        raise ConfigError(f"model.quantization {kind}: bitsandbytes cannot be imported ({first_line(error)})") from None
    layers: Any = bitsandbytes.nn
    try:
        layer = (
            layers.Linear8bitLt(_WIDTH, _WIDTH, has_fp16_weights=False)
            if kind == "int8"
            else layers.Linear4bit(_WIDTH, _WIDTH, quant_type="nf4", compute_dtype=torch.float32)
        )
        inputs = torch.ones(2, _WIDTH, device=device, requires_grad=True)
        layer.to(device)(inputs).sum().backward()
    except Exception as error:
        raise ConfigError(
            f"bitsandbytes has no {kind} for this {device.type} ({first_line(error)}); leave model.quantization out"
        ) from None
