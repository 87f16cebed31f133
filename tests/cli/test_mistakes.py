"""A person's mistake is one line on standard error and exit status 2, found before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.cli.conftest import RunCli

import spectune.cli as cli

MISTAKES = [
    ([], "give a run file, or --model and --data"),
    (["{dir}/none.yaml"], "none.yaml: there is no such run file"),
    (["{dir}"], "is a directory, not a run file"),
    (["{run}", "extra.yaml"], "'extra.yaml' is neither the run file nor section.key=value"),
    (["{run}", "learning_rate=3"], "'learning_rate=3' is not an override"),
    (["{run}", "train.learning_rat=3"], "train.learning_rat is not a known key; did you mean train.learning_rate?"),
    (["{run}", "train.learning_rate=fast"], "train.learning_rate: 'fast' is not a number"),
    (["{run}", "training.seed=1"], "training is not a section; did you mean train?"),
    (["{run}", "adapter.init_r=4"], "init_r 4 is below target_r 8"),
    (["{run}", "adapter.tfinal=1.5"], "tfinal 1.5"),
    (["{run}", "train.max_steps=10", "adapter.tinit=8", "adapter.tfinal=5"], "lower tinit or tfinal"),
    (["{run}", "data.text_column=txt"], "has no column 'txt' (data.text_column)"),
    (["{run}", "data.target_column=lable"], "has no column 'lable' (data.target_column)"),
    (["{run}", "data.train_file={dir}/none.csv"], "none.csv does not exist"),
    (["{run}", "data.train_file={dir}/empty.csv"], "empty.csv is empty"),
    (["{run}", "data.label_names={{0: bad, 1: bad, 2: good}}"], "'bad'"),
    (["{run}", "data.label_names={{0: bad}}"], "not in the label names"),
    (["{run}", "model.model_name_or_path={dir}"], "holds no config.json"),
    (["{run}", "model.model_name_or_path=./none"], "there is no directory"),
    (["{run}", "model.model_name_or_path=startr"], "did you mean starter?"),
    (["{run}", "evaluation.metrics=[bleau]"], "unknown metric 'bleau': did you mean bleu?"),
    (["{run}", "evaluation.metrics=ROUGE-L"], "unknown metric 'ROUGE-L': did you mean rougeL?"),
    (["--epochs", "4", "train.num_train_epochs=2"], "num_train_epochs=2 is given as an option, too, with the value 4"),
    (["{run}", "evaluation.metric_for_best_model=bleu"], "metric_for_best_model bleu is not among this run's: exact_m"),
    (["--model", "starter", "--data", "{dir}/none.csv"], "none.csv does not exist"),
    (["--model", "starter"], "give either train_file or dataset_name"),
    (["--data", "{dir}/reviews.csv"], "model.model_name_or_path is missing"),
    (["--epochs", "many"], "Invalid value for '--epochs'"),
    (["--frobnicate"], "No such option"),
]  # fmt: skip


def _filled(words: list[str], run_file: Path) -> list[str]:
    return [word.format(dir=run_file.parent, run=run_file) for word in words]


@pytest.fixture(autouse=True)
def _empty_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "expected"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_train_refuses_in_one_line(run_cli: RunCli, run_file: Path, words: list[str], expected: str) -> None:
    assert expected in run_cli("train", *_filled(words, run_file)).error()
    assert not (run_file.parent / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [mistake for mistake in MISTAKES if mistake[0][:1] == ["{run}"]],
    ids=lambda value: str(value),
)
def test_plan_refuses_what_train_refuses(run_cli: RunCli, run_file: Path, words: list[str], expected: str) -> None:
    assert expected in run_cli("plan", *_filled(words, run_file)).error()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fly"], "No such command 'fly'"),
        (["plan"], "Missing argument"),
        (["plan", "none.yaml"], "there is no such run file"),
        (["init", "none.csv", "--output", "{dir}/new.yaml"], "none.csv does not exist"),
        (["init", "{dir}/reviews.csv", "--output", "{run}"], "exists; choose another name"),
        (["init", "{dir}/reviews.csv", "--output", "{dir}/no/such.yaml"], "does not exist; make it first"),
        (["init", "{dir}/empty.csv", "--output", "{dir}/new.yaml"], "empty.csv is empty"),
        (["starter", "{dir}"], "is not empty"),
        (["evaluate", "{dir}"], "Missing option '--data'"),
        (["predict", "{dir}", "-", "--output", "{dir}"], "cannot be written"),
        (["predict", "{dir}"], "holds no adapter_config.json"),
        (["predict", "./none"], "there is no directory ./none; name an adapter's directory or hub id"),
        (["evaluate", "{run}", "--data", "x.csv"], "is a file; name an adapter's directory or hub id"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_command_refuses_in_one_line(run_cli: RunCli, run_file: Path, words: list[str], expected: str) -> None:
    assert expected in run_cli(*_filled(words, run_file)).error()


def test_torch_is_not_imported_for_a_mistake(run_file: Path) -> None:
    """One process goes through the whole table, so that the imports of each are seen."""
    commands = [["--version"], ["--help"], ["train", "--help"]]
    commands += [["init", f"{run_file.parent}/reviews.csv", "--output", f"{run_file.parent}/new.yaml"]]
    commands += [["train", *_filled(words, run_file)] for words, _ in MISTAKES]
    commands += [[command, "./none", *more] for command, more in (("evaluate", ["--data", "x.csv"]), ("predict", []))]
    program = (
        "import json, sys\nfrom spectune.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    main(command)\n"
        "    if 'torch' in sys.modules: sys.exit(f'torch came with {command}')\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr


def test_as_a_real_process(run_file: Path) -> None:
    command = [sys.executable, "-m", "spectune", "train", str(run_file), "data.text_column=txt"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("spectune: error: ")
    assert finished.stderr.count("\n") == 1


def test_a_bug_has_a_traceback_and_status_1(run_cli: RunCli, run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr(cli, "app", broken)
    finished = run_cli("plan", run_file)
    assert finished.status == 1
    assert "Traceback" in finished.err
    assert finished.err.rstrip().endswith("spectune: bug: ZeroDivisionError; please report it with the lines above")


@pytest.mark.parametrize(
    ("raised", "status"), [(KeyboardInterrupt(), 130), (typer.Abort(), 130), (PermissionError(13, "no", "f"), 2)]
)
def test_other_ends(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int) -> None:
    def ends(**_: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "app", ends)
    assert run_cli("plan").status == status


@pytest.mark.parametrize(
    "words",
    [
        ["init", "{dir}/reviews.csv", "-o", "{dir}/new.yaml"],
        ["predict", "{dir}", "-", "-o", "{dir}/out.jsonl"],
        ["export", "{dir}", "--sweep", "--data", "{dir}/reviews.csv", "-o", "{dir}/sweep.json"],
        ["ranks", "{dir}", "--format", "png", "-o", "{dir}/ranks.png"],
        ["report", "{dir}", "-o", "{dir}/page.html"],
    ],
    ids=lambda words: words[0],
)
def test_a_directory_that_takes_nothing_is_found_before_the_work(
    run_cli: RunCli, run_file: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # for root every directory takes files
    line = run_cli(*_filled(words, run_file)).error()
    assert (
        line == f"{words[-1].format(dir=run_file.parent)} cannot be written, its directory takes no file from you; "
        "name one elsewhere"
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("model:\n\tmodel_name_or_path: m\n", "indent with blanks, not with tabs"),
        (
            "model:\n  model_name_or_path: m\n   dtype: float32\n",
            "check the indentation, and put a text with a colon in q",
        ),
    ],
)
def test_a_run_file_that_is_no_yaml_says_what_to_do(run_cli: RunCli, tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert hint in run_cli("plan", path).error()


def test_semicolons_are_named_where_texts_hold_commas(run_cli: RunCli, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ID;Text;Label\n1;good, very;x\n", encoding="utf-8")
    assert "it looks separated by ';': save it with commas, or with tabs as .tsv" in run_cli("init", path).error()
