"""`manifest.json`: what a directory holds, with SHA-256 and size, written last: a directory exists when it does.

The manifest carries a hash of itself, so that a flipped bit in it is seen like one in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from spectune.errors import RunError
from spectune.files import read_json, replaced_directory, write_json

MANIFEST = "manifest.json"
FORMAT = 1
_OWN_HASH = "manifest_sha256"


@contextmanager
def whole_directory(final: Path, *, fingerprint: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """`files.replaced_directory` with a manifest written last. When the block fails, an older `final` stays."""
    with replaced_directory(final) as partial:
        yield partial
        write_manifest(partial, fingerprint)


def write_manifest(directory: Path, fingerprint: Mapping[str, Any] | None = None) -> None:
    """Format version, `fingerprint`, SHA-256 and size of every other file. Flushes the files to the disk first."""
    entries = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            entries[path.relative_to(directory).as_posix()] = {"sha256": sha256(path), "size": path.stat().st_size}
    content: dict[str, Any] = {"format": FORMAT, "files": entries}
    if fingerprint is not None:
        content["fingerprint"] = dict(fingerprint)
    write_json(directory / MANIFEST, content | {_OWN_HASH: _own_hash(content)})


def verify_manifest(directory: Path, *, free: Collection[str] = ()) -> dict[str, Any]:
    """Compare every file with the manifest, and return it.

    Args:
        free: names of files that a person may change or remove.

    Raises:
        RunError: no manifest, a damaged one, another format, or a file that is missing, unreadable or different; says
            which.
    """
    manifest = read_manifest(directory)
    for name, entry in manifest["files"].items():
        path = directory / name
        if name in free:
            continue
        if not path.is_file():
            raise RunError(f"{path} is missing")
        try:
            same = path.stat().st_size == entry["size"] and sha256(path) == entry["sha256"]
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from None
        if not same:
            raise RunError(f"{path} is damaged: it differs from its SHA-256 in {MANIFEST}")
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest alone, checked in itself. Raises RunError as `verify_manifest` does."""
    path = directory / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict) or _OWN_HASH not in manifest:
        raise RunError(f"{path} is damaged: it is no manifest of this program")
    if manifest.get("format") != FORMAT:
        raise RunError(f"{path} has format {manifest.get('format')!r}; this version reads format {FORMAT}")
    content = {key: value for key, value in manifest.items() if key != _OWN_HASH}
    if manifest[_OWN_HASH] != _own_hash(content) or not _well_formed(manifest.get("files")):
        raise RunError(f"{path} is damaged: it differs from its own SHA-256")
    return manifest


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _well_formed(files: Any) -> bool:
    """Names that stay inside the directory, and for each a hash and a size."""
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and {"sha256", "size"} <= entry.keys()
        and "\\" not in name
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, entry in files.items()
    )
