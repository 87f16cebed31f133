"""Evaluation loss: the cross entropy alone, over logits.

Never read from a model's `loss`: PEFT's AdaLoRA adds its penalty there, in evaluation mode too, and a mean of batch
means weighs the tokens of short batches more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectune.evaluation.decoding import base_of, evaluation_mode

IGNORED = -100


@torch.inference_mode()
def evaluation_loss(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    """Mean cross entropy per target token, in nats: −1/N · Σ log p(target token), over all N tokens of all rows.

    Args:
        model: an encoder-decoder model or a `PeftModel` around one; put into evaluation mode and back.
        batches: tensors that the model's forward takes, with `labels` (rows, length), −100 where nothing is asked.

    Raises:
        ValueError: there is no target token.
    """
    # The transformers model, not the PEFT wrapper around it: the wrapper would compute the penalty, or fail for an
    # adapter loaded for inference. The adapter's layers are inside.
    base = base_of(model)
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    with evaluation_mode(model):
        for batch in batches:
            moved = {name: tensor.to(base.device) for name, tensor in batch.items()}
            logits = base(**moved).logits
            sums.append(_summed_cross_entropy(logits, moved["labels"]))
            counts.append((moved["labels"] != IGNORED).sum())
    if not sums:
        raise ValueError("evaluation loss over no batches")
    # The one host read. A batch's count is exact in float32 up to 16.7 million tokens.
    totals, tokens = torch.stack([torch.stack(sums), torch.stack(counts).float()]).tolist()
    if not any(tokens):
        raise ValueError("evaluation loss over no target tokens")
    return math.fsum(totals) / math.fsum(tokens)


def _summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar float32 sum over all positions of logits (rows, length, vocabulary) and labels (rows, length).

    Row by row: a float32 copy of a whole batch's logits can be larger than the model.
    """
    rows = [
        F.cross_entropy(row_logits.float(), row_labels, ignore_index=IGNORED, reduction="sum")
        for row_logits, row_labels in zip(logits, labels, strict=True)
    ]
    return torch.stack(rows).sum()
