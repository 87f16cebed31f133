from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import make_tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from spectune.data.tokenization import tokenize_targets
from spectune.errors import ConfigError
from spectune.evaluation.label_trie import Branch, LabelTrie, label_trie

END = 1
BODIES = st.sets(st.lists(st.integers(2, 5), max_size=5).map(tuple), min_size=1, max_size=12)


def trie_of(bodies: set[tuple[int, ...]]) -> LabelTrie:
    paths = [(*body, END) for body in sorted(bodies)]
    return LabelTrie([f"label {index}" for index in range(len(paths))], paths, END)


def written(trie: LabelTrie, prefix: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Everything that the allowed tokens let one write, up to the end token."""
    if prefix and prefix[-1] == END:
        return [prefix]
    return [path for token in trie.allowed(prefix) for path in written(trie, (*prefix, token))]


def through_branches(node: Branch | int, before: tuple[int, ...] = ()) -> list[tuple[tuple[int, ...], int]]:
    """For each label the tokens up to where it is certain."""
    if isinstance(node, int):
        return [(before, node)]
    pairs = zip(node.tokens, node.below, strict=True)
    return [found for token, below in pairs for found in through_branches(below, (*before, token))]


@given(BODIES)
def test_what_can_be_written_is_the_labels(bodies: set[tuple[int, ...]]) -> None:
    trie = trie_of(bodies)
    assert sorted(written(trie)) == sorted(trie.paths)
    for label, path in enumerate(trie.paths):
        assert trie.label(path) == label
        assert trie.label((*path, 0, 0, 7)) == label  # padding does not count
        assert trie.allowed(path) == [END]
    assert trie.allowed((99,)) == [END]


@given(BODIES)
def test_the_branches_lead_to_each_label_as_far_as_it_is_shared(bodies: set[tuple[int, ...]]) -> None:
    trie = trie_of(bodies)
    found = through_branches(trie.root())
    assert sorted(label for _, label in found) == list(range(len(bodies)))
    for way, label in found:
        assert [path[: len(way)] for path in trie.paths].count(way) == 1
        assert trie.paths[label][: len(way)] == way
        assert not way or [path[: len(way) - 1] for path in trie.paths].count(way[:-1]) > 1


@given(BODIES, st.lists(st.integers(0, 9), max_size=7))
def test_any_tokens_end_at_some_label_as_far_as_they_can_be_followed(
    bodies: set[tuple[int, ...]], tokens: list[int]
) -> None:
    trie = trie_of(bodies)
    path = trie.paths[trie.label(tokens)]
    common = next(
        (i for i, (a, b) in enumerate(zip(path, tokens, strict=False)) if a != b), min(len(path), len(tokens))
    )
    longest = max(
        next((i for i, (a, b) in enumerate(zip(p, tokens, strict=False)) if a != b), min(len(p), len(tokens)))
        for p in trie.paths
    )
    assert common == longest


def test_a_label_that_begins_another_is_one_of_its_own() -> None:
    trie = trie_of({(2,), (2, 3), (2, 3, 4)})
    assert trie.allowed((2,)) == [END, 3]
    assert [trie.label(path) for path in ((2, END), (2, 3, END), (2, 3, 4, END))] == [0, 1, 2]
    assert [a < b for a, b in pairwise(map(len, trie.paths))] == [True, True]


def test_behind_a_forced_token() -> None:
    both = LabelTrie("ab", [(0, 2, END), (0, 3, END)], END)
    assert both.after(0).paths == ((2, END), (3, END))
    assert both.after(None).paths == both.after(2).paths == both.paths
    mixed = LabelTrie("ab", [(0, 2, END), (3, END)], END)
    assert mixed.after(0).paths == mixed.paths


def test_what_is_no_trie() -> None:
    for words, paths in (
        ("", []),
        ("a", [(2,)]),
        ("a", [(END, END)]),
        ("ab", [(2, END), (2, END)]),
        ("ab", [(2, END)]),
    ):
        with pytest.raises(ValueError, match="token ids"):
            LabelTrie(words, paths, END)


def test_labels_are_encoded_as_targets_are(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    words = ["profit", "profit rose", "no change"]
    trie = label_trie(words, tiny_tokenizer, 16)
    assert [list(path) for path in trie.paths] == tokenize_targets(words, tiny_tokenizer, max_target_length=16)
    assert [tiny_tokenizer.decode(list(path), skip_special_tokens=True) for path in trie.paths] == words
    lengths = [len(path) for path in trie.paths]
    shorter = max(lengths) - 1
    cut = label_trie(words, tiny_tokenizer, shorter)
    assert [len(path) for path in cut.paths] == [min(length, shorter) for length in lengths]
    assert all(path[-1] == tiny_tokenizer.eos_token_id for path in cut.paths)


def test_labels_that_are_the_same_tokens_are_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match=r"'profit rose' and 'profit rose again' are the same . tokens .*length 3"):
        label_trie(["profit rose", "fell", "profit rose again"], tiny_tokenizer, 3)


def test_what_stands_behind_the_end_token_is_never_generated(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = make_tokenizer()  # legacy mBART: text, end token, language code
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <unk>", special_tokens=[("</s>", 1), ("<unk>", 2)]
    )
    words = ["profit rose", "no change"]
    assert tokenizer(text_target=words)["input_ids"][0][-2:] == [1, 2]
    assert label_trie(words, tokenizer, 16).paths == label_trie(words, tiny_tokenizer, 16).paths


def test_a_tokenizer_without_end_token_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="needs a tokenizer with an end token"):
        label_trie(["a", "b"], tokenizer, 8)
