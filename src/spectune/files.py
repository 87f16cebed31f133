"""Writing so that a reader finds the old or the new, never half: temporary names, flushes, hashes, renames."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectune.errors import RunError

MANIFEST = "manifest.json"
FORMAT = 1


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one piece (temporary file, flush, rename)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one piece."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Raises RunError for a file that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


@contextmanager
def whole_directory(final: Path) -> Iterator[Path]:
    """A temporary directory that becomes `final` when the block ends well; its manifest is written last.

    An older `final` is replaced as a whole. When the block fails, it stays as it is.
    """
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        write_manifest(partial)
        _flush_directory(partial)
        _swap(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_manifest(directory: Path) -> None:
    """`manifest.json`: format version, SHA-256 and size of every other file. Flushes them first."""
    entries = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            entries[path.relative_to(directory).as_posix()] = {"sha256": sha256(path), "size": path.stat().st_size}
    write_json(directory / MANIFEST, {"format": FORMAT, "files": entries})


def verify_manifest(directory: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        RunError: no manifest, another format, or a file that is missing or differs; says which.
    """
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RunError(f"{directory / MANIFEST} is of another format; this version reads format {FORMAT}")
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise RunError(f"{path} is missing")
        if path.stat().st_size != entry["size"] or sha256(path) != entry["sha256"]:
            raise RunError(f"{path} is damaged: it differs from its SHA-256 in {MANIFEST}")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_size(directory: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _swap(partial: Path, final: Path) -> None:
    old = final.with_name(f"{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    _flush_directory(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems refuse to flush a directory
        pass
    finally:
        os.close(handle)
