"""A training step and an evaluation batch, rehearsed over tensors without memory: what they would hold at most.

Every operation is the run's own (transformers' model, the engine's maps, the loop's loss), so nothing is known here
about layers, attention or logits. What is not rehearsed: the search for the next token, of which one step is made with
full caches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from spectune.config import RunConfig
from spectune.data.loader import Window
from spectune.evaluation.loss import CrossEntropySum
from spectune.memory.lengths import BatchShape
from spectune.memory.tracking import LiveBytes
from spectune.training.kernels import Kernels
from spectune.training.step import StepOptions, window_loss


def training_peak(model: Any, config: RunConfig, shape: BatchShape, kernels: Kernels) -> int:
    """Bytes that forward and backward of one micro-batch hold at most, beside weights and adapter.

    Args:
        model: of `stand_in`, in the same `FakeTensorMode`.
        kernels: what the run's steps take.
    """
    model.train()
    ids = torch.ones(shape.rows, shape.source, dtype=torch.long)
    labels = torch.ones(shape.rows, shape.target, dtype=torch.long)
    window = Window([{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}], 1, 1, 1, 0.0)
    low = config.train.mixed_precision == "bf16"
    options = StepOptions(
        device=torch.device("cpu"),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=low),
        label_smoothing=config.train.label_smoothing_factor,
        max_grad_norm=None,
        penalty_in_scores=True,
        call_order="paper",
        kernels=kernels,
    )
    with LiveBytes(_weights(model)) as live:
        window_loss(model, window, options)
    return live.peak


@torch.no_grad()
def evaluation_peak(model: Any, shape: BatchShape, new_tokens: int, beams: int) -> int:
    """Bytes that generating for a batch and its loss hold at most, beside weights and adapter.

    Args:
        model: of `stand_in`, in the same `FakeTensorMode`.
        new_tokens: the most that generation adds.
        beams: of the search; every row is there as often.
    """
    model.eval()
    with LiveBytes(_weights(model)) as live:
        ids = torch.ones(shape.rows, shape.source, dtype=torch.long)
        mask = torch.ones_like(ids)
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        _next_token(model, encoded, mask, new_tokens, beams)
        labels = torch.ones(shape.rows, shape.target, dtype=torch.long)
        CrossEntropySum(model).add(labels, encoder_outputs=encoded, attention_mask=mask)
    return live.peak


def _next_token(model: Any, encoded: Any, mask: Tensor, length: int, beams: int) -> None:
    """The last step of a search: caches of the whole length are read, and one row of logits for each beam sorted."""
    hidden = encoded[0].repeat_interleave(beams, 0) if beams > 1 else encoded[0]
    inputs: dict[str, Any] = {
        "encoder_outputs": BaseModelOutput(last_hidden_state=hidden),
        "attention_mask": mask.repeat_interleave(beams, 0),
        "decoder_input_ids": mask.new_ones(len(mask) * beams, 1),
    }
    cache = model(**inputs, use_cache=True).past_key_values
    layers = cache.self_attention_cache.layers if cache is not None else []
    full = [_full(layer, length) for layer in layers]
    if all(type(layer) is DynamicLayer for layer in layers):  # others (windows) keep count, and are read as they are
        for layer, (keys, values) in zip(layers, full, strict=True):
            layer.keys, layer.values = keys, values
    logits = model(**inputs, past_key_values=cache, use_cache=True).logits
    scores = logits[:, -1].to(copy=True, dtype=torch.float32)
    if beams > 1:
        scores = torch.log_softmax(scores, -1).add(0.0).view(len(mask), -1)
    scores.topk(2 * beams if beams > 1 else 1)


def _full(layer: Any, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a cache layer, each (rows, heads, length − 1, width)."""
    rows, heads, _, width = layer.keys.shape
    keys, values = (layer.keys.new_empty(rows, heads, max(1, length - 1), width) for _ in range(2))
    return keys, values


def _weights(model: Any) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
