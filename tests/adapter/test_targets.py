"""Targets and their roles on real architectures, built tiny on the meta device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    LEDConfig,
    MarianConfig,
    MBartConfig,
    PegasusConfig,
    PretrainedConfig,
    T5Config,
)

from spectune.adapter.targets import default_targets, resolve_targets, role_of
from spectune.errors import ConfigError

_T5: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 3,
}
_BART: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "pad_token_id": 1,
}
CONFIGS: dict[str, tuple[PretrainedConfig, int]] = {
    "t5": (T5Config(**_T5), 2 * 6 + 3 * 10),
    "gated_t5": (T5Config(**_T5, feed_forward_proj="gated-gelu"), 2 * 7 + 3 * 11),
    "bart": (BartConfig(**_BART), 2 * 6 + 3 * 10),
    "pegasus": (PegasusConfig(**_BART), 2 * 6 + 3 * 10),
    "marian": (MarianConfig(**_BART, decoder_start_token_id=1), 2 * 6 + 3 * 10),
    "mbart": (MBartConfig(**_BART), 2 * 6 + 3 * 10),
    "led": (LEDConfig(**_BART, attention_window=4), 2 * 9 + 3 * 10),
}
NAMED = [*CONFIGS]


def model_of(name: str) -> Any:
    with torch.device("meta"):
        return AutoModelForSeq2SeqLM.from_config(CONFIGS[name][0])


@pytest.mark.parametrize("name", NAMED)
def test_all_attention_and_feed_forward_matrices(name: str) -> None:
    model = model_of(name)
    targets = default_targets(model)
    assert len(targets) == len(set(targets)) == CONFIGS[name][1]
    every = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert every - set(targets) <= {"lm_head", "model.lm_head"}


@pytest.mark.parametrize("name", NAMED)
def test_every_target_has_its_place(name: str) -> None:
    roles = [role_of(target) for target in default_targets(model_of(name))]
    assert Counter(role.stack for role in roles).keys() == {"encoder", "decoder"}
    assert {role.layer for role in roles if role.stack == "encoder"} == {0, 1}
    assert {role.layer for role in roles if role.stack == "decoder"} == {0, 1, 2}
    blocks = Counter((role.block, role.role) for role in roles)
    for letter in "qkvo":
        assert blocks["cross_attention", letter] == 3
    assert blocks["self_attention", "o"] == 5
    assert blocks["self_attention", "q"] == (7 if name == "led" else 5)
    assert blocks["feed_forward", "in"] == blocks["feed_forward", "out"] == 5
    assert blocks["feed_forward", "gate"] == (5 if name == "gated_t5" else 0)
    assert sum(blocks.values()) == CONFIGS[name][1]
    assert not [role for role in roles if not (role.block and role.role)]


@pytest.mark.parametrize(
    ("target", "exclude", "count"),
    [
        ("auto", None, 42),
        ("attention", None, 2 * 4 + 3 * 8),
        ("feed_forward", None, 10),
        (["q", "v"], None, 2 * 2 + 3 * 4),
        (["EncDecAttention.q"], None, 3),
        (r"decoder\..*\.(q|k)", None, 12),
        ("auto", ["wo", "wi"], 32),
        ("attention", r"encoder\..*", 24),
    ],
)
def test_choices(target: Any, exclude: Any, count: int) -> None:
    assert len(resolve_targets(model_of("t5"), target, exclude)) == count


def test_layers_are_chosen_by_number() -> None:
    names = resolve_targets(model_of("t5"), "auto", None, [1])
    assert names
    assert {role_of(name).layer for name in names} == {1}
    assert {role_of(name).stack for name in names} == {"encoder", "decoder"}
    with pytest.raises(ConfigError, match="layers_to_transform: no layer 9; the layers are 0 to"):
        resolve_targets(model_of("t5"), "auto", None, [0, 9])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["q_prj", "v_proj"], r"entry 'q_prj' matches no linear layer; nearest: q_proj"),
        (["fc3"], r"'fc3' matches no linear layer; nearest: fc[12], fc[12]"),
        ("fc3", r"target_modules 'fc3' matches no linear layer; nearest: fc[12]"),
        (["model.encoder.layers.0.self_attn.qproj"], "nearest: q_proj"),
        ("(q_proj", "is not a regular expression"),
    ],
)
def test_a_typing_error_names_what_is_near(target: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_targets(model_of("bart"), target, None)


def test_nothing_left() -> None:
    with pytest.raises(ConfigError, match="no matrix is left to adapt"):
        resolve_targets(model_of("bart"), "feed_forward", ["fc1", "fc2"])
    with pytest.raises(ConfigError, match="no linear layer inside repeated blocks in Linear"):
        default_targets(nn.Linear(2, 2))


def test_unknown_names_have_empty_places() -> None:
    place = role_of("tower.blob.frobnicate")
    assert (place.stack, place.layer, place.block, place.role) == ("", None, "", "")
