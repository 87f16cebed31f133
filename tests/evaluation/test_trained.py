"""A finished adapter on its base, whoever made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.forms import adapter_of_peft
from transformers import PreTrainedTokenizerFast

import spectune
from spectune.errors import DataError

POSITIONS = 64  # of the tiny BART: fewer than the default lengths


def test_lengths_fit_the_base_of_somebody_elses_adapter(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Nobody has checked the default lengths against this base; long sources are cut, outputs that never end, too."""
    adapter = adapter_of_peft(tmp_path, tiny_tokenizer, "bart", pruned=False)
    place = tmp_path / "base" / "generation_config.json"
    never = {"eos_token_id": len(tiny_tokenizer) - 1, "pad_token_id": 0}
    place.write_text(json.dumps(json.loads(place.read_text("utf-8")) | never), encoding="utf-8")
    trained = spectune.load(adapter)
    assert trained.model.config.max_position_embeddings == POSITIONS
    long = "profit rose " * POSITIONS
    assert len(spectune.predict(trained, [long, "sales fell"])) == 2
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": long, "target": long}) + "\n", encoding="utf-8")
    assert spectune.evaluate(trained, rows).metrics["eval_loss"].value > 0


def test_texts_may_come_from_anything_that_yields_them(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Looking at each of an iterator's texts would leave none of them to predict."""
    trained = spectune.load(adapter_of_peft(tmp_path, tiny_tokenizer, pruned=False))
    texts = ["profit rose", "sales fell"]
    expected = spectune.predict(trained, texts)
    assert len(expected) == 2
    assert spectune.predict(trained, (text for text in texts)) == expected
    assert spectune.predict(trained, map(str, texts)) == expected
    numbers: Any = [3]
    with pytest.raises(DataError, match=r"texts\[0\] must be a text, not int"):
        spectune.predict(trained, numbers)
    wrong: list[Any] = ["profit rose", None, 3, {"text": "profit rose"}]
    for given in wrong:
        with pytest.raises(DataError, match=r"texts must be a list of texts; for one text give \[text\]"):
            spectune.predict(trained, given)
