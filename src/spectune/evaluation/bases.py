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
    spread: bool = False,
) -> PreTrainedModel:
    """The base model with its weights in `dtype`, on `device`, in evaluation mode.

    Args:
        location: directory or hub id.
        revision: branch, tag or commit on the hub.
        dtype: precision of all weights, or of those that are not quantised.
        device: as torch names it.
        quantization: `int8` or `nf4` for bitsandbytes' linear maps, None for plain ones.
        trust_remote_code: run the code that the model brings.
        spread: on all GPUs of this machine, one after the other as they are filled, for a base that does not fit one
            (accelerate's big model inference; PEFT's AdaLoRA does not load on what it offloads to host memory).
    """
    options: dict[str, Any] = {"device_map": "sequential"} if spread else {}
    if quantization is not None:
        options = {"quantization_config": quantization_config(quantization, dtype), "device_map": {"": device}}
    with without_bar():
        loaded: Any = AutoModelForSeq2SeqLM.from_pretrained(
            location, revision=revision or "main", dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    _forget_lengths(loaded)
    _cast_routers(loaded)
    if spread:
        return cast(PreTrainedModel, loaded)
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
        # GPT-2's matrices are transposed, those beside them are not; it sees that by itself, matrix by matrix
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to .* but the target module.*")
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


def _forget_lengths(base: Any) -> None:
    """BigBird-Pegasus goes over to full attention at its first short batch and stays there: what it then says of a long
    text depends on what it has read before. Here each batch decides for itself."""
    encoder = base.get_encoder()
    if getattr(encoder, "attention_type", None) == "block_sparse" and hasattr(encoder, "set_attention_type"):
        blocks = 5 + 2 * base.config.num_random_blocks
        encoder.register_forward_pre_hook(_AttentionByLength(blocks * base.config.block_size), with_kwargs=True)


def _cast_routers(base: Any) -> None:
    """Routers of Switch and NLLB-MoE turn their weights into float32 when they are first used. In an evaluation that
    would make weights which no gradient can pass through any more."""
    for module in base.modules():
        if hasattr(module, "expert_capacity") and module.classifier.weight.is_floating_point():
            module.classifier.to(module.dtype)


class _AttentionByLength:
    """Before BigBird's encoder: the kind of attention that the batch's length allows. A class, so that it copies."""

    def __init__(self, longest_full: int) -> None:
        self.longest_full = longest_full

    def __call__(self, encoder: Any, args: Any, kwargs: Any) -> None:
        tokens = args[0] if args else kwargs.get("input_ids")
        length = (kwargs["inputs_embeds"] if tokens is None else tokens).shape[1]
        with torch.device("meta"):  # it makes new matrices, and then takes the old ones over
            encoder.set_attention_type("original_full" if length <= self.longest_full else "block_sparse")


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
