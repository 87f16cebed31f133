"""Who clips: the callback, after penalty and importance, in the place of the Trainer, which would clip before both."""

from __future__ import annotations

from transformers import TrainingArguments

_KEPT = "_spectune_max_grad_norm"
"""Where the Trainer's norm is kept while it is kept from clipping: in its arguments, since a run that is broken off
inside a step leaves them to the next Trainer, which has another callback."""


def hold_clipping(args: TrainingArguments) -> None:
    """Keep the Trainer from clipping the step that begins."""
    setattr(args, _KEPT, args.max_grad_norm)
    args.max_grad_norm = 0.0


def give_clipping_back(args: TrainingArguments) -> float | None:
    """Put the norm back, if it is held, and return it; None: nothing is to be clipped."""
    if hasattr(args, _KEPT):
        args.max_grad_norm = getattr(args, _KEPT)
        delattr(args, _KEPT)
    return args.max_grad_norm or None
