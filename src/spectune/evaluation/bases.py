"""The one way to load a base model: for the run, for `evaluate` and `predict`, and for the reload proof's child.

The child loads this file by its path, so it imports nothing of spectune.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as hub_logging


def load_base(
    location: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype,
    device: str,
    quantization: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The base model with its weights in `dtype`, on `device`, in evaluation mode.

    Args:
        location: directory or hub id.
        revision: branch, tag or commit on the hub.
        dtype: precision of all weights, or of those that are not quantised.
        device: as torch names it.
        quantization: `int8` or `nf4` for bitsandbytes' linear maps, None for plain ones.
        trust_remote_code: run the code that the model brings.
    """
    options: dict[str, Any] = {}
    if quantization is not None:
        options = {"quantization_config": quantization_config(quantization, dtype), "device_map": {"": device}}
    with without_bar():
        loaded: Any = AutoModelForSeq2SeqLM.from_pretrained(
            location, revision=revision or "main", dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    if quantization is None:
        return cast(PreTrainedModel, loaded.to(device))
    _keep_weights(loaded)
    return cast(PreTrainedModel, loaded)


@contextmanager
def without_bar() -> Iterator[None]:
    """transformers' bar over the weights of a model takes a line of its own, for a second; downloads keep theirs."""
    shown = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub_logging.enable_progress_bar()


@contextmanager
def without_peft_chatter() -> Iterator[None]:
    """Without what PEFT warns of while it puts an adapter on, and nobody can act on."""
    with warnings.catch_warnings():
        # it asks transformers by a name that will be dropped
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        # it looks for LoRA's kind of rank_pattern in AdaLoRA's, and finds none
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match.*")
        yield


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """bitsandbytes' 8-bit integers (LLM.int8), or 4-bit normal floats with quantised scales (QLoRA)."""
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_weights(base: PreTrainedModel) -> None:
    """Weights that evaluation does not change, and a log without a line for each matrix and batch.

    On processors with bfloat16 units bitsandbytes repacks 4-bit weights at their first use without gradient, with
    coarser scales. A run and the proof of its adapter must multiply the same numbers.
    """
    module: Any
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
