"""`spectune plan` shows the resolved run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import RunCli

from spectune.config import TrainConfig
from spectune.errors import ConfigError
from spectune.planning import plan_run, run_lengths
from spectune.runfile import load_run_config


def test_numbers_of_a_small_run(run_file: Path) -> None:
    plan = plan_run(load_run_config(run_file, ["train.num_train_epochs=4", "data.validation_split=null"]))
    assert plan.lengths.rows == 120
    assert (plan.lengths.steps_per_epoch, plan.lengths.total_step) == (15, 60)
    assert (plan.schedule.tinit, plan.schedule.freeze_step) == (6, 45)
    assert len(plan.targets) == 96  # 6 encoder layers of 6 matrices, 6 decoder layers of 10
    assert (plan.initial_budget, plan.target_budget) == (32 * 96, 8 * 96)
    attention, feed_forward = 72 * (768 + 768 + 1), 24 * (768 + 3072 + 1)
    assert plan.parameters.trainable_at_start == 32 * (attention + feed_forward)
    assert plan.parameters.total == 139_420_416  # as published
    assert plan.targets_by_role()["decoder cross_attention"] == {"k": 6, "v": 6, "q": 6, "o": 6}


def test_what_is_printed(run_cli: RunCli, run_file: Path) -> None:
    finished = run_cli("plan", run_file, "train.max_steps=100")
    assert finished.status == 0, finished.err
    for part in ("100 steps", "freeze_step 75", "3,072 → 768", "96 matrices", "139,420,416", "estimate", "last step"):
        assert part in finished.out
    assert "\npreset " not in finished.out


def test_memory_is_of_the_rows_where_they_can_be_tokenised(run_cli: RunCli, run_file: Path) -> None:
    small = ("model.model_name_or_path=starter", "adapter.init=gradient", "train.max_steps=20")
    finished = run_cli("plan", run_file, *small)
    assert not finished.err
    assert "an estimate at the largest of its own batches" in finished.out
    assert "0.5 GB  imported libraries, about, not in the sum" in finished.out
    assert "gradients of whole matrices before the first step" in finished.out
    assert "at full length" in run_cli("plan", run_file, *small, "data.train_file=gone.csv").out
    cut = run_cli("plan", run_file, *small, "data.max_source_length=3").out
    assert "note: train cut: 100.0% of sources (longest" in cut
    assert " cut: " not in finished.out
    refused = run_cli("plan", run_file, *small, "data.max_target_length=1")
    assert "data.max_target_length 1 leaves no token" in refused.error()
    assert not refused.out
    half = ("train.max_steps=20", "model.dtype=float16")
    assert run_cli("plan", run_file, *half).status == 0, "it may be meant for a GPU"
    assert "overflows in t5" in run_cli("plan", run_file, *small, *half).error(), "wherever it is trained"


def test_a_missing_table_needs_max_steps(run_cli: RunCli, run_file: Path) -> None:
    gone = "data.train_file=gone.csv"
    assert "gone.csv does not exist" in run_cli("plan", run_file, gone).error()
    finished = run_cli("plan", run_file, gone, "train.max_steps=100")
    assert finished.status == 0
    assert "note: the data was not read" in finished.out


def test_a_stream(run_cli: RunCli, run_file: Path, reviews: Path) -> None:
    streamed = ["data.streaming=true", "evaluation.eval_strategy=steps", "evaluation.eval_steps=10"]
    assert "give train.max_steps" in run_cli("plan", run_file, *streamed).error()
    streamed += ["train.max_steps=100"]
    assert "give data.validation_file" in run_cli("plan", run_file, *streamed).error()
    shown = run_cli("plan", run_file, *streamed, f"data.validation_file={reviews}").out
    assert f"train: streamed from {reviews}, number of rows unknown, shuffled in a buffer of 10,000" in shown
    assert "100 steps, batches of 8, rows streamed, their number unknown" in shown
    assert "validation: 120 rows of" in shown


def test_what_is_no_encoder_decoder_is_refused(run_cli: RunCli, run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert "no encoder-decoder" in run_cli("plan", run_file, f"model.model_name_or_path={tmp_path / 'gpt'}").error()


def test_equal_ranks_are_noted(run_cli: RunCli, run_file: Path) -> None:
    assert "no rank will move" in run_cli("plan", run_file, "adapter.target_r=12", "adapter.init_r=12").out


def test_lengths_round_up() -> None:
    train = TrainConfig(per_device_train_batch_size=8, gradient_accumulation_steps=2, num_train_epochs=1.5)
    assert run_lengths(train, 41).steps_per_epoch == 3  # 6 batches, the last one short
    assert run_lengths(train, 41).total_step == 5
    with pytest.raises(ConfigError, match=r"train\.max_steps"):
        run_lengths(train, None)


def test_a_preset_is_shown(run_cli: RunCli, run_file: Path) -> None:
    finished = run_cli("plan", run_file, "train.max_steps=100", "preset=paper", "adapter.target_r=4")
    assert finished.status == 0, finished.err
    for part in ("preset     paper", "lora_alpha 32", "learning_rate 0.0005", "otherwise  adapter.init_r 6, adapter.t"):
        assert part in finished.out
    assert "tinit 12, freeze_step 51" in finished.out
    assert "choose from paper, fast, best" in run_cli("plan", run_file, "preset=quick").error()
