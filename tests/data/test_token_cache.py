"""The cache of token ids: same ids, found again only for the same texts, tokenizer, lengths and versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import make_tokenizer
from tests.data.helpers import example, tokenized
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spectune.data import token_cache
from spectune.data.examples import Example
from spectune.data.token_cache import TokenCache
from spectune.data.tokenization import TokenizedSet, tokenize_examples
from spectune.formats.digests import serialized_digest

EXAMPLES = [example(n + 1, f"profit number {n} rose", "positive" * (n % 3)) for n in range(40)]
LENGTHS: dict[str, Any] = {"max_source_length": 12, "max_target_length": 6}

Ask = Callable[..., tuple[TokenizedSet, bool]]


@pytest.fixture
def ask(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks a cache in `tmp_path`; gives the ids, and whether they had to be made."""
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 0)

    def asked(
        examples: list[Example] = EXAMPLES, tokenizer: Any = tiny_tokenizer, **lengths: int
    ) -> tuple[TokenizedSet, bool]:
        made = False

        def make() -> TokenizedSet:
            nonlocal made
            made = True
            return tokenize_examples(examples, tokenizer, **(LENGTHS | lengths))

        cache = TokenCache(tmp_path / "tokens", partial(serialized_digest, tokenizer))
        return cache.take_or_make(examples, LENGTHS | lengths, make), made

    return asked


def test_the_second_time_gives_the_same_without_tokenising(ask: Ask) -> None:
    (first, made), (second, made_again) = ask(), ask()
    assert (made, made_again) == (True, False)
    assert replace(second, seconds=first.seconds) == first
    assert second.fingerprint == first.fingerprint


def test_anything_that_changes_the_ids_is_another_entry(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask()
    changed = [replace(EXAMPLES[0], source="profit number 0 fell"), *EXAMPLES[1:]]
    assert ask(changed)[1]
    assert ask([replace(EXAMPLES[0], target="x"), *EXAMPLES[1:]])[1]
    moved = replace(EXAMPLES[1], source=EXAMPLES[1].source + "p", target=EXAMPLES[1].target[1:])
    assert ask([EXAMPLES[0], moved, *EXAMPLES[2:]])[1], "the same characters, divided otherwise"
    assert ask(EXAMPLES[::-1])[1]
    assert ask(max_source_length=11)[1]
    assert ask(max_target_length=5)[1]
    monkeypatch.setattr("spectune.data.token_cache.metadata.version", lambda name: f"{name} 99")
    assert ask()[1]


def test_what_a_tokenizer_is_counts_not_where_it_lies(ask: Ask, tmp_path: Path) -> None:
    original = make_tokenizer()
    for place in ("one", "two"):
        original.save_pretrained(tmp_path / place)
    one, two = (AutoTokenizer.from_pretrained(tmp_path / place) for place in ("one", "two"))
    assert ask(tokenizer=one)[1]
    assert not ask(tokenizer=two)[1]
    lower = make_tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert ask(tokenizer=lower)[1], "the same vocabulary, another normaliser"
    left = make_tokenizer()
    left.truncation_side = "left"
    assert ask(tokenizer=left)[1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_entry_is_made_anew(
    ask: Ask, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, damage: str
) -> None:
    first = ask()[0]
    (path,) = (tmp_path / "tokens").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-9]), "empty": b"", "other": b"x" * 999}[damage])
    cache = TokenCache(tmp_path / "tokens", partial(serialized_digest, tiny_tokenizer))
    again = cache.take_or_make(EXAMPLES, LENGTHS, lambda: first)
    assert again is first
    assert len(cache.notes) == 1
    assert "is damaged and made anew" in cache.notes[0]
    assert not ask()[1]


def test_a_directory_that_cannot_be_written_is_gone_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 0)
    (tmp_path / "file").touch()
    cache = TokenCache(tmp_path / "file" / "tokens", lambda: "digest")
    made = tokenized([(3, 1)])
    assert cache.take_or_make(EXAMPLES, LENGTHS, lambda: made) is made
    assert len(cache.notes) == 1
    assert cache.notes[0].endswith("(Not a directory); going on without")


def test_small_data_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "tokens", lambda: pytest.fail("the tokenizer was asked for"))
    made = tokenized([(3, 1)])
    assert cache.take_or_make(EXAMPLES, LENGTHS, lambda: made) is made
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.tuples(st.lists(st.integers(0, 2**31 - 1)), st.lists(st.integers(0, 9))), max_size=9))
def test_any_ids_come_back(rows: list[tuple[list[int], list[int]]]) -> None:
    made = replace(tokenized([]), input_ids=[ids for ids, _ in rows], labels=[ids for _, ids in rows], tokens=7)
    assert replace(token_cache._decode(token_cache._encode(made), 0.0), seconds=0.0) == made
