"""What the loss of a hosted model is made of: its cross entropy as a share of the window's, and the penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

_IGNORED = -100  # torch's and transformers' label of a position that does not count


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model's configuration says so."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def completed(
    output: Any, *, labels: Tensor | None, items: Tensor | int | None, penalty: Callable[[], Tensor] | None
) -> Any:
    """The model's output with its loss completed, whether it is an output object or a tuple.

    Args:
        output: what the model returned, with a loss if it was given labels.
        labels: what the model was given.
        items: target tokens of the whole accumulation window (transformers' `num_items_in_batch`), for a loss that is
            the mean over this micro-batch's. Such means, weighted by their tokens, add up to the mean of the window.
        penalty: makes the orthogonality penalty, where the loss has it; a window's micro-batches add up to one.
    """
    if isinstance(output, tuple):
        return (_whole(output[0], labels, items, penalty), *output[1:]) if labels is not None else output
    if getattr(output, "loss", None) is not None:
        output.loss = _whole(output.loss, labels, items, penalty)
    return output


def _whole(
    loss: Tensor, labels: Tensor | None, items: Tensor | int | None, penalty: Callable[[], Tensor] | None
) -> Tensor:
    if penalty is not None:
        loss = loss + penalty()
    if items is None or labels is None:
        return loss
    return loss * (labels.ne(_IGNORED).sum() / items)
