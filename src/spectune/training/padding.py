"""Whether a batch is padded: the host knows it, and transformers asks the device.

At the start of a forward it reads whether the mask of the sources hides anything, once for the encoder and once for the
decoder's cross-attention, and on a GPU the host waits there, in every step, until all it has asked for before is done.
The answer, which chooses the same kernels, is given from the batch as it lay on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils

from spectune.training.exchange import Exchange

_NAME = "_ignore_bidirectional_mask_sdpa"
_ask_device: Any = getattr(masking_utils, _NAME, None)  # None in a version that calls it otherwise, or does not ask
_known = threading.local()


def _nothing_hidden(padding_mask: Tensor | None, *rest: Any, **named: Any) -> Any:
    """As `transformers.masking_utils._ignore_bidirectional_mask_sdpa`: whether attention can do without the mask."""
    shape, padded = getattr(_known, "sources", (None, None))
    if padding_mask is None or padding_mask.shape != shape:
        return _ask_device(padding_mask, *rest, **named)
    return False if padded else _ask_device(None, *rest, **named)


_answers = Exchange(masking_utils, **({_NAME: _nothing_hidden} if _ask_device else {}))


@contextmanager
def padding_known(mask: Tensor, device: torch.device) -> Iterator[None]:
    """For the forward of a batch on `device`.

    Args:
        mask: (rows, length), 1 at tokens of the sources and 0 at padding; still on the host.
        device: where the forward runs; on a CPU, where nobody waits, nothing is changed.
    """
    if device.type == "cpu":
        yield
        return
    _known.sources = mask.shape, not bool(mask.all())
    try:
        with _answers.inside():
            yield
    finally:
        del _known.sources
