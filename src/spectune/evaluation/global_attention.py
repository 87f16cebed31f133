"""LED's global attention: whether a run's first tokens see the whole source, kept in its generation config."""

from __future__ import annotations

import inspect
import logging
from typing import Literal

from transformers import PreTrainedModel

from spectune.evaluation.decoding import FIRST_TOKEN, GLOBAL_ATTENTION


def set_global_attention(base: PreTrainedModel, wanted: Literal["auto", "none"]) -> bool:
    """Write the choice into the base's generation config, from which `adapter/generation_config.json` is made.

    `generate_texts` reads it there, in the run, in `evaluate` and `predict` and in the reload proof's child.

    Returns:
        Whether the first token of every source gets global attention: asked for, and a model that has such a mask.
    """
    has_mask = "global_attention_mask" in inspect.signature(base.forward).parameters
    on, settings = has_mask and wanted == "auto", base.generation_config
    if has_mask:  # it says that it pads to its window, which nobody can change
        logging.getLogger(type(base).__module__).setLevel(logging.ERROR)
    if on:
        setattr(settings, GLOBAL_ATTENTION, FIRST_TOKEN)
    elif hasattr(settings, GLOBAL_ATTENTION):
        delattr(settings, GLOBAL_ATTENTION)
    return on
