"""An adapter on its way to the hub: what is sent, checked before anything is asked of the network. Imports no torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spectune.data.sources import STARTER
from spectune.errors import AdapterError, ConfigError, RunError, first_line
from spectune.files import read_json, write_json, write_text
from spectune.formats.adapter_files import CONFIG, DOCUMENTS, SETTINGS, check_strangers, check_unfinished
from spectune.hub import LOG_IN
from spectune.manifest import MANIFEST, verify_manifest, write_manifest

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class Upload:
    """A directory that is ready to be sent."""

    directory: Path
    repository: str
    files: dict[str, int]
    """Name → bytes."""
    base: str | None
    """Hub id of the base that the adapter names; None for a whole model."""
    left_out: tuple[str, ...] = ()
    """What else lies there, unknown to the manifest."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


@contextmanager
def prepared(location: str, repository: str, base_model: str | None = None) -> Iterator[Upload]:
    """A copy of what `train` or `export` wrote, as it will lie on the hub.

    Args:
        location: directory of an adapter or an exported model; a run directory stands for its adapter.
        repository: owner/name.
        base_model: the base's hub id, in the place of the one in adapter_config.json.

    Raises:
        AdapterError: no such directory, a damaged one, or a base that nobody else can load.
        ConfigError: a name that is no hub id.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ConfigError(f"{repository} is no name of a repository on the hub; write owner/name")
    if base_model is not None and not _HUB_ID.fullmatch(base_model):
        raise ConfigError(f"--base-model {base_model} is no hub id; write owner/name")
    path = _directory(location)
    manifest = _verified(path)
    with TemporaryDirectory(prefix="spectune-push-") as scratch:
        copy = Path(scratch, "adapter")
        left_out = _copy(path, copy, {*manifest["files"], MANIFEST, *DOCUMENTS})
        base = _settle_base(copy, base_model, manifest) if (copy / CONFIG).is_file() else None
        files = {
            entry.relative_to(copy).as_posix(): entry.stat().st_size
            for entry in sorted(copy.rglob("*"))
            if entry.is_file()
        }
        yield Upload(copy, repository, files, base, left_out)


def send(upload: Upload, *, private: bool, branch: str | None, message: str) -> str:
    """Make the repository where there is none, and commit all files at once; returns the commit's address.

    Raises:
        AdapterError: the hub refused, or is out of reach.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(upload.repository, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(upload.repository, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=upload.repository, folder_path=upload.directory, revision=branch, commit_message=message
        )
    except Exception as error:  # the hub's library passes on whatever its HTTP library raises
        raise AdapterError(f"the hub did not take {upload.repository}: {_reason(error)}") from None
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to send anything"
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return f"it wants a token that may write there; run `hf auth login`, or set HF_TOKEN ({first_line(error)})"
    if status == 404:
        return f"there is no such place, or no right to write there; {LOG_IN}"
    return f"{first_line(error)}; nothing was changed there, try again"


def _directory(location: str) -> Path:
    path = Path(location)
    if not path.is_dir():
        raise AdapterError(f"there is no directory {location}; name what `spectune train` or `export` wrote")
    inside = path / "adapter"
    return inside if not (path / MANIFEST).is_file() and inside.is_dir() else path


def _verified(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).is_file():
        check_unfinished(path)
        raise AdapterError(f"{path} holds no {MANIFEST}: it is not what `spectune train` or `export` wrote")
    try:
        manifest = verify_manifest(path, free=DOCUMENTS)
    except RunError as error:
        raise AdapterError(f"{error}; it is not sent") from None
    check_strangers(path, manifest["files"])
    return manifest


def _copy(path: Path, copy: Path, wanted: set[str]) -> tuple[str, ...]:
    """Copy the files that the manifest knows, and what people read; returns the names of the others."""
    left_out = []
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        if entry.is_file() and name in wanted:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry, copy / name)
        elif entry.is_file():
            left_out.append(name)
    return tuple(left_out)


def _settle_base(copy: Path, base_model: str | None, manifest: dict[str, Any]) -> str:
    """The base's hub id, written into the copy where another is wanted."""
    config = read_json(copy / CONFIG)
    named = str(config.get(_BASE) or "")
    if base_model is None:
        if not named:
            raise AdapterError("it names no base; give its hub id with --base-model OWNER/NAME")
        if Path(named).is_absolute() or Path(named).exists() or not _HUB_ID.fullmatch(named):
            what = f"the directory {Path(named).name}, which nobody else has"
            if _base_name(copy) == STARTER:
                what = "the bundled starter, which PEFT does not know (`spectune starter DIR` writes it)"
            raise AdapterError(
                f"its base is {what}; put the base on the hub, and give its id with --base-model OWNER/NAME"
            )
        return named
    if base_model != named:
        if not (Path(named).is_absolute() or Path(named).exists()) and _HUB_ID.fullmatch(named):
            raise AdapterError(f"its base is {named} on the hub, so leave out --base-model {base_model}")
        write_json(copy / CONFIG, {**config, _BASE: base_model, "revision": None})
        _rename_base(copy, named, base_model)
        (copy / MANIFEST).unlink()
        write_manifest(copy, manifest.get("fingerprint"))
    return base_model


def _base_name(copy: Path) -> Any:
    """As the run file had it."""
    return read_json(copy / SETTINGS).get("base_name") if (copy / SETTINGS).is_file() else None


def _rename_base(copy: Path, named: str, base_model: str) -> None:
    """Where else the base's directory stands, which nobody else has: the settings, and the model card."""
    if (copy / SETTINGS).is_file():
        settings = read_json(copy / SETTINGS)
        if "base_name" in settings:
            write_json(copy / SETTINGS, {**settings, "base_name": base_model})
    card = copy / "README.md"
    if not card.is_file():
        return
    text = re.sub(rf"(?<![\w/.]){re.escape(named)}(?![\w/.\-])", base_model, card.read_text(encoding="utf-8"))
    opening, header = "---\n", text.removeprefix("---\n").split("\n---")[0]
    if text.startswith(opening) and "base_model:" not in header:
        text = f"{opening}base_model: {base_model}\n{text.removeprefix(opening)}"
    write_text(card, text)
