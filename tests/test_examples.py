"""Every example is a run file that can be read and planned; no weights are needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import SENTENCES
from tests.families import TOKENIZERS

from spectune.data.prepare import prepare_data
from spectune.planning import plan_run
from spectune.runfile import load_run_config

ROOT = Path(__file__).parents[1]
EVERY = sorted((ROOT / "examples").rglob("*.yaml"))
EXAMPLES = [path for path in EVERY if path.parent.name != "paper"]  # those are in test_paper_examples.py
SETS = ("clinc150", "e2e_nlg", "mr_sentiment", "scan", "scitldr", "tatoeba_en_es")
FOLDERS = ("bart-base", "bart-large", "flan-t5-base", "starter")
SINGLE = ("led-base-16384/scitldr.yaml", "mbart-large-50/tatoeba_en_es.yaml")
"""Examples of what one family asks for."""


def test_every_set_has_a_run_file_for_every_model() -> None:
    expected = {f"{folder}/{name}.yaml" for folder in FOLDERS for name in SETS}
    found = {path.relative_to(ROOT / "examples").as_posix() for path in EXAMPLES}
    assert found == {*expected, *SINGLE, "demo.yaml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_example_is_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The data may be missing where the suite runs; with max_steps a plan needs only the configuration.
    monkeypatch.setenv("SPECTUNE_DATA", str(tmp_path))
    config = load_run_config(path, ["train.max_steps=400"])
    local = ROOT / "tests" / "configs" / path.parent.name
    if local.is_dir():
        assert config.model.model_name_or_path.endswith(f"/{path.parent.name}")
        base = with_tokenizer(local, tmp_path) if config.data.source_lang is not None else local
        config = load_run_config(path, ["train.max_steps=400", f"model.model_name_or_path={base}"])
    plan = plan_run(config)
    assert plan.schedule.freeze_step == 300
    assert plan.target_budget == (config.adapter.target_r or 0) * len(plan.targets)
    assert 0 < plan.parameters.trainable_after_freeze < 0.1 * plan.parameters.total


def with_tokenizer(local: Path, directory: Path) -> Path:
    """A configuration with a multilingual tokenizer beside it: a plan checks the codes."""
    shutil.copy(local / "config.json", directory)
    TOKENIZERS["mbart50"](SENTENCES, directory).save_pretrained(directory)
    return directory


def test_output_directories_differ() -> None:
    directories = [load_run_config(path).train.output_dir for path in EVERY]
    assert len(set(directories)) == len(directories) > len(EXAMPLES)


@pytest.mark.parametrize("name", SETS)
def test_example_fits_its_data(name: str, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTUNE_DATA", str(data_root))
    config = load_run_config(ROOT / "examples" / "starter" / f"{name}.yaml")
    prepared = prepare_data(config.data, seed=config.train.seed)
    assert prepared.train
    assert prepared.validation
    assert prepared.test
    assert (prepared.verbalizer is not None) == (config.data.task == "classification")
