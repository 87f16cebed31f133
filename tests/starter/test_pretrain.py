"""The pre-training program, end to end on a tiny text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from spectune.starter.export import read_checkpoint
from spectune.starter.pretrain import learning_rate, main

STEPS = 8


def tiny(corpus: Path, output: Path, *more: str) -> None:
    settings = f"--corpus {corpus} --output {output} --steps {STEPS} --batch 4 --chunk 24 --width 32 --pieces 400"
    every = "--held-out-lines 20 --log-every 2 --save-every 4"
    main([*settings.split(), *every.split(), *more])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    words = "the a small large company ship horse profit costs rose fell and but of in".split()
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(words), (150, 14), generator=generator).tolist()
    path.write_text("\n".join(" ".join(words[pick] for pick in line) + "." for line in picks), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    tiny(corpus, output)
    return output


def test_it_leaves_a_loadable_model_with_card_and_log(finished: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    loss = model(
        **tokenizer("the ship rose", return_tensors="pt"), labels=tokenizer("a", return_tensors="pt").input_ids
    )
    assert torch.isfinite(loss.loss)
    assert "toy" in (finished / "model" / "README.md").read_text(encoding="utf-8")
    lines = (finished / "model" / "pretraining_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == STEPS


def test_a_run_stopped_and_resumed_is_the_run_that_was_not(corpus: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "tokenizer", tmp_path / "tokenizer")  # learning one twice may give two
    tiny(corpus, tmp_path, "--stop-after", "3")
    assert read_checkpoint(tmp_path / "checkpoint")[0]["step"] == 3
    tiny(corpus, tmp_path, "--resume")
    whole, parts = (read_checkpoint(path / "checkpoint")[1] for path in (finished, tmp_path))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_resumed_run_repeats_its_settings(corpus: Path, finished: Path) -> None:
    with pytest.raises(SystemExit, match="resume with --chunk 24"):
        main(
            f"--corpus {corpus} --output {finished} --steps 9 --batch 4 --chunk 32 --width 32 --held-out-lines 20 "
            "--resume".split()
        )


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(progress, 1.0) for progress in (0.0, 0.01, 0.02, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([0.02, 0.5, 1.0, 1.0, 0.51, 0.02])
