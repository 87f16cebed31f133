"""Gradient checkpointing of a frozen base: layers are computed again in the backward pass instead of kept."""

from __future__ import annotations

from typing import Any


def enable_checkpointing(base: Any, *, use_reentrant: bool) -> None:
    """Switch it on for every layer of a transformers model.

    Args:
        base: the model itself, with or without adapted layers inside.
        use_reentrant: torch's older kind of checkpoint. It gives gradients only where an input of the layer wants one,
            so the embeddings' outputs, which a frozen base leaves without, are made to want theirs.
    """
    options = {"use_reentrant": use_reentrant}
    if hasattr(base, "activation_checkpointing_enable"):  # its name in newer versions of transformers
        base.activation_checkpointing_enable(options)
    else:
        base.gradient_checkpointing_enable(options)
    if use_reentrant:
        base.enable_input_require_grads()
