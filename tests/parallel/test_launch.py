"""What a launcher says; the plan of a run of several processes; the share of each; and the real launcher."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel.conftest import ACCELERATE, ROOT, TORCHRUN, under_launcher
from transformers import MBartConfig, MBartForConditionalGeneration

from spectune.cli import main
from spectune.config import TrainConfig
from spectune.data.collation import IGNORE_INDEX
from spectune.data.loader import BatchLoader
from spectune.data.tokenization import TokenizedSet, Truncation
from spectune.errors import ConfigError, DataError
from spectune.evaluation.decoding import batches_by_length
from spectune.evaluation.evaluate import Outputs
from spectune.launch import check_launch, world_size
from spectune.planning import run_lengths
from spectune.training.parallel import joined
from spectune.training.signals import Stop
from spectune.training.spread import in_order, rows_of_rank
from spectune.training.step import StepOptions, window_loss


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', which is no number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0; it is the number of processes, at least 1"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set; start"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
            "RANK is 2 of 2 processes",
        ),
    ],
)
def test_a_launcher_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        check_launch()


def test_a_run_started_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")  # left over from elsewhere
    check_launch()
    assert world_size() == 1


@pytest.mark.parametrize(
    ("missing", "message"),
    [("is_available", "built without torch.distributed"), ("is_backend_available", "without gloo")],
)
def test_a_torch_without_a_back_end(monkeypatch: pytest.MonkeyPatch, missing: str, message: str) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, missing, lambda *_: False)
    with pytest.raises(ConfigError, match=message), joined(True, Stop(), lambda: ""):
        pytest.fail("the processes have met")


def test_a_step_takes_the_batches_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    train = TrainConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=2)
    lengths = run_lengths(train, 100)
    assert (lengths.steps_per_epoch, lengths.total_step) == (5, 10)  # 25 batches, six a step
    with pytest.raises(DataError, match="2 training rows cannot be shared out among 3 processes; start fewer"):
        run_lengths(train, 2)


def test_the_plan_shows_the_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["plan", str(ROOT / "examples" / "demo.yaml")]) == 0
    assert "batches of 32 in each of 4 processes" in capsys.readouterr().out


def test_a_mistake_is_said_by_one_process_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for rank in ("0", "1"):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(["train", "none.yaml"]) == 2
        said.append(capsys.readouterr().err)
    assert said == ["spectune: error: none.yaml: there is no such run file\n", ""]


def test_every_row_is_evaluated_once_in_the_batches_of_one_process() -> None:
    lengths = [3, 9, 1, 9, 4, 2, 7, 5, 8, 6, 3]
    shares = [rows_of_rank(lengths, 2, rank, 3) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(11))
    whole = batches_by_length(lengths, 2)
    for share in shares:
        own = [[share[row] for row in batch] for batch in batches_by_length([lengths[row] for row in share], 2)]
        assert all(batch in whole for batch in own)
    written = [(share, Outputs([str(row) for row in share], [(1.0, 2.0)], None)) for share in shares]
    together = in_order(written, 11)
    assert together.predictions == [str(row) for row in range(11)]
    assert together.losses == [(1.0, 2.0)] * 3


def mbart() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    config = MBartConfig(
        vocab_size=60, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, **sizes
    )
    return MBartForConditionalGeneration(config)


def test_a_process_without_rows_adds_nothing() -> None:
    """mBART's rule for the decoder's input fails on a row whose labels are all ignored."""
    whole = Truncation(rows=1, sources_cut=0, targets_cut=0, longest_source=4, longest_target=3)
    rows = TokenizedSet(
        input_ids=[[5, 6, 7, 2]], labels=[[8, 9, 2]], truncation=whole, unfaithful_targets=0, tokens=7, seconds=0.0
    )
    loader = BatchLoader(rows, batch_size=1, seed=0, pad_token_id=1, rank=1, world_size=2)
    window = next(iter(loader))
    [batch] = window.batches
    assert (batch["labels"] == IGNORE_INDEX).all()
    model = mbart()
    model.get_base_model = lambda: model
    options: dict[str, Any] = {"label_smoothing": 0.1, "max_grad_norm": 1.0, "penalty_in_scores": True}
    loss = window_loss(
        model,
        window,
        StepOptions(device=torch.device("cpu"), autocast=nullcontext, call_order="paper", **options),
    )
    assert loss.item() == 0.0


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE])
def test_launchers_train_the_demo(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    settings = {
        "train.max_steps": 6,
        "adapter.init": "random",
        "train.use_cpu": "true",
        "train.output_dir": tmp_path / "run",
        "data.max_train_samples": 80,
        "data.max_validation_samples": 12,
        "evaluation.eval_strategy": "no",
    }
    said = under_launcher(
        launcher, "train", "examples/demo.yaml", *(f"{name}={value}" for name, value in settings.items())
    )
    assert said.count("1. Prepare data") == said.count("6. Save and reload") == 1
    assert "6 optimizer steps of 32 × 1 rows in each of 2 processes" in said
    assert "reloaded with plain PEFT in a new process: 12 of 12 predictions identical" in said
