"""A model in place of the real one: its modules and the engine's arithmetic, over tensors without memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration

from spectune.adapter.linear import Factors, adapted_linear
from spectune.config import RunConfig
from spectune.training.checkpointing import enable_checkpointing

_SIZES: dict[str, tuple[str, ...]] = {  # of a stack: BART's name, and what other families call it
    "layers": ("{}_layers", "num_{}_layers", "num_layers", "num_hidden_layers"),
    "attention_heads": ("{}_attention_heads", "num_{}_attention_heads", "num_heads", "num_attention_heads"),
    "ffn_dim": ("{}_ffn_dim", "d_ff", "intermediate_size"),
}


def stand_in(
    skeleton: Any, config: RunConfig, targets: Iterable[str], quantized: Iterable[str], dtype: torch.dtype
) -> Any:
    """The run's model as far as memory goes, to be made and used inside a `FakeTensorMode`.

    Args:
        skeleton: a copy of the base on the meta device, which becomes the result.
        targets: names of the matrices to adapt.
        quantized: names of those held in 8 or 4 bits.
        dtype: of all other weights.
    """
    model = skeleton
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype))
    model.tie_weights()
    model.requires_grad_(False)
    packed, adapted = set(quantized), set(targets)
    bases = {name: model.get_submodule(name) for name in packed | adapted}
    for name, layer in bases.items():
        base = _Unpacked(layer) if name in packed else copy.copy(layer)
        layer.forward = _adapted(base, layer, config, dtype) if name in adapted else base.forward
    _train_beside(model, config)
    if config.train.gradient_checkpointing:
        enable_checkpointing(model, use_reentrant=config.train.use_reentrant)
    if getattr(model.config, "decoder_start_token_id", None) is None:  # any token is as large as another
        model.config.decoder_start_token_id = 0
    model.get_base_model = lambda: model  # as a `PeftModel` has it
    return model


def bart_like(config: Any) -> Any:
    """A BART of the sizes that `config` names, on the meta device, for families whose forward reads its data (LED)."""
    wanted = {"vocab_size": ("vocab_size",), "d_model": ("d_model", "hidden_size")}
    for stack in ("encoder", "decoder"):
        wanted |= {f"{stack}_{size}": tuple(name.format(stack) for name in names) for size, names in _SIZES.items()}
    found = {
        size: next((getattr(config, name) for name in names if hasattr(config, name)), None)
        for size, names in wanted.items()
    }
    sizes = {size: value for size, value in found.items() if value is not None}
    for heads in ("encoder_attention_heads", "decoder_attention_heads"):  # mT5's need not divide the width
        if heads in sizes and "d_model" in sizes:
            sizes[heads] = math.gcd(sizes[heads], sizes["d_model"])
    with torch.device("meta"):
        model = BartForConditionalGeneration(BartConfig(**sizes))
    model.tie_weights()
    return model


def _adapted(base: Any, layer: Any, config: RunConfig, dtype: torch.dtype) -> Any:
    """The forward of `layer` with triplets of full rank, as the engine computes it."""
    rank, dropout = config.adapter.resolved_init_r, nn.Dropout(config.adapter.lora_dropout)
    low = torch.bfloat16 if config.train.mixed_precision == "bf16" else dtype
    factors = Factors(None)
    outputs, inputs = reversed(layer.weight.shape) if type(layer).__name__ == "Conv1D" else layer.weight.shape
    factors.q = torch.empty(rank, inputs, dtype=low, requires_grad=True)
    factors.s = torch.empty(rank, outputs, dtype=low, requires_grad=True)

    def forward(x: Tensor) -> Tensor:
        return adapted_linear(base, x, factors, dropout if dropout.p and layer.training else None)

    return forward


def _train_beside(model: Any, config: RunConfig) -> None:
    """Biases and modules that are trained as a whole keep more for their backward pass."""
    whole = tuple(config.adapter.modules_to_save or ())
    for name, parameter in model.named_parameters():
        path = name.split(".")
        if (config.adapter.bias == "all" and "bias" in name) or any(part in whole for part in path):
            parameter.requires_grad_(True)


class _Unpacked(nn.Linear):
    """bitsandbytes' maps: the weight is unpacked for each product, forward and backward, and kept by none."""

    def __init__(self, layer: Any) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) → (…, out)."""
        return cast(Tensor, cast(Any, _UnpackedProduct).apply(x, self.out_features, self.bias))


class _UnpackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int, bias: Tensor | None) -> Tensor:
        ctx.shape = width, x.shape[-1]
        return F.linear(x, x.new_empty(ctx.shape), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ grad.new_empty(ctx.shape), None, None
