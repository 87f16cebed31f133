"""The head start does what its words say, on a fresh model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from spectune.starter.head_start import DECODER_OFFSETS, ENCODER_OFFSETS, give_head_start
from spectune.starter.pretrain import t5_config


def fresh() -> Any:
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(t5_config(500)).eval()
    give_head_start(model)
    return model


def test_a_token_seeks_itself_in_cross_attention() -> None:
    attention: Any = fresh().decoder.block[0].layer[1].EncDecAttention
    states = torch.randn(40, 256)
    scores = attention.q(states) @ attention.k(states).T
    assert torch.equal(scores.argmax(dim=-1), torch.arange(40))


def test_some_heads_seek_their_neighbours() -> None:
    model = fresh()
    stacks: list[tuple[Any, tuple[int, ...]]] = [(model.encoder, ENCODER_OFFSETS), (model.decoder, DECODER_OFFSETS)]
    for stack, offsets in stacks:
        attention: T5Attention = stack.block[0].layer[0].SelfAttention
        bias = attention.compute_bias(9, 9)[0]
        for head, offset in enumerate(offsets):
            assert int(bias[head, 4].argmax()) == 4 + offset
        assert float(bias[len(offsets) :, 4].detach().abs().max()) < 1.0
