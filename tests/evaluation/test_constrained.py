"""Constrained decoding against brute force: every label scored by itself, which the product never does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from spectune.evaluation.constrained import LabelDecoder, LabelOutputs, allowed_tokens, constrained_config
from spectune.evaluation.decoding import base_of, decode, evaluation_mode, own_decoding_defaults, pad_right
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config, generation_model
from spectune.evaluation.label_trie import LabelTrie, label_trie

Adapt = Callable[[PreTrainedModel], PeftModel]
SETTINGS = GenerationSettings(max_new_tokens=4, batch_size=3)
WORDS = ["profit", "profit rose", "profit fell", "the outlook is negative", "the outlook is", "no change", "wizards"]


def sources(count: int = 6) -> list[list[int]]:
    draw = random.Random(3)
    return [[*(draw.randrange(3, 100) for _ in range(draw.randrange(1, 12))), 1] for _ in range(count)]


@pytest.fixture(params=["adapted t5", "bart", "forced bart", "bart with a language"])
def model(
    request: pytest.FixtureRequest, tiny_t5: PreTrainedModel, tiny_bart: PreTrainedModel, adapt: Adapt
) -> nn.Module:
    base = tiny_t5 if request.param.endswith("t5") else tiny_bart
    if request.param in ("forced bart", "bart with a language"):  # begins every label, or stands before it
        base.generation_config.forced_bos_token_id = 2 if request.param == "forced bart" else 77
    base.double()  # so that equality is not a matter of rounding
    return adapt(base).double() if request.param.startswith("adapted") else base


@pytest.fixture
def trie(model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast) -> LabelTrie:
    found = label_trie(WORDS, tiny_tokenizer, 16)
    if base_of(model).config.model_type == "bart":  # as BART's tokenizer does: a start token before the text
        return LabelTrie(WORDS, [(2, *path) for path in found.paths], found.end)
    return found


def constrained(
    model: nn.Module, tokenizer: Any, trie: LabelTrie, settings: GenerationSettings = SETTINGS, count: int = 6
) -> LabelOutputs:
    decoder = LabelDecoder(model, trie, settings, count)
    config = generation_config(model, settings)
    with generation_model(model) as generator:
        generate_texts(
            generator, tokenizer, sources(count), config, batch_size=settings.batch_size, after_batch=decoder.add
        )
    return decoder.outputs()


@torch.no_grad()
def brute_force(model: nn.Module, trie: LabelTrie, count: int = 6) -> tuple[Tensor, Tensor]:
    """Probabilities under the trie and raw logarithms (rows, labels), by showing the model each label: no generation.

    A step's softmax is taken over the tokens with which some label goes on; what the base forces is not counted.
    """
    base: Any = base_of(model)
    start = base.generation_config.decoder_start_token_id
    forced = base.generation_config.forced_bos_token_id
    paths = trie.after(forced).paths
    head = [start] if forced is None else [start, forced]
    masked = torch.zeros(count, len(paths), dtype=torch.float64)
    raw = torch.zeros_like(masked)
    with evaluation_mode(model):
        for row, source in enumerate(sources(count)):
            for label, path in enumerate(paths):
                given = torch.tensor([[*head, *path[:-1]]])
                logits = base(input_ids=torch.tensor([source]), decoder_input_ids=given).logits[0].double()
                for step, token in enumerate(path):
                    scores = logits[len(head) - 1 + step]
                    going = sorted({p[step] for p in paths if p[:step] == path[:step] and len(p) > step})
                    masked[row, label] += scores[going].log_softmax(-1)[going.index(token)]
                    raw[row, label] += scores.log_softmax(-1)[token]
    return masked.exp(), raw


def test_probabilities_are_those_of_brute_force(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, trie: LabelTrie
) -> None:
    found = constrained(model, tiny_tokenizer, trie).probabilities
    expected, _ = brute_force(model, trie)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert len(set(expected.argmax(1).tolist())) > 1


def test_greedy_takes_the_likeliest_choice_at_each_branch(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, trie: LabelTrie
) -> None:
    expected, _ = brute_force(model, trie)
    paths = trie.after(base_of(model).generation_config.forced_bos_token_id).paths
    labels = []
    for row in expected:
        left = list(range(len(paths)))
        for step in range(trie.depth):
            share: dict[int, float] = {}
            for label in left:
                share[paths[label][step]] = share.get(paths[label][step], 0.0) + float(row[label])
            best = max(share, key=lambda token: share[token])
            left = [label for label in left if paths[label][step] == best]
            if len(left) == 1:
                break
        labels += left
    assert constrained(model, tiny_tokenizer, trie).predictions == [WORDS[label] for label in labels]


def test_as_many_beams_as_labels_find_the_likeliest_label(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, trie: LabelTrie
) -> None:
    _, raw = brute_force(model, trie)
    settings = GenerationSettings(max_new_tokens=4, num_beams=20, length_penalty=2.0, batch_size=3)
    found = constrained(model, tiny_tokenizer, trie, settings)
    assert found.predictions == [WORDS[label] for label in raw.argmax(1).tolist()]
    assert torch.equal(found.probabilities, constrained(model, tiny_tokenizer, trie).probabilities)


def test_transformers_own_full_beam_gives_the_same_probabilities(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, trie: LabelTrie
) -> None:
    """`generate` with a beam for every label, scores renormalised under the trie."""
    base: Any = base_of(model)
    forced = base.generation_config.forced_bos_token_id
    inner, head = trie.after(forced), () if forced is None else (forced,)
    config = constrained_config(model, trie, GenerationSettings(max_new_tokens=4, num_beams=len(WORDS)))
    ids, mask = pad_right(sources(), 0, torch.device("cpu"))
    with evaluation_mode(model), torch.inference_mode():
        found = base.generate(
            ids,
            attention_mask=mask,
            generation_config=config,
            prefix_allowed_tokens_fn=allowed_tokens(inner, head),
            renormalize_logits=True,
            length_penalty=0.0,
            num_return_sequences=len(WORDS),
            return_dict_in_generate=True,
            output_scores=True,
        )
    expected = torch.full((6, len(WORDS)), torch.nan, dtype=torch.float64)
    for place, (written, score) in enumerate(
        zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True)
    ):
        expected[place // len(WORDS), inner.label(written[1 + len(head) :])] = score
    torch.testing.assert_close(
        constrained(model, tiny_tokenizer, trie).probabilities, expected.exp(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_batches_do_not_matter_and_free_texts_stay_as_they_are(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, trie: LabelTrie, beams: int
) -> None:
    settings = GenerationSettings(max_new_tokens=4, num_beams=beams, batch_size=3)
    together, alone = (
        constrained(model, tiny_tokenizer, trie, GenerationSettings(max_new_tokens=4, num_beams=beams, batch_size=size))
        for size in (6, 1)
    )
    assert together.predictions == alone.predictions
    torch.testing.assert_close(together.probabilities, alone.probabilities, rtol=1e-9, atol=1e-12)
    decoder, config = LabelDecoder(model, trie, settings, 6), generation_config(model, settings)
    plain = generate_texts(model, tiny_tokenizer, sources(), config, batch_size=3)
    beside = generate_texts(model, tiny_tokenizer, sources(), config, batch_size=3, after_batch=decoder.add)
    assert beside == plain


def test_what_generate_writes_under_the_trie_decodes_to_labels(
    model: nn.Module, tiny_tokenizer: PreTrainedTokenizerFast, trie: LabelTrie
) -> None:
    base: Any = base_of(model)
    forced = base.generation_config.forced_bos_token_id
    allowed = allowed_tokens(trie.after(forced), () if forced is None else (forced,))
    ids, mask = pad_right(sources(), 0, torch.device("cpu"))
    for beams in (1, 4):
        config = constrained_config(model, trie, GenerationSettings(max_new_tokens=2, num_beams=beams))
        with evaluation_mode(model), torch.inference_mode(), own_decoding_defaults(base, config):
            written = base.generate(
                ids, attention_mask=mask, generation_config=config, prefix_allowed_tokens_fn=allowed
            )
        if forced == 77:  # this piece of the tokenizer stands for a language code, which a real one leaves out
            assert {row[1] for row in written.tolist()} == {77}
            written = written[:, 2:]
        words = decode(tiny_tokenizer, written)
        assert set(words) <= set(WORDS), words
        settings = GenerationSettings(max_new_tokens=2, num_beams=beams)
        assert words == constrained(model, tiny_tokenizer, trie, settings).predictions


def test_free_decodings_labels_are_found_again(tiny_t5: PreTrainedModel, tiny_tokenizer: Any) -> None:
    """Greedy: an output that is a label stays the output when nothing but labels may be written."""
    model: Any = tiny_t5
    config = generation_config(model, GenerationSettings(max_new_tokens=4))
    ids, mask = pad_right(sources(), 0, torch.device("cpu"))
    with evaluation_mode(model), torch.inference_mode():
        free = model.generate(ids, attention_mask=mask, generation_config=config)[:, 1:]
    paths = [(*row, 1) for row in free.tolist() if 1 not in row]  # as if the model had ended these by itself
    assert len(set(paths)) > 2
    trie = LabelTrie([str(path) for path in dict.fromkeys(paths)], list(dict.fromkeys(paths)), 1)
    found = constrained(model, tiny_tokenizer, trie).predictions
    assert [label for label, row in zip(found, free.tolist(), strict=True) if 1 not in row] == [str(p) for p in paths]


def test_rules_of_the_free_decoding_do_not_bind(
    tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    words = ["fell fell fell fell", "rose rose rose rose"]
    trie = label_trie(words, tiny_tokenizer, 24)
    strict = GenerationSettings(max_length=2, no_repeat_ngram_size=1, batch_size=8)
    found = constrained(tiny_t5, tiny_tokenizer, trie, strict)
    assert set(found.predictions) <= set(words)
    assert found.predictions == constrained(tiny_t5, tiny_tokenizer, trie).predictions


def test_one_label_is_certain(tiny_bart: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    found = constrained(tiny_bart, tiny_tokenizer, label_trie(["profit rose"], tiny_tokenizer, 8))
    assert found.predictions == ["profit rose"] * 6
    assert found.probabilities.tolist() == [[1.0]] * 6


@pytest.mark.parametrize("beams", [1, 2])
def test_logits_that_are_not_numbers_still_give_labels(
    tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, beams: int
) -> None:
    with torch.no_grad():
        tiny_t5.get_decoder().final_layer_norm.weight.fill_(torch.nan)
    trie = label_trie(WORDS, tiny_tokenizer, 16)
    found = constrained(tiny_t5, tiny_tokenizer, trie, GenerationSettings(max_new_tokens=4, num_beams=beams))
    assert set(found.predictions) <= set(WORDS)
    assert found.probabilities.sum(1).tolist() == pytest.approx([1.0] * 6)


def test_without_a_cache_that_can_be_cut(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    trie = label_trie(WORDS, tiny_tokenizer, 16)
    expected = constrained(tiny_t5, tiny_tokenizer, trie)
    decoder = LabelDecoder(tiny_t5, trie, SETTINGS, 6)
    for config in (decoder._config, decoder._one_beam):
        config.use_cache = False
    config = generation_config(tiny_t5, SETTINGS)
    generate_texts(tiny_t5, tiny_tokenizer, sources(), config, batch_size=3, after_batch=decoder.add)
    found = decoder.outputs()
    assert found.predictions == expected.predictions
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-5, atol=1e-7)


def test_the_likeliest_labels_are_written() -> None:
    words = tuple(f"label {n}" for n in range(12))
    values = torch.arange(1, 13, dtype=torch.float64) / 78
    outputs = LabelOutputs(words, ["label 3"], values[None], 0.0)
    record = outputs.record(0)
    assert record["constrained_prediction"] == "label 3"
    assert list(record["label_probabilities"]) == [f"label {n}" for n in range(11, 1, -1)]
    assert record["label_probabilities"]["label 11"] == 0.153846
    assert sum(outputs.of_row(0).values()) == pytest.approx(1.0)
    equal = LabelOutputs(words[:2], ["label 1"], torch.tensor([[0.5, 0.5]]).double(), 0.0)
    assert list(equal.of_row(0)) == ["label 1", "label 0"]
    few = LabelOutputs(words[:3], ["label 0"], torch.tensor([[0.2, 0.5, 0.3]]).double(), 0.0)
    assert few.record(0)["label_probabilities"] == {"label 1": 0.5, "label 2": 0.3, "label 0": 0.2}
