"""The adapted maps while an evaluation runs: PEFT's own arithmetic, operation for operation, without its overhead.

What the reload proof compares are texts, and a text can hang on the last bit of a logit. So an evaluation computes
what a plain PEFT load computes, in the same order and precision: x W ᵀ + b, then (x (A·E)ᵀ Bᵀ) · α / (r + 1e-5), added.
Merged weights (and our own fused order) round otherwise, which a near tie need not survive; see LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.adalora.layer import AdaLoraLayer, SVDLinear
from torch import Tensor, nn
from torch.nn import functional as F

from spectune.adapter.linear import is_bare
from spectune.adapter.peft_classes import HostedLayer, HostedTuner, plain_class
from spectune.adapter.peft_entries import ENTRIES, rank_pattern

Forward = Callable[..., Tensor]


@contextmanager
def plain_arithmetic(model: nn.Module) -> Iterator[None]:
    """Inside, every AdaLoRA layer of `model` computes as plain PEFT does in evaluation mode, from parts made once.

    Works on a `PeftModel` with or without the engine attached, on any other model it does nothing. Nothing is merged:
    base weights are only read. The adapter's weights must not change inside, and the model stays in evaluation mode.
    """
    tuner: Any = getattr(model, "base_model", None)
    hosted = isinstance(tuner, HostedTuner)
    # whoever wraps a forward puts it on the instance: such layers are left alone
    layers = [layer for layer in model.modules() if isinstance(layer, AdaLoraLayer) and "forward" not in vars(layer)]
    try:
        with torch.no_grad():
            pruned = hosted and rank_pattern(tuner.engine) is not None
            for layer in layers:
                replacement = _lean(layer, pruned) or _quantised(layer, pruned) or _pefts(layer)
                if replacement is not None:
                    layer.forward = replacement
            if hosted:
                tuner.hold_parts(True)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
        if hosted:
            tuner.hold_parts(False)


def _lean(layer: Any, pruned: bool) -> Forward | None:
    """Forward of a layer over a plain linear map with one active adapter; None where anything else is the case.

    Args:
        layer: one of PEFT's, perhaps hosted.
        pruned: the adapter would be saved with a rank pattern; a load then rounds it to the base's precision.
    """
    base = layer.get_base_layer()
    kind = plain_class(layer) if isinstance(layer, HostedLayer) else type(layer)
    if kind is not SVDLinear or not is_bare(base) or layer.training:
        return None
    name = _only_adapter(layer)
    if name is None:
        return None
    if not len(layer.lora_E[name]):  # pruned to nothing: PEFT adds zeros
        return lambda x: F.linear(x, base.weight, base.bias)
    a, e, b = _as_loaded(layer, name, pruned)
    return _forward(
        base._parameters,
        down=(a * e).t(),
        up=b.t(),
        alpha=layer.scaling[name],
        rank=layer.ranknum[name] + 1e-5,
    )


def _quantised(layer: Any, pruned: bool) -> Forward | None:
    """PEFT's own forward of a hosted quantised layer with one active adapter, over entries as a load has them."""
    name = _only_adapter(layer)
    if not isinstance(layer, HostedLayer) or not layer.quantized or name is None:
        return None
    entries = zip(ENTRIES, _as_loaded(layer, name, pruned), strict=True)
    loaded = {kind: nn.ParameterDict({name: nn.Parameter(entry, requires_grad=False)}) for kind, entry in entries}
    kind = plain_class(layer)
    stand_in = kind.__new__(kind)  # shares everything with the layer but its entries
    stand_in.__dict__ = {**vars(layer), "_modules": {**vars(layer)["_modules"], **loaded}}
    return stand_in.forward  # type: ignore[no-any-return]


def _only_adapter(layer: Any) -> str | None:
    """The one active adapter of a layer that is neither disabled nor merged; None where it is otherwise."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    return active[0] if len(active) == 1 and not layer.disable_adapters and not layer.merged else None


def _as_loaded(layer: Any, name: str, pruned: bool) -> list[Tensor]:
    """A, E and B with the values, and the order in memory, that a load of the saved adapter gives them.

    The engine's alias of B is transposed in memory.
    """
    entries = [getattr(layer, kind)[name].detach() for kind in ENTRIES]
    return [(as_pruned(layer, entry) if pruned else entry).contiguous() for entry in entries]


def as_pruned(layer: Any, entry: Tensor) -> Tensor:
    """An entry of `layer` as a load rounds it where the adapter's file has a rank pattern.

    PEFT makes the entries of such an adapter anew, in the precision that the base multiplies in, before it copies the
    saved ones into them; only then does it turn them into float32.
    """
    base = layer.get_base_layer()
    dtype = getattr(base, "compute_dtype", None) or base.weight.dtype
    return entry.to(dtype).to(entry.dtype) if dtype.is_floating_point else entry


def _forward(own: Mapping[str, Any], *, down: Tensor, up: Tensor, alpha: float, rank: Tensor) -> Forward:
    """x (…, in) → (…, out).

    Args:
        own: the base's parameters, looked up at each call (a sharded base has its weights only while a layer computes):
            `weight` (out, in), `bias` (out,) or None.
        down: (A·E)ᵀ, (in, r).
        up: Bᵀ, (r, out).
        alpha: PEFT's scaling.
        rank: PEFT's rank number plus 1e-5, (1,).
    """

    def forward(x: Tensor) -> Tensor:
        low_rank = x.to(down.dtype) @ down @ up
        # one pass for PEFT's three: · alpha, / rank, added, each rounded as there
        return F.linear(x, own["weight"], own["bias"]).addcdiv_(low_rank, rank, value=alpha)

    return forward


def _pefts(layer: Any) -> Forward | None:
    """PEFT's own forward of a hosted layer: quantised maps, several active adapters, merged and disabled ones."""
    return plain_class(layer).forward.__get__(layer) if isinstance(layer, HostedLayer) else None
