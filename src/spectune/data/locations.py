"""Where a path of the run file lies, and what to say when nothing lies there."""

from __future__ import annotations

import os
from pathlib import Path

from spectune.data.wording import nearest_hint
from spectune.errors import DataError

DATA_ROOT_VARIABLE = "SPECTUNE_DATA"


def resolve_data_path(text: str | os.PathLike[str]) -> Path:
    """The path meant by `text`: `data/NAME/…` lies under the directory named by SPECTUNE_DATA when that is set."""
    path = Path(text)
    root = os.environ.get(DATA_ROOT_VARIABLE)
    if root and len(path.parts) > 1 and path.parts[0] == "data":
        return Path(root).expanduser().joinpath(*path.parts[1:])
    try:
        return path.expanduser()
    except RuntimeError:  # `~name` of somebody unknown here
        return path


def existing_file(text: str | os.PathLike[str]) -> Path:
    """The file named by `text`. Raises DataError: missing (with the nearest names), a directory, not readable."""
    path = resolve_data_path(text)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise DataError(f"{path} is a directory, not a file{_directory_hint(path)}")
        if path.exists():
            raise DataError(f"{path} is not a regular file")
    except (OSError, ValueError) as error:  # a name too long, a NUL byte, a directory that may not be searched
        raise DataError(f"{str(text)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raise DataError(missing(path, text))


def missing(path: Path, named: str | os.PathLike[str]) -> str:
    """The line for a path that leads nowhere, with the nearest names in the nearest directory that exists."""
    parent = path.parent
    if path.is_symlink():
        return f"{path} is a link that leads nowhere"
    if "://" in os.fspath(named):
        return f"{named} is an address; download the file and name its path"
    if not parent.is_dir():
        hint = f"; the directory {parent} does not exist"
    else:
        try:
            hint = nearest_hint(path.name, (entry.name for entry in parent.iterdir()))
        except OSError:
            hint = ""
    if Path(named).parts[:1] == ("data",) and not os.environ.get(DATA_ROOT_VARIABLE):
        hint += f"; if data/ lies elsewhere, name it in the environment variable {DATA_ROOT_VARIABLE}"
    return f"{path} does not exist{hint}"


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises DataError when it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not data.strip():
        raise DataError(f"{path} is empty")
    return data


# First bytes → what a file is that bears the name of a text file, and what to do about it.
_NO_TEXT = {
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"PK\x03\x04": "a zip archive or a workbook; unpack it, or save the sheet as CSV",
    b"PAR1": "a Parquet file; name it .parquet",
    b"\xff\xfe": "UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "UTF-16 or UTF-32; save it as UTF-8",
}


def decode_text(data: bytes, origin: str | Path) -> str:
    """UTF-8 text, with or without a byte order mark. Raises DataError that names the line and the byte."""
    for first_bytes, what in _NO_TEXT.items():
        if data.startswith(first_bytes):
            raise DataError(f"{origin} is {what}")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{origin}: line {line} holds a NUL byte; the file is damaged, or no text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder counts from behind a byte order mark.
        start = error.start + (len(data) - len(error.object))
        line = data.count(b"\n", 0, start) + 1
        raise DataError(
            f"{origin}: line {line} is not UTF-8 (byte 0x{data[start]:02x} at offset {start}); save it as UTF-8"
        ) from None


def _directory_hint(path: Path) -> str:
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return "; name a data set's directory in data.dataset_name"
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    return f"; it holds {', '.join(inside[:5])}" if inside else ""
