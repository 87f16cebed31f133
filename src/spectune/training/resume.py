"""Taking up a checkpoint: the newest whole one, of the same run."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from spectune.errors import RunError
from spectune.files import read_json, replaced_directory
from spectune.manifest import MANIFEST, read_manifest, verify_manifest
from spectune.training.checkpoint import newest_checkpoint, seed_all
from spectune.training.directory import list_checkpoints
from spectune.training.fingerprint import check_fingerprint, check_steps, processes_of, settings_of
from spectune.training.loop import Loop
from spectune.training.saving import restore_loop
from spectune.training.session import Session


def resume_run(session: Session, loop: Loop, checkpoint: Path) -> None:
    """Restore model, optimizer, loader, random states and progress; the journal goes on without double entries.

    Raises:
        RunError: a checkpoint of another run; says what differs.
    """
    saved = session.processes.first(lambda: read_manifest(checkpoint).get("fingerprint", {}))
    for line in check_fingerprint(saved, loop.fingerprint):
        session.reporter.warning(line)
    if session.config.data.streaming:
        session.reporter.line("reads the streamed rows again up to where the checkpoint was taken")
    restore_loop(loop, checkpoint)
    processes = session.processes
    if processes_of(saved) != processes.size:  # states of other processes say nothing here
        seed_all(session.config.train.seed + 1 + loop.progress.step * processes.size + processes.rank)
    session.reporter.line(f"resumed from {checkpoint.name}")


def find_checkpoint(session: Session, resume: bool | str) -> Path:
    """The checkpoint to go on from, now in this run's own directory; what is passed over is said.

    Args:
        resume: True for the newest whole one of this run; else a checkpoint, or a run directory.

    Raises:
        RunError: there is none, or it was made with other settings.
    """
    named = Path(resume).expanduser() if isinstance(resume, str) else session.paths.root
    notes: list[str] = []
    if (named / MANIFEST).is_file():
        path = named
    else:
        inside = named / "checkpoints"
        path, notes = newest_checkpoint(inside if inside.is_dir() else named)
    for note in notes:
        session.reporter.warning(note)
    here = {"settings": settings_of(session.config), "schedule": asdict(session.outline.schedule)}
    saved = read_manifest(path).get("fingerprint", {})
    check_steps(saved, session.outline.schedule)
    before = {name: saved.get(name, {}) for name in here} | {"environment": {"processes": processes_of(saved)}}
    here["environment"] = {"processes": session.processes.size}
    check_fingerprint(before, here)  # the rest when the model is loaded
    own = [one.resolve() for one in list_checkpoints(session.paths.checkpoints)]
    return path if path.resolve() in own else _adopt(session, path.resolve())


def _adopt(session: Session, path: Path) -> Path:
    """Copy a checkpoint of another directory into this one, with the best one that it speaks of and its journal."""
    own = session.paths.checkpoints
    verify_manifest(path)
    state = read_json(path / "state.json")
    progress, best = state["progress"], state["progress"]["loop"]["best"]
    named = {} if best is None else {f"step-{best['step']}": path.parent / f"step-{best['step']}"}
    here = own / f"step-{state['engine']['last_step']}"
    named.pop(here.name, None)
    wanted = named | {here.name: path}  # the one to go on from last: it makes the copy complete
    if not all(_is_copy(one, wanted.get(one.name)) for one in list_checkpoints(own)):
        raise RunError(
            f"{session.paths.root} holds checkpoints of its own and cannot go on from {path}; "
            "name another train.output_dir"
        )
    journal = path.parent.parent / "journal.jsonl"
    if journal.is_file():
        with journal.open("rb") as file:
            (session.paths.root / "journal.jsonl").write_bytes(file.read(progress["journal"]))
    for name, original in wanted.items():
        if original.is_dir():
            with replaced_directory(own / name) as partial:
                shutil.copytree(original, partial, dirs_exist_ok=True)
    return here


def _is_copy(one: Path, original: Path | None) -> bool:
    """Whether it was copied from there before, by a resume that was refused later on."""
    if original is None or not (original / MANIFEST).is_file():
        return False
    return (original / MANIFEST).read_bytes() == (one / MANIFEST).read_bytes()
