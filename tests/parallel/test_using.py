"""`evaluate` and `predict` by several processes: the bytes of one, one mistake said once, nothing half written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parallel.conftest import ROOT, TORCHRUN, Group, configuration, under_launcher

from spectune.cli import main

TEXTS = ["profit number 3 rose", "sales fell", "the order book rose", "demand number 14 fell", "outlook", "rose", "x y"]


@pytest.fixture(scope="module")
def adapter(group: Group, bases: dict[str, Path], table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of one process, which evaluates two rows at a time."""
    output = tmp_path_factory.mktemp("trained") / "run"
    decoding: dict[str, Any] = {"per_device_eval_batch_size": 2, "constrain_labels": True, "num_beams": 2}
    [result] = group.run(1, configuration(bases["t5"], table, output, evaluation=decoding))
    assert result["error"] is None, result
    return output / "adapter"


def lines(results: list[dict[str, Any]]) -> list[str]:
    """What all processes said on standard error."""
    return [line for one in results for line in one["stderr"].splitlines()]


def test_evaluate_says_what_one_process_says(group: Group, adapter: Path, table: Path) -> None:
    for form in ((), ("--json",)):
        command = ("evaluate", str(adapter), "--data", str(table), *form)
        [alone] = group.command(1, *command)
        assert (alone["status"], "chrf" in alone["stdout"] or "accuracy" in alone["stdout"]) == (0, True), alone
        for size in (2, 3):
            first, *others = group.command(size, *command)
            assert first == alone
            assert others == [{"status": 0, "stdout": "", "stderr": ""}] * (size - 1)


@pytest.mark.parametrize("rows", [7, 1])
def test_predict_writes_what_one_process_writes(group: Group, adapter: Path, tmp_path: Path, rows: int) -> None:
    """Of a single row two of three processes have nothing to do."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS[:rows]) + "\n", encoding="utf-8")
    written = []
    for size in (1, 3):
        place = tmp_path / f"of-{size}.jsonl"
        results = group.command(size, "predict", str(adapter), str(texts), "-o", str(place))
        assert results == [{"status": 0, "stdout": "", "stderr": ""}] * size
        written.append(place.read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == rows


def test_the_python_interface(group: Group, adapter: Path) -> None:
    """Every process gets all outputs, whichever way it asks; other texts in one of them are refused."""
    [alone] = group.give(1, {"adapter": str(adapter), "texts": TEXTS})
    assert len(alone["path"]) == len(TEXTS)
    assert alone["path"] == alone["loaded"] == alone["method"]
    assert group.give(2, {"adapter": str(adapter), "texts": TEXTS}) == [alone, alone]
    for texts, name in ((TEXTS[:3], "the number of texts"), ([*TEXTS[:6], "y x x"], "the rows")):
        found = group.give(2, {"adapter": str(adapter), "texts": TEXTS}, rank1={"texts": texts})
        assert sorted(one["error"] for one in found) == ["ElsewhereError", "RunError"]
        [message] = [one["message"] for one in found if one["error"] == "RunError"]
        assert f"{name} differs between process 0 and process 1" in message


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("evaluate", "nowhere", "--data", "{table}"), "there is no directory nowhere"),
        (("evaluate", "{adapter}", "--data", "none.csv"), "none.csv does not exist"),
        (("predict", "{adapter}", "{table}", "-o", "nowhere/x.jsonl"), "nowhere/x.jsonl cannot be written"),
        (("predict", "{adapter}", "--upwards"), "No such option: --upwards"),
    ],
)
def test_a_mistake_is_said_once(
    group: Group, adapter: Path, table: Path, command: tuple[str, ...], message: str
) -> None:
    found = group.command(2, *(word.format(adapter=adapter, table=table) for word in command))
    assert [one["status"] for one in found] == [2, 2]
    [line] = lines(found)
    assert line.startswith(f"spectune: error: {message}")


def test_another_adapter_in_a_process_is_refused(group: Group, adapter: Path, table: Path, tmp_path: Path) -> None:
    other = tmp_path / "adapter"
    assert main(["export", str(adapter), "-o", str(other), "--format", "adalora", "--target-rank", "1"]) == 0
    command = ["evaluate", str(adapter), "--data", str(table)]
    theirs = {"argv": ["evaluate", str(other), "--data", str(table)]}
    found = group.command(2, *command, rank1=theirs)
    assert [one["status"] for one in found] == [2, 2]
    [line] = lines(found)
    assert "the adapter or its base differs between process 0 and process 1" in line


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", ["SIGTERM", "SIGKILL"])
def test_one_process_is_stopped(
    group: Group, adapter: Path, table: Path, tmp_path: Path, fault: str, rank: int
) -> None:
    """All end, none of them writes."""
    place, faults = tmp_path / "out.jsonl", {f"rank{rank}": {"fault": fault}}
    found = group.command(2, "predict", str(adapter), str(table), "-o", str(place), **faults)
    assert list(tmp_path.iterdir()) == []
    if fault == "SIGTERM":
        assert [one["status"] for one in found] == [143, 143]
        assert lines(found) == ["spectune: stopped by SIGTERM; nothing was written"]
        return
    assert found[rank] == {"error": "died", "signal": 9}
    left = found[1 - rank]
    assert left["status"] == 2
    assert lines([left]) == ["spectune: error: another process of the run has ended; start the command again"]


@pytest.mark.parametrize("command", ["ranks", "export", "init", "report", "starter"])
def test_one_process_does_what_cannot_be_shared(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    adapter: Path,
    table: Path,
    tmp_path: Path,
    command: str,
) -> None:
    given = {
        "ranks": [str(adapter)],
        "export": [str(adapter), "-o", str(tmp_path / "lora")],
        "init": [str(table), "-o", str(tmp_path / "run.yaml")],
        "report": [str(adapter.parent), "-o", str(tmp_path / "page.html")],
        "starter": [str(tmp_path / "base")],
    }
    said = launched(monkeypatch, capsys, command, *given[command])
    assert said[1] == ("", "")
    assert said[0][0]
    assert said[0][1].startswith("spectune: note: one process does this alone; they share train, evaluate, predict\n")
    assert command == "ranks" or len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("words", [["plan", "examples/demo.yaml"], ["--version"], ["train", "--help"]])
def test_what_is_shown_is_shown_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    said = launched(monkeypatch, capsys, *words)
    assert said[1] == ("", "")
    assert said[0][1] == ""
    assert words[0] != "plan" or "in each of 2 processes" in said[0][0]


def launched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[tuple[str, str]]:
    """Standard output and error of a command in process 1 and then 0 of two; by rank."""
    said = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")  # nobody is there to be met
    for rank in ("1", "0"):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, rank)
        assert main(list(words)) == 0
        captured = capsys.readouterr()
        said[rank] = (captured.out, captured.err)
    return [said["0"], said["1"]]


def test_torchrun_predicts_from_standard_input(adapter: Path, tmp_path: Path) -> None:
    """Texts come through standard input, which all processes have and one reads."""
    place = tmp_path / "out.jsonl"
    under_launcher(TORCHRUN, "predict", adapter, "-", "-o", place, text="\n".join(TEXTS))
    assert place.read_text("utf-8").count("\n") == len(TEXTS)
