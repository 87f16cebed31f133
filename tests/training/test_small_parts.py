"""Journal, phases, directory, whole-or-nothing files."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spectune.adapter.initialization import leading
from spectune.errors import RunError
from spectune.files import PARTIAL, write_text
from spectune.manifest import verify_manifest, whole_directory
from spectune.training.directory import RunDirectory
from spectune.training.journal import Journal
from spectune.training.phases import PhaseLosses


def test_a_rewound_journal_has_no_double_entries(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("step", 1, loss=2.0)
    position = journal.position
    journal.write("step", 2, loss=1.0)
    journal.close()
    resumed = Journal(tmp_path / "journal.jsonl")
    resumed.rewind(position)
    resumed.write("step", 2, loss=1.0)
    resumed.close()
    lines = (tmp_path / "journal.jsonl").read_text("utf-8").splitlines()
    assert lines == ['{"event": "step", "step": 1, "loss": 2.0}', '{"event": "step", "step": 2, "loss": 1.0}']


def test_phases_keep_first_and_last_and_warn_of_a_rise() -> None:
    losses = PhaseLosses()
    for phase, mean in [("warm-up", 3.0), ("warm-up", 2.0), ("decrease", 2.2), ("decrease", 2.3), ("decrease", 2.5)]:
        losses.add(phase, mean)
    assert losses.summary() == {"warm-up": {"first": 3.0, "last": 2.0}, "decrease": {"first": 2.2, "last": 2.5}}
    warning = losses.warning()
    assert warning is not None
    assert "from 2.0000 at the end of the warm-up to 2.5000" in warning
    restored = PhaseLosses()
    restored.load_state_dict(losses.state_dict())
    assert restored.summary() == losses.summary()
    losses.add("decrease", 1.9)
    assert losses.warning() is None
    losses.add("decrease", math.nan)  # steps that overflowed: the cut is not the cause
    assert losses.warning() is None


def test_what_is_not_finite_is_null_in_files_that_others_read(tmp_path: Path) -> None:
    """JSON has no NaN; a browser reads none of a file that holds one."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("step", 1, loss=math.nan, penalty=-math.inf, parts=[1.0, {"a": math.inf}])
    journal.close()
    line = (tmp_path / "journal.jsonl").read_text("utf-8")
    assert line == '{"event": "step", "step": 1, "loss": null, "penalty": null, "parts": [1.0, {"a": null}]}\n'


def test_a_failed_write_leaves_the_old_directory(tmp_path: Path) -> None:
    final = tmp_path / "adapter"
    with whole_directory(final) as partial:
        write_text(partial / "a.txt", "old")

    def fail() -> None:
        with whole_directory(final) as partial:
            write_text(partial / "a.txt", "new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    verify_manifest(final)
    assert (final / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damage_is_seen(tmp_path: Path, damage: str) -> None:
    final = tmp_path / "x"
    with whole_directory(final) as partial:
        write_text(partial / "a.txt", "content")
    if damage == "flip":
        (final / "a.txt").write_text("contenu")
    elif damage == "cut":
        (final / "a.txt").write_text("conten")
    else:
        (final / ("a.txt" if damage == "remove" else "manifest.json")).unlink()
    with pytest.raises(RunError, match=r"a\.txt|manifest"):
        verify_manifest(final)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """And with it a device: a file renamed to its place would be the end of `/dev/null`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_what_a_shell_has_redirected_keeps_what_stood_there(tmp_path: Path) -> None:
    """`-o /dev/stdout >> log`: the name leads to a plain file, which is not cut to nothing."""
    log = tmp_path / "log"
    log.write_text("old\n")
    program = "from pathlib import Path; from spectune.files import write_text; write_text(Path('/dev/stdout'), 'new')"
    with log.open("a") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True)
    assert log.read_text() == "old\nnew"


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    for name in ("notes.txt", "notes.old", "draft.partial", "journal.jsonl", f"left{PARTIAL}"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "adapter.old").mkdir()  # somebody's copy
    paths = RunDirectory(tmp_path)
    with paths.taken(resume=False, overwrite=False):
        assert (tmp_path / "journal.jsonl").exists(), "an earlier run stays until nothing can refuse the new one"
        paths.clear()
    assert {path.name for path in tmp_path.iterdir()} == {
        *("notes.txt", "notes.old", "draft.partial", "adapter.old", "journal.jsonl", "checkpoints", ".lock")
    }


@pytest.mark.parametrize("name", ["adapter", "summary.json", "predictions.jsonl", "run.yaml"])
def test_results_without_checkpoints_and_a_persons_run_file_are_not_deleted_unasked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    paths = RunDirectory(tmp_path)
    with pytest.raises(RunError, match=r"--overwrite deletes it, another train\.output_dir keeps it"):
        paths.check(resume=False, overwrite=False)
    assert (tmp_path / name).read_text() == "mine"
    paths.check(resume=False, overwrite=True)


def test_a_run_stopped_before_it_replaces_another_is_not_said_to_go_on(tmp_path: Path) -> None:
    paths = RunDirectory(tmp_path)
    step = tmp_path / "checkpoints" / "step-7"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    earlier = paths.stamp
    assert paths.resume_hint(earlier) == "the earlier run is still there; start it again with --overwrite"
    assert "--resume" in paths.resume_hint()
    paths.clear()
    assert paths.resume_hint(earlier) == "nothing was saved yet; start it again"


def test_a_run_that_ended_before_it_saved_anything_begins_anew(tmp_path: Path) -> None:
    paths = RunDirectory(tmp_path)
    with paths.taken(resume=False, overwrite=False):
        (tmp_path / "run.yaml").write_text("as it was resolved")
    paths.check(resume=False, overwrite=False)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        RunDirectory(tmp_path / "run").check(resume=False, overwrite=False)


@pytest.mark.parametrize("shape", [(6, 9), (1100, 1030)])
def test_leading_vectors_span_a_low_rank_gradient(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(shape[0], 2, generator=generator) @ torch.randn(2, shape[1], generator=generator)
    outputs, queries = leading(gradient, 3)
    torch.testing.assert_close(outputs @ outputs.t(), torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(queries @ queries.t(), torch.eye(3), atol=1e-5, rtol=0)
    rebuilt = outputs.t() @ (outputs @ gradient @ queries.t()) @ queries
    torch.testing.assert_close(rebuilt, gradient, atol=1e-3, rtol=1e-3)
