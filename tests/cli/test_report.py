from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import RunCli
from tests.report.run_directory import make_run


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "one")


def test_a_run_gets_its_page(run_cli: RunCli, finished: Path) -> None:
    (finished / "report.html").write_text("old", "utf-8")
    result = run_cli("report", finished)
    assert (result.status, result.out) == (0, f"wrote {finished / 'report.html'}\n")
    assert (finished / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_page_elsewhere(run_cli: RunCli, finished: Path, tmp_path: Path) -> None:
    assert run_cli("report", finished, "--output", tmp_path / "page.html").status == 0
    assert (tmp_path / "page.html").is_file()
    assert not (finished / "report.html").exists()


def test_several_runs_are_compared(
    run_cli: RunCli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli("report", finished, make_run(tmp_path / "runs" / "two"))
    assert (result.status, result.out) == (0, "wrote spectune-comparison.html\n")
    assert "2 runs" in (tmp_path / "spectune-comparison.html").read_text("utf-8")


def test_refusals(run_cli: RunCli, finished: Path, tmp_path: Path) -> None:
    assert "does not exist" in run_cli("report", tmp_path / "nowhere").error()
    assert "is no run directory" in run_cli("report", tmp_path).error()
    assert "is a file" in run_cli("report", finished / "run.yaml").error()
    assert "named twice" in run_cli("report", finished, finished).error()
    assert "cannot be written" in run_cli("report", finished, "--output", tmp_path).error()
    assert "cannot be written" in run_cli("report", finished, "-o", tmp_path / "no" / "page.html").error()
    assert run_cli("report").status == 2
    assert not (finished / "report.html").exists()


def test_no_torch_is_imported(finished: Path) -> None:
    code = (
        "import sys; from spectune.cli import main; status = main(['report', sys.argv[1]]); "
        "print(status, sorted({'torch', 'transformers', 'peft', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
