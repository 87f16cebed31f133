"""Published models' shapes with random weights: a step costs what the shape costs, whatever the numbers are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration


def _t5(**sizes: Any) -> Any:
    config: dict[str, Any] = {"decoder_start_token_id": 0, **sizes}
    return T5ForConditionalGeneration(T5Config(**config))


def _bart(layers: int, width: int, heads: int, vocabulary: int = 50265) -> Any:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocabulary,
            d_model=width,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
        )
    )


SHAPES: dict[str, Callable[[], Any]] = {
    "t5-small": lambda: _t5(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8),
    "bart-base": lambda: _bart(6, 768, 12),
    "flan-t5-base": lambda: _t5(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "bart-large": lambda: _bart(12, 1024, 16),
    "tiny-t5": lambda: _t5(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4),
    "tiny-bart": lambda: _bart(1, 16, 4, vocabulary=64),
    "tiny-words": lambda: _bart(1, 16, 4, vocabulary=6200),  # more than the bundled tokenizer's
}
"""Name → a model with random weights, dropout as published. The tiny ones are for tests."""


def build(shape: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Any:
    """A frozen model of `shape` in training mode, the same numbers at each call."""
    torch.manual_seed(0)
    model = SHAPES[shape]().to(device=device, dtype=dtype).requires_grad_(False)
    return model.train()


def sharing(model: Any) -> Any:
    """Another model over the very same weights: contenders differ in what they add, not in memory or caches."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def tokens(model: Any, rows: int, source: int, target: int, seed: int = 0) -> dict[str, Tensor]:
    """Random batch without padding: input_ids and attention_mask (rows, source), labels (rows, target)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> Tensor:
        return torch.randint(3, model.config.vocab_size, (rows, width), generator=generator).to(model.device)

    ids = draw(source)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": draw(target)}
