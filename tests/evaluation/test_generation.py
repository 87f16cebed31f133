from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from spectune.config import EvaluationConfig
from spectune.evaluation.decoding import batches_by_length, evaluation_mode, greedy, pad_right
from spectune.evaluation.generation import (
    GenerationSettings,
    generate_texts,
    generation_config,
    generation_model,
    resolve_settings,
)

Adapt = Callable[[PreTrainedModel], PeftModel]
SETTINGS = GenerationSettings(max_new_tokens=8, batch_size=4)


def rows_of_tokens(count: int, vocabulary: int = 100) -> list[list[int]]:
    draw = random.Random(7)
    return [[*(draw.randrange(3, vocabulary) for _ in range(draw.randrange(1, 12))), 1] for _ in range(count)]


@pytest.fixture(params=["t5", "bart", "adapted t5", "adapted bart"])
def model(
    request: pytest.FixtureRequest, tiny_t5: PreTrainedModel, tiny_bart: PreTrainedModel, adapt: Adapt
) -> nn.Module:
    base = tiny_t5 if request.param.endswith("t5") else tiny_bart
    return adapt(base) if request.param.startswith("adapted") else base


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, {"max_new_tokens": 9, "max_length": None, "num_beams": 1, "batch_size": 32}),
        ({"max_new_tokens": 5}, {"max_new_tokens": 5, "max_length": None}),
        ({"max_length": 5}, {"max_new_tokens": None, "max_length": 5}),
        (
            {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, "per_device_eval_batch_size": 7},
            {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, "batch_size": 7},
        ),
    ],
)
def test_settings_are_resolved(section: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = resolve_settings(EvaluationConfig(**section), longest_target=7)
    assert {name: getattr(settings, name) for name in expected} == expected


def test_settings_take_one_length() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        GenerationSettings(max_new_tokens=3, max_length=4)
    with pytest.raises(ValueError, match="exactly one"):
        GenerationSettings()


def opinionated(special: dict[str, Any] | None = None) -> GenerationConfig:
    """A base's defaults as the hub's summarisers have them, and more."""
    return GenerationConfig.from_dict(
        {
            "num_beams": 4,
            "no_repeat_ngram_size": 3,
            "encoder_no_repeat_ngram_size": 2,
            "length_penalty": 2.0,
            "min_length": 7,
            "max_length": 142,
            "early_stopping": True,
            "do_sample": True,
            "temperature": 0.3,
            "top_k": 5,
            "repetition_penalty": 1.7,
            "suppress_tokens": [4, 5],
            "begin_suppress_tokens": [6],
            "bad_words_ids": [[0], [9], [8, 9]],
            "exponential_decay_length_penalty": [2, 1.5],
            "num_return_sequences": 2,
            **(special or {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}),
        }
    )


def test_decoding_taste_is_reset_and_special_tokens_kept(tiny_t5: PreTrainedModel, tmp_path: Path) -> None:
    special = {
        "decoder_start_token_id": 2,
        "pad_token_id": 0,
        "eos_token_id": [1, 3],
        "bos_token_id": 2,
        "forced_bos_token_id": 11,
        "forced_eos_token_id": 1,
        "lang_to_id": {"en": 11},
    }
    tiny_t5.generation_config = opinionated(special)
    config = generation_config(tiny_t5, GenerationSettings(max_new_tokens=6, num_beams=2, length_penalty=0.5))
    for name, value in special.items():
        assert getattr(config, name) == value
    assert (config.num_beams, config.length_penalty, config.max_new_tokens) == (2, 0.5, 6)
    assert (config.min_length, config.no_repeat_ngram_size, config.encoder_no_repeat_ngram_size) == (0, 0, 0)
    assert (config.do_sample, config.early_stopping, config.repetition_penalty) == (False, False, 1.0)
    assert config.bad_words_ids == [[0]]  # padding, a special token; the other two were taste
    taste = ("max_length", "temperature", "top_k", "suppress_tokens", "begin_suppress_tokens")
    assert [getattr(config, name) for name in taste] == [None] * len(taste)
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_the_bases_defaults_do_not_leak_into_the_output(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    rows = rows_of_tokens(6)
    neutral = generate_texts(model, tiny_tokenizer, rows, generation_config(model, SETTINGS), batch_size=4)
    kept = {
        name: getattr(base.generation_config, name)
        for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id")
    }
    kept["forced_eos_token_id"] = base.generation_config.forced_eos_token_id
    base.generation_config = opinionated(kept)
    base.generation_config.bad_words_ids = [[9], [8, 9]]
    config = generation_config(model, SETTINGS)
    assert generate_texts(model, tiny_tokenizer, rows, config, batch_size=4) == neutral
    assert base.generation_config.num_beams == 4  # put back
    assert any(neutral)


@pytest.mark.parametrize("beams", [1, 3])
def test_output_depends_on_neither_batch_size_nor_order(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, beams: int
) -> None:
    rows = rows_of_tokens(8)
    config = generation_config(model, GenerationSettings(max_new_tokens=4, num_beams=beams))
    alone = generate_texts(model, tiny_tokenizer, rows, config, batch_size=1)
    assert len(set(alone)) > 2
    for batch_size in (3, 50):
        assert generate_texts(model, tiny_tokenizer, rows, config, batch_size=batch_size) == alone
    backwards = generate_texts(model, tiny_tokenizer, rows[::-1], config, batch_size=4)
    assert backwards[::-1] == alone


def test_it_is_generate(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    row = rows_of_tokens(1)[0]
    with evaluation_mode(tiny_t5):
        expected = tiny_t5.generate(torch.tensor([row]), max_new_tokens=8, do_sample=False, num_beams=1)  # type: ignore[operator]
    text = tiny_tokenizer.decode(expected[0], skip_special_tokens=True)
    config = generation_config(tiny_t5, SETTINGS)
    assert generate_texts(tiny_t5, tiny_tokenizer, [row], config, batch_size=1) == [str(text).strip()]


def test_max_length_counts_the_start_token(tiny_bart: PreTrainedModel) -> None:
    ids, mask = pad_right(rows_of_tokens(3), 0, torch.device("cpu"))
    for settings in (GenerationSettings(max_length=5), GenerationSettings(max_new_tokens=4)):
        config = generation_config(tiny_bart, settings)
        with evaluation_mode(tiny_bart):
            generated = tiny_bart.generate(ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
        assert generated.shape[1] <= 5
        assert generated.shape[1] > 1


def test_modes_and_random_state_are_left_as_they_were(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model.train()
    list(model.modules())[-1].training = False
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    config = generation_config(model, SETTINGS)
    first = generate_texts(model, tiny_tokenizer, rows_of_tokens(5), config, batch_size=2)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    assert generate_texts(model, tiny_tokenizer, rows_of_tokens(5), config, batch_size=2) == first
    assert not any(module.training for module in model.modules())


def test_modes_are_restored_after_a_failure(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_t5.train()
    former = tiny_t5.generation_config

    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_texts(
            tiny_t5,
            tiny_tokenizer,
            rows_of_tokens(2),
            generation_config(tiny_t5, SETTINGS),
            batch_size=1,
            on_batch=stop,
        )
    assert tiny_t5.training
    assert tiny_t5.generation_config is former


def test_the_cache_is_used_under_gradient_checkpointing(
    tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_t5.train()
    tiny_t5.gradient_checkpointing_enable()
    tiny_t5.config.use_cache = False
    widths: list[int] = []
    decoder = tiny_t5.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate_texts(tiny_t5, tiny_tokenizer, rows_of_tokens(2), generation_config(tiny_t5, SETTINGS), batch_size=2)
    hook.remove()
    assert len(widths) > 1
    assert set(widths) == {1}  # one new token each time: the rest came from the cache
    assert tiny_t5.config.use_cache is False
    assert tiny_t5.is_gradient_checkpointing


def test_batches_start_with_the_longest_and_whole_batches_stay_together() -> None:
    lengths = [3, 9, 3, 1, 9, 5, 3]
    batches = batches_by_length(lengths, 2)
    assert batches == [[1, 4], [5, 0], [2, 6], [3]]
    chosen = sorted(batches[0] + batches[2])
    again = batches_by_length([lengths[row] for row in chosen], 2)
    assert [[chosen[row] for row in batch] for batch in again] == [batches[0], batches[2]]
    assert batches_by_length([], 4) == []


def test_progress_is_told_in_rows(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    told: list[int] = []
    config = generation_config(tiny_t5, SETTINGS)
    texts = generate_texts(tiny_t5, tiny_tokenizer, rows_of_tokens(5), config, batch_size=2, on_batch=told.append)
    assert told == [2, 2, 1]
    assert all(text == text.strip() for text in texts)
    assert generate_texts(tiny_t5, tiny_tokenizer, [], config, batch_size=2) == []


def test_the_adapter_is_generated_with(
    tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, adapt: Adapt
) -> None:
    plain = copy.deepcopy(tiny_t5)
    config, rows = generation_config(tiny_t5, SETTINGS), rows_of_tokens(8)
    adapted = adapt(tiny_t5)
    with generation_model(adapted) as generator:
        texts = generate_texts(generator, tiny_tokenizer, rows, config, batch_size=4)
    assert texts != generate_texts(plain, tiny_tokenizer, rows, config, batch_size=4)


def test_rows_that_have_ended_leave_the_batch_and_nothing_changes(model: nn.Module) -> None:
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = generation_config(model, GenerationSettings(max_new_tokens=12, no_repeat_ngram_size=2))
    config.eos_token_id = list(range(1, 100, 9))  # many tokens end an output, so that outputs differ in length
    ids, mask = pad_right(rows_of_tokens(24), 0, torch.device("cpu"))
    widths: list[int] = []
    hook = base.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with evaluation_mode(model), torch.inference_mode():
        ours = base.generate(ids, attention_mask=mask, generation_config=config, custom_generate=greedy)
        dropped = widths.copy()
        theirs = base.generate(ids, attention_mask=mask, generation_config=config)
    hook.remove()
    assert torch.equal(ours, theirs)
    lengths = set((theirs != base.generation_config.pad_token_id).sum(1).tolist())
    assert len(lengths) > 2
    assert dropped[-1] < dropped[0]
    assert sum(dropped) < sum(widths[len(dropped) :])


def test_without_a_cache_greedy_search_is_the_same(tiny_t5: PreTrainedModel) -> None:
    model: Any = tiny_t5
    config = generation_config(model, SETTINGS)
    ids, mask = pad_right(rows_of_tokens(6), 0, torch.device("cpu"))
    with evaluation_mode(model), torch.inference_mode():
        expected = model.generate(ids, attention_mask=mask, generation_config=config, custom_generate=greedy)
        config.use_cache = False
        found = model.generate(ids, attention_mask=mask, generation_config=config, custom_generate=greedy)
    assert torch.equal(found, expected)


def test_the_encoders_output_is_handed_on(model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows, seen = rows_of_tokens(5), list[tuple[list[int], tuple[int, ...]]]()

    def note(batch: list[int], encoded: Any, mask: Any) -> None:
        seen.append((batch, tuple(encoded.last_hidden_state.shape[:2])))
        assert encoded.last_hidden_state.shape[:2] == mask.shape

    for beams in (1, 2):
        seen.clear()
        config = generation_config(model, GenerationSettings(max_new_tokens=4, num_beams=beams))
        generate_texts(model, tiny_tokenizer, rows, config, batch_size=2, after_batch=note)
        assert sorted(row for batch, _ in seen for row in batch) == list(range(5))
        assert [shape[0] for _, shape in seen] == [2, 2, 1]
