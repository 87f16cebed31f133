"""The batches that memory is reckoned with are the largest that the run's own loader will make."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from spectune.config import RunConfig
from spectune.data.loader import BatchLoader
from spectune.data.prepare import prepare_data
from spectune.data.tokenization import tokenize_examples
from spectune.memory import lengths
from spectune.memory.lengths import BatchShape, Largest, largest_batches
from spectune.runfile import load_run_config

ROWS = 90


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows of very different lengths, long sources without long targets."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": "profit rose " * (1 + n * 7 % 23), "target": "sales fell " * (1 + n * 5 % 11)} for n in range(ROWS)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def configuration(table: Path, **data: Any) -> RunConfig:
    columns = {"train_file": str(table), "text_column": "text", "target_column": "target", "task": "text2text"}
    values = {"model": {"model_name_or_path": "x"}, "train": {"per_device_train_batch_size": 4}}
    return load_run_config(None, base=values | {"data": columns | {"max_source_length": 40} | data})


def reckoned(config: RunConfig, tokenizer: Any) -> Largest:
    return largest_batches(config, prepare_data(config.data, seed=config.train.seed), tokenizer, epochs=2.0)


def test_rows_that_are_cut_are_said(table: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """In the line that `train` has, where they are many."""
    config = configuration(table, validation_split=None, max_source_length=10)
    data = prepare_data(config.data, seed=config.train.seed)
    whole = tokenize_examples(data.train, tiny_tokenizer, max_source_length=10, max_target_length=128, progress=None)
    assert whole.truncation.sources_cut > 0.05 * len(data.train)
    assert [line.split(";")[0] for line in reckoned(config, tiny_tokenizer).cut] == [f"train {whole.truncation.line()}"]
    assert reckoned(configuration(table, max_source_length=1000), tiny_tokenizer).cut == ()


def test_they_are_the_loaders_own(table: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    config = configuration(table, validation_split=0.3)
    data = prepare_data(config.data, seed=config.train.seed)
    limits = {"max_source_length": 40, "max_target_length": config.data.max_target_length}
    sets = [
        tokenize_examples(examples, tiny_tokenizer, **limits, progress=None)
        for examples in (data.train, data.validation)
    ]
    loader = BatchLoader(sets[0], batch_size=4, seed=config.train.seed, pad_token_id=0)
    windows = list(islice(loader, 2 * loader.windows_per_epoch))
    shapes = {(*w.batches[0]["input_ids"].shape, w.batches[0]["labels"].shape[1]) for w in windows}
    found = reckoned(config, tiny_tokenizer)
    assert {(one.rows, one.source, one.target) for one in found.training} <= shapes
    assert max(one.source for one in found.training) == max(source for _, source, _ in shapes) == 40
    assert max(one.target for one in found.training) == max(target for _, _, target in shapes)
    rows, longest = len(data.validation), max(map(len, sets[1].labels))
    assert found.evaluation == BatchShape(rows, max(map(len, sets[1].input_ids)), longest)
    assert found.new_tokens == max(map(len, sets[0].labels)) + 2
    assert found.from_rows


def test_of_a_large_table_the_longest_rows_do(
    table: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = reckoned(configuration(table), tiny_tokenizer)
    monkeypatch.setattr(lengths, "_MOST_CHARACTERS", 100)
    monkeypatch.setattr(lengths, "_LONGEST", 10)
    found = reckoned(configuration(table), tiny_tokenizer)
    longest = max(one.source for one in exact.training), max(one.target for one in exact.training)
    assert found.training == (BatchShape(4, *longest),)


def test_full_lengths_without_rows_or_with_full_padding(table: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    config = configuration(table, max_target_length=30)
    full = BatchShape(4, 40, 30)
    for found in (largest_batches(config, None, tiny_tokenizer, 1.0), reckoned(config, None)):
        assert found == Largest((full,), BatchShape(32, 40, 30), 32, from_rows=False)
    padded = configuration(table, max_target_length=30, padding="max_length")
    assert reckoned(padded, tiny_tokenizer).training == (full,)


def test_sources_fill_whole_blocks_where_the_model_pads_them(
    table: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    config = configuration(table)
    data, block = prepare_data(config.data, seed=config.train.seed), 16
    limits = {"max_source_length": 40, "max_target_length": config.data.max_target_length}
    rows = tokenize_examples(data.train, tiny_tokenizer, **limits, progress=None)
    loader = BatchLoader(rows, batch_size=4, seed=config.train.seed, pad_token_id=0, source_block=block)
    batches = [window.batches[0] for window in islice(loader, 2 * loader.windows_per_epoch)]
    shapes = {
        (len(one["labels"]), -(-one["input_ids"].shape[1] // block) * block, one["labels"].shape[1]) for one in batches
    }
    found = largest_batches(config, data, tiny_tokenizer, 2.0, block)
    assert {(one.rows, one.source, one.target) for one in found.training} <= shapes
    assert max(one.source for one in found.training) == 48
    assert found.evaluation.source in (32, 48)
    assert largest_batches(config, None, None, 2.0, block).training[0].source == 48


@pytest.mark.parametrize(("labels", "num_beams", "expected"), [(3, 1, 3), (9, 1, 4), (9, 6, 6)])
def test_branches_of_the_label_trie_count_as_beams(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, labels: int, num_beams: int, expected: int
) -> None:
    path = tmp_path / "labelled.jsonl"
    rows = [{"text": f"profit rose {n}", "label": f"sales fell {n % labels}"} for n in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = []
    for constrain in (False, True):
        evaluation = {"num_beams": num_beams, "constrain_labels": constrain}
        values = {"model": {"model_name_or_path": "x"}, "data": {"train_file": str(path)}, "evaluation": evaluation}
        found.append(reckoned(load_run_config(None, base=values), tiny_tokenizer).beams)
    assert found == [num_beams, expected]
