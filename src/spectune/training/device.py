"""Which device a run uses, and in which precision the frozen base is held."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

from spectune.config import AdapterConfig, DataConfig, RunConfig
from spectune.errors import ConfigError
from spectune.training.bfloat16 import bfloat16_gain

_OVERFLOWING = ("t5", "switch_transformers")  # T5 and what is made of it
CLEAR_GAIN = 1.2  # below, rounding to 8 bits of precision is not worth it
_WITH_PROMPTS = "mvp with use_prompt"
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch's layer above it
_KEPT_KERNELS = "256"
_FEWER_SHAPES = 8  # tokens that lengths are a multiple of


def choose_device(use_cpu: bool) -> tuple[torch.device, str | None]:
    """The device, and a line to print where a GPU is present but does not work."""
    _bound_kernel_caches()
    if use_cpu:
        return torch.device("cpu"), None
    with warnings.catch_warnings(record=True) as complaints:  # of a driver that is too old, in several lines
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        return torch.device("cpu"), _fallback(str(complaints[0].message)) if complaints else None
    try:
        ones = torch.ones(8, 8, device="cuda")
        (ones @ ones).sum().item()
    except RuntimeError as error:
        return torch.device("cpu"), _fallback(str(error))
    return torch.device("cuda"), None


def _bound_kernel_caches() -> None:
    """oneDNN keeps 1,024 kernels with their work space, one for each shape that it has met in bfloat16: with batches of
    all lengths that came to 700 MB beside a model of 12. These are enough for lengths that are multiples of
    `_FEWER_SHAPES`. It reads this at its first use."""
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, _KEPT_KERNELS)


def _fallback(reason: str) -> str:
    lines = reason.strip().splitlines() or ["no reason given"]
    return f"the GPU does not work ({lines[0].strip()}); going on with the CPU"


def kind_of(base_config: Any) -> str:
    """`model_type` and what else of a base's configuration decides about precision."""
    with_prompts = base_config.model_type == "mvp" and getattr(base_config, "use_prompt", False)
    return _WITH_PROMPTS if with_prompts else str(base_config.model_type)


def check_dtype(wanted: str, model_type: str) -> None:
    """Refuse a precision that this kind of base cannot work in, on whatever machine.

    Raises:
        ConfigError: float16 for a T5 (its activations overflow); less than float32 for MVP's prompts.
    """
    # transformers makes the attention mask of prompts in float32, and cannot multiply with it
    if model_type == _WITH_PROMPTS and wanted not in ("auto", "float32"):
        raise ConfigError(f"model.dtype {wanted}: {model_type} works in float32 alone; use auto or float32")
    if wanted == "float16" and any(kin in model_type for kin in _OVERFLOWING):
        raise ConfigError(f"model.dtype float16 overflows in {model_type}; use auto, bfloat16 or float32")


def choose_dtype(config: RunConfig, model_type: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Precision of the base's weights, and why.

    `auto` is bfloat16 where the hardware has units for it and multiplies it clearly faster, as measured once; else
    float32. The same machine always chooses the same: without a kept measurement the units decide.

    Args:
        config: the run's.
        model_type: of the base, as `kind_of` says.
        device: where it will be.

    Raises:
        ConfigError: float16 on a CPU, or what `check_dtype` refuses.
    """
    wanted = config.model.dtype
    check_dtype(wanted, model_type)
    if model_type == _WITH_PROMPTS:
        return torch.float32, f"{model_type} works in float32 alone"
    if wanted == "auto" and config.model.quantization == "int8":
        return torch.float32, "auto: PEFT's 8-bit layer returns float32"
    if wanted == "auto" and _trains_whole_modules(config.adapter):
        return torch.float32, "auto: modules trained in full have the base's precision, and bfloat16 loses small steps"
    if wanted == "auto":
        return fastest_dtype(device)
    if wanted == "float16" and device.type == "cpu":
        raise ConfigError("model.dtype float16 needs a GPU; use auto, float32 or bfloat16")
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype, "as configured"


def precision_remark(config: RunConfig, dtype: torch.dtype) -> str | None:
    """What a base in low precision does to modules that are trained in full; triplets are always float32."""
    if dtype == torch.float32 or not _trains_whole_modules(config.adapter):
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f"adapter.modules_to_save and adapter.bias train in the base's {name}, where steps below one part in some "
        "hundred are lost; set model.dtype: float32"
    )


def _trains_whole_modules(adapter: AdapterConfig) -> bool:
    return bool(adapter.modules_to_save) or adapter.bias != "none"


def fastest_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """float32 or bfloat16, and why. Processors without units are not timed: emulated products take long."""
    if not native_bfloat16(device):
        return torch.float32, f"auto: {device.type} has no bfloat16 units"
    gain = bfloat16_gain(device)
    if gain is None:
        return torch.bfloat16, f"auto: {device.type} has bfloat16 units; how fast they are could not be kept"
    if gain < CLEAR_GAIN:
        return torch.float32, f"auto: {device.type} multiplies bfloat16 only {gain:.2f} times as fast"
    return torch.bfloat16, f"auto: {device.type} multiplies bfloat16 {gain:.2f} times as fast"


def multiplied_in(config: RunConfig, held: torch.dtype) -> torch.dtype:
    """What the layers multiply in, where the base is held in `held`."""
    return torch.bfloat16 if config.train.mixed_precision == "bf16" else held


def padding_multiple(data: DataConfig, device: torch.device, dtype: torch.dtype) -> int:
    """`data.pad_to_multiple_of` with `auto` resolved.

    oneDNN makes a kernel for every shape that it has not kept, in milliseconds; in float32 another library multiplies.
    """
    if data.pad_to_multiple_of != "auto":
        return data.pad_to_multiple_of
    return _FEWER_SHAPES if device.type == "cpu" and dtype is torch.bfloat16 else 1


def native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself, read from its features."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
