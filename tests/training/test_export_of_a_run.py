"""Exports of a finished run: its scores decide, its tokenizer, decoding and settings come along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.forms import SOURCES, assert_close, of_adapter, of_lora
from tests.training.conftest import Run
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import spectune
from spectune.formats.adapter_files import IMPORTANCE
from spectune.formats.saved_adapter import SavedAdapter
from spectune.formats.triplet_scores import triplet_scores

pytestmark = pytest.mark.usefixtures("quick_proof")


def test_its_scores_decide(run: Run, table: Path, tmp_path: Path) -> None:
    result = run()
    scores = triplet_scores(SavedAdapter.read(result.adapter))
    assert scores.kind == "importance"
    pattern, kept = SavedAdapter.read(result.adapter).config["rank_pattern"], load_file(result.adapter / IMPORTANCE)
    for name, values in scores.of.items():
        slots = [slot for slot, alive in enumerate(pattern[f"{name}.lora_E"]) if alive]
        assert values.tolist() == kept[name].double()[slots].tolist()
        assert torch.isfinite(values).all()
    small = spectune.export(result.directory, tmp_path / "small", format="adalora", target_rank=0.5)
    half = len(scores.of) // 2
    assert (small.chosen_by, sum(small.ranks.values())) == ("importance", half)
    every = sorted((value for values in scores.of.values() for value in values.tolist()), reverse=True)
    again = triplet_scores(SavedAdapter.read(small.directory))
    assert sorted((v for values in again.of.values() for v in values.tolist()), reverse=True) == every[:half]
    assert spectune.ranks(small.directory) == small.ranks
    assert spectune.ranks(result.directory) == result.summary["ranks"]

    found = spectune.export_sweep(result.directory, table, target_ranks=[2, 0.5], format="adalora")
    assert [point.triplets for point in found.points] == [sum(result.summary["ranks"].values()), half]
    assert [point.weights_bytes for point in found.points][1] == small.weights_bytes
    expected = spectune.evaluate(small.directory, table)
    assert found.points[1].metrics == expected.metrics, "a sweep says what the export will give"
    assert found.points[0].metrics == spectune.evaluate(result.directory, table).metrics


def test_a_sweep_rounds_as_a_load_of_the_export_does(run: Run, table: Path, tmp_path: Path) -> None:
    """PEFT rounds an adapter to a bfloat16 base where its file has a rank pattern: the whole one has none here."""
    result = run(model={"dtype": "bfloat16"}, adapter={"init_r": 2})
    assert not SavedAdapter.read(result.adapter).config["rank_pattern"]
    small = spectune.export(result.directory, tmp_path / "small", format="adalora", target_rank=1)
    assert SavedAdapter.read(small.directory).config["rank_pattern"]
    found = spectune.export_sweep(result.directory, table, target_ranks=[2, 1], format="adalora")
    assert found.points[0].metrics == spectune.evaluate(result.directory, table).metrics
    assert found.points[1].metrics == spectune.evaluate(small.directory, table).metrics


def test_texts_and_settings_come_along(run: Run, tmp_path: Path) -> None:
    result = run(base="bart", data={"max_source_length": 48}, model={"dtype": "float32"})
    expected = spectune.predict(result.adapter, SOURCES)
    merged = spectune.export(result.directory, tmp_path / "merged", format="merged").directory
    tokenizer = AutoTokenizer.from_pretrained(merged)
    tokens = AutoModelForSeq2SeqLM.from_pretrained(merged).generate(
        **tokenizer(SOURCES, return_tensors="pt", padding=True)
    )
    assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == expected, "the run's own decoding"
    lora = spectune.export(result.directory, tmp_path / "lora").directory
    assert_close(of_lora(lora), of_adapter(result.adapter))
    assert AutoTokenizer.from_pretrained(lora).get_vocab() == tokenizer.get_vocab()
    assert GenerationConfig.from_pretrained(lora).max_new_tokens is not None
    for place in (lora, merged):
        card = (place / "README.md").read_text("utf-8")
        assert card.startswith("---\nlibrary_name: ")
        assert str(tmp_path) not in card, "no path of this machine"
    again = spectune.export(result.directory, tmp_path / "again", format="adalora").directory
    assert spectune.predict(again, SOURCES) == expected
