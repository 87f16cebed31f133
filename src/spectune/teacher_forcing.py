"""What the decoder is given while it learns or is scored: the targets, one place to the right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from spectune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_IGNORED = -100


def decoder_inputs(base: Any, labels: Tensor) -> Tensor:
    """The decoder's input for `labels`, by the model's own rule; given labels, it would compute a loss of its own.

    Args:
        base: the transformers model.
        labels: (rows, length), −100 where nothing is asked; left as they are.

    Returns:
        (rows, length) tokens: the labels one place to the right, padding for −100.

    Raises:
        ModelError: the model's configuration does not say what decoding starts with, or what padding is.
    """
    own_rule = getattr(base, "prepare_decoder_input_ids_from_labels", None)
    try:
        # a copy, because FSMT's rule writes padding over the −100 of what it is given
        shifted = _shifted(base.config, labels) if own_rule is None else own_rule(labels.clone())
    except (ValueError, TypeError, RuntimeError, AttributeError, AssertionError) as error:
        needed = ("decoder_start_token_id", "pad_token_id")
        missing = [name for name in needed if getattr(base.config, name, None) is None]
        if not missing:
            raise
        raise ModelError(f"the base model's config.json has no {' and no '.join(missing)}; write it in") from error
    return cast("Tensor", shifted)


def _shifted(config: Any, labels: Tensor) -> Tensor:
    """The rule of M2M100, NLLB-MoE, Blenderbot and SeamlessM4T v2, which have it inside their forward alone."""
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = config.decoder_start_token_id
    return shifted.masked_fill_(shifted == _IGNORED, config.pad_token_id)
