"""Mistakes of a first day, through the Python interface: each an error of one line that says what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.forms import adapter_of_peft
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

import spectune
from spectune.base_model import load_tokenizer
from spectune.config import ModelConfig
from spectune.data.table import Table
from spectune.errors import DataError, ModelError
from spectune.proposal import _guess
from spectune.runfile import load_run_config
from spectune.training.loop import Loop
from spectune.training.saving import Progress


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("hello", r"texts must be a list of texts; for one text give \[text\]"),
        (["a", 3], r"texts\[1\] must be a text, not int"),
        (["a", "\ud800"], r"texts\[1\] is not valid Unicode"),
        (["a", " "], r"texts\[1\] is empty; leave it out"),
    ],
)
def test_texts_that_are_none(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, texts: Any, message: str) -> None:
    adapter = adapter_of_peft(tmp_path, tiny_tokenizer, "bart", pruned=False)
    with pytest.raises(DataError, match=message):
        spectune.predict(adapter, texts)


def test_a_model_without_its_tokenizer(tmp_path: Path) -> None:
    """transformers makes an empty one of special tokens, and every text would be the same."""
    width: dict[str, Any] = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16}
    heads: dict[str, Any] = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    layers: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "vocab_size": 20}
    BartForConditionalGeneration(BartConfig(**width, **heads, **layers)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer's files; save the tokenizer beside the model"):
        load_tokenizer(str(tmp_path), ModelConfig(model_name_or_path=str(tmp_path)))


@pytest.mark.parametrize("sign", [";", "|"])
def test_another_separator_is_named(sign: str) -> None:
    name = f"text{sign}label"
    table = Table(origin="a.csv", columns=(name,), rows=[{name: f"good{sign}positive"}])
    with pytest.raises(DataError, match=rf"it looks separated by '\{sign}': save it with commas, or with tabs as .tsv"):
        _guess(table)


def test_of_equal_values_the_one_with_the_lower_loss_is_the_best() -> None:
    """An exact match stays at 0 for many evaluations, and ends at 1 in many."""
    loop = Loop.__new__(Loop)
    loop.metric, loop.progress = "exact_match", Progress()
    chosen = []
    for step, (value, loss) in enumerate([(0.0, 5.0), (0.0, 4.0), (0.0, 4.5), (0.5, 6.0), (0.5, 6.0), (0.4, 1.0)]):
        loop._compare(step, value, loss)
        assert loop.progress.best is not None
        chosen.append((loop.progress.best["step"], loop.progress.without_gain))
    assert chosen == [(0, 0), (1, 1), (1, 2), (3, 0), (3, 1), (3, 2)]  # an early stop asks for a better value


@pytest.mark.parametrize("metric", ["eval_loss", "exact_match"])
def test_an_evaluation_that_overflows_is_never_the_best(metric: str) -> None:
    """Nothing compares with NaN: as the first it would stay the best for ever."""
    loop = Loop.__new__(Loop)
    loop.metric, loop.progress = metric, Progress()
    best = []
    for step, loss in enumerate([math.nan, 2.0, math.nan, math.inf]):
        loop._compare(step, loss if metric == "eval_loss" else 0.0, loss)
        assert loop.progress.best is not None
        best.append(loop.progress.best["step"])
    assert best == [0, 1, 1, 1]


def test_a_home_directory_in_a_run_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No shell expands it there; the run lay in a directory called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    sections = {"data": {"train_file": "x"}, "train": {"output_dir": "~/runs/a"}, "adapter": {"init_from": "~/b"}}
    config = load_run_config(None, base={"model": {"model_name_or_path": "starter"}, **sections})
    assert (config.train.output_dir, config.adapter.init_from) == (str(tmp_path / "runs/a"), str(tmp_path / "b"))
