"""The bundled model: it loads, it is small, and a person can have a copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from spectune.errors import UserError
from spectune.starter.bundle import model_directory, write_model


def test_the_model_loads_in_full_precision_and_is_small() -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(model_directory())
    assert 3_000_000 <= model.num_parameters() <= 7_000_000
    assert model.dtype == torch.float32
    assert sum(path.stat().st_size for path in model_directory().rglob("*")) <= 16 * 2**20


@torch.no_grad()
def test_the_base_has_learned_to_fill_gaps() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    model = AutoModelForSeq2SeqLM.from_pretrained(model_directory()).eval()
    source = tokenizer("It was one of <extra_id_0> best films of <extra_id_1> year.", return_tensors="pt")
    losses = [
        float(model(**source, labels=tokenizer(filling, return_tensors="pt").input_ids).loss)
        for filling in ("<extra_id_0> the<extra_id_1> the", "<extra_id_0> year<extra_id_1> best")
    ]
    assert losses[0] < losses[1]


def test_a_copy_is_the_bundled_model(tmp_path: Path) -> None:
    write_model(tmp_path / "new" / "model")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "new" / "model").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in model_directory().iterdir()}


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write_model(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        write_model(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_finding_the_bundle_needs_no_torch() -> None:
    code = "import sys, spectune.starter.bundle, spectune.starter.sentences; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
