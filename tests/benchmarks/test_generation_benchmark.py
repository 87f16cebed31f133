"""The generation benchmark on a tiny shape: one adapter, the same rows and tokens for all, and the fields it writes."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks.generation import Numbers, Work, check_equal, contenders, load, make_adapter, measure
from benchmarks.rows import Rows, bundled_tokenizer, make

from benchmarks import generation, writing
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config

WORDS = "the film was a quiet story of two people who never say what they mean and it is very good".split()


def rows(count: int) -> Rows:
    draw = random.Random(5)
    pairs = [(" ".join(draw.choices(WORDS, k=draw.randrange(3, 15))), draw.choice(WORDS)) for _ in range(count)]
    return make(pairs, bundled_tokenizer())


@pytest.fixture
def work(tmp_path: Path) -> Work:
    tokenizer = bundled_tokenizer()
    adapter = make_adapter("tiny-words", tmp_path, tokenizer)
    return Work(adapter, rows(13), tokenizer, GenerationSettings(max_new_tokens=4, batch_size=5))


def test_all_write_the_same_tokens_and_differ_from_row_to_row(work: Work) -> None:
    numbers = Numbers(work.tokenizer)
    found = {name: evaluate(numbers)[0] for name, evaluate in contenders(work).items()}
    assert list(found) == ["peft example", "trainer, 8 rows", "trainer, 5 rows", "spectune, 5 rows"]
    assert check_equal(found) == 0
    texts = found["spectune, 5 rows"]
    assert len(texts) == 13
    assert len(set(texts)) > 6
    assert max(len(text.split()) for text in texts) == 4


def test_the_adapter_is_pruned_to_unequal_ranks_and_changes_the_output(work: Work) -> None:
    model = load(work)
    ranks = {len(entry) for name, entry in model.named_parameters() if "lora_E" in name}
    assert len(ranks) > 2
    numbers: Any = Numbers(work.tokenizer)
    config, ids = generation_config(model, work.settings), work.rows.tokenized.input_ids
    adapted = generate_texts(model, numbers, ids, config, batch_size=5)
    with model.disable_adapter():
        assert generate_texts(model, numbers, ids, config, batch_size=5) != adapted


def test_a_difference_between_contenders_is_counted() -> None:
    assert check_equal({"a": ["x", "y", "z"], "b": ["x", "q", "z"], "c": ["x", "y", "z"]}) == 1


def test_unequal_outputs_end_the_benchmark(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "check_equal", lambda found: 2)
    with pytest.raises(SystemExit, match="2 of 13 rows differ"):
        measure(work, rounds=1)


def test_outputs_without_content_end_the_benchmark(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "batch_decode", lambda self, ids, **_: ["" for _ in ids])
    with pytest.raises(SystemExit, match="only 1 of 13 outputs differ"):
        measure(work, rounds=1)


def test_the_file_has_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"text": example.source, "target": example.target}) for example in rows(9).examples]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "test.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("SPECTUNE_DATA", str(tmp_path))
    monkeypatch.setattr(generation, "write", partial(writing.write, directory=tmp_path))
    generation.main("--shape tiny-words --task words --rows 7 --batch 3 --new-tokens 3 --rounds 1".split())
    found = json.loads((tmp_path / "generation-tiny-words-words.json").read_text())
    assert (found["rows"], found["max_new_tokens"], found["batch"]) == (7, 3, 3)
    assert [row["contender"] for row in found["results"]] == list(found["seconds"])
    assert found["results"][-1]["spectune is faster by"] == 1.0
    assert all(row["new tokens a second"] > row["examples a second"] > 0 for row in found["results"])
    assert {"command", "versions", "machine"} <= set(found)
