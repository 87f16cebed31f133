"""What the words of a command line become."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import RunCli

from spectune.cli.arguments import config_from, data_option, with_resume_value


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["train", "run.yaml", "--resume"], ["train", "run.yaml", "--resume="]),
        (["train", "--resume", "run.yaml"], ["train", "--resume=", "run.yaml"]),
        (["train", "run.yaml", "--resume", "runs/a"], ["train", "run.yaml", "--resume=runs/a"]),
        (["train", "run.yaml", "--resume=runs/a"], ["train", "run.yaml", "--resume=runs/a"]),
        (["train", "run.yaml", "--resume", "train.seed=1"], ["train", "run.yaml", "--resume=", "train.seed=1"]),
        (["train", "run.yaml", "--resume", "--overwrite"], ["train", "run.yaml", "--resume=", "--overwrite"]),
        (["train", "--", "--resume"], ["train", "--", "--resume"]),
        (["predict", "--resume", "x"], ["predict", "--resume", "x"]),
    ],
)
def test_resume_takes_a_directory_or_nothing(given: list[str], expected: list[str]) -> None:
    assert with_resume_value(given) == expected


@pytest.mark.parametrize(
    ("resume", "expected"),
    [([], False), (["--resume"], True), (["--resume", "runs/a/checkpoints"], "runs/a/checkpoints")],
)
def test_train_hands_on_what_was_asked(
    run_cli: RunCli, run_file: Path, monkeypatch: pytest.MonkeyPatch, resume: list[str], expected: bool | str
) -> None:
    from spectune import api

    calls: list[dict[str, object]] = []
    monkeypatch.setattr(api, "train", lambda config, **options: calls.append({"config": config, **options}))
    assert run_cli("train", run_file, "train.seed=7", *resume, "--overwrite", "--batch-size", "4").status == 0
    (call,) = calls
    config = call.pop("config")
    assert call == {"resume": expected, "overwrite": True}
    assert (config.train.seed, config.train.per_device_train_batch_size) == (7, 4)  # type: ignore[attr-defined]


def test_options_alone_make_a_run() -> None:
    config = config_from([], {"model.model_name_or_path": "m", **data_option("a b.csv"), "data.text_column": "T: x"})
    assert (config.model.model_name_or_path, config.data.train_file, config.data.text_column) == (
        "m",
        "a b.csv",
        "T: x",
    )


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("x.csv", "train_file"),
        ("data/a/train.JSONL", "train_file"),
        ("starter", "dataset_name"),
        ("org/set", "dataset_name"),
    ],
)
def test_data_is_a_table_or_a_data_set(data: str, key: str) -> None:
    assert data_option(data) == {f"data.{key}": data}


def test_version_and_help(run_cli: RunCli) -> None:
    from spectune import __version__

    assert run_cli("--version").out == f"spectune {__version__}\n"
    listed = run_cli("--help").out
    assert all(command in listed for command in ("init", "plan", "train", "evaluate", "predict", "starter"))
    assert run_cli().out == listed
