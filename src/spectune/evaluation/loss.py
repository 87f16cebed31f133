"""Evaluation loss: the cross entropy alone, over logits.

Never read from a model's `loss`: PEFT's AdaLoRA adds its penalty there, in evaluation mode too, and a mean of batch
means weighs the tokens of short batches more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectune.evaluation.decoding import base_of, evaluation_mode
from spectune.teacher_forcing import decoder_inputs

IGNORED = -100


class CrossEntropySum:
    """Cross entropy of a model's target tokens, added up batch by batch on the device and read once."""

    def __init__(self, model: nn.Module) -> None:
        """Of `model`, an encoder-decoder model or a `PeftModel` around one, which must be in evaluation mode."""
        # The transformers model, not the PEFT wrapper around it: the wrapper would compute the penalty, or fail for an
        # adapter loaded for inference. The adapter's layers are inside.
        self._base: Any = base_of(model)
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    @torch.inference_mode()
    def add(self, labels: Tensor, **inputs: Any) -> None:
        """Add a batch.

        Args:
            labels: (rows, length), −100 where nothing is asked.
            inputs: the rest of what the model's forward takes; `encoder_outputs` saves the encoder.
        """
        labels = labels.to(self._base.device)
        logits = self._base(decoder_input_ids=decoder_inputs(self._base, labels), **inputs).logits
        self._sums.append(_summed_cross_entropy(logits, labels))
        self._counts.append((labels != IGNORED).sum())

    def batches(self) -> list[tuple[float, float]]:
        """Sum and number of target tokens of each batch; the one host read."""
        if not self._sums:
            return []
        # A batch's count is exact in float32 up to 16.7 million tokens.
        totals, tokens = torch.stack([torch.stack(self._sums), torch.stack(self._counts).float()]).tolist()
        return list(zip(totals, tokens, strict=True))

    def mean(self) -> float:
        """`mean_loss` of all batches."""
        return mean_loss(self.batches())


def mean_loss(batches: Sequence[tuple[float, float]]) -> float:
    """−1/N · Σ log p(target token) over all N tokens, in nats; the same whatever the order of the batches.

    Args:
        batches: sum of −log p and number of target tokens of each.

    Raises:
        ValueError: there is no target token.
    """
    if not batches:
        raise ValueError("evaluation loss over no batches")
    totals, tokens = zip(*batches, strict=True)
    if not any(tokens):
        raise ValueError("evaluation loss over no target tokens")
    return math.fsum(totals) / math.fsum(tokens)


def evaluation_loss(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    """Mean cross entropy per target token, in nats, over all tokens of all rows.

    Args:
        model: an encoder-decoder model or a `PeftModel` around one; put into evaluation mode and back.
        batches: tensors that the model's forward takes, with `labels` (rows, length), −100 where nothing is asked.

    Raises:
        ValueError: there is no target token.
    """
    total, device = CrossEntropySum(model), base_of(model).device
    with evaluation_mode(model):
        for batch in batches:
            total.add(**{name: tensor.to(device) for name, tensor in batch.items()})
    return total.mean()


def _summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar float32 sum over all positions of logits (rows, length, vocabulary) and labels (rows, length).

    Row by row: a float32 copy of a whole batch's logits can be larger than the model.
    """
    rows = [
        F.cross_entropy(row_logits.float(), row_labels, ignore_index=IGNORED, reduction="sum")
        for row_logits, row_labels in zip(logits, labels, strict=True)
    ]
    return torch.stack(rows).sum()
