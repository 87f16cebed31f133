"""Where a path of the run file lies, and what to say when nothing lies there."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    _check_start(data, origin)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(f"{origin}: line {line} holds a NUL byte; the file is damaged, or no text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder counts from behind a byte order mark.
        start = error.start + (len(data) - len(error.object))
        line = data.count(b"\n", 0, start) + 1
        raise DataError(_not_utf8(origin, line, data[start], start)) from None


def text_lines(path: Path, newline: str) -> Iterator[str]:
    """The lines of a UTF-8 text with their ends, read one by one: the same text as `decode_text` gives.

    `newline` is as in `open`: "" ends a line at any of the three kinds of line end, "\\n" at that one only.

    Raises:
        DataError: as `read_bytes` and `decode_text`, when the damaged line is reached.
    """
    try:
        with path.open("rb") as binary:
            _check_start(binary.read(4), path)
        with path.open(encoding="utf-8-sig", newline=newline) as text:
            blank = True
            for number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise DataError(f"{path}: line {number} holds a NUL byte; the file is damaged, or no text")
                blank = blank and not line.strip()
                yield line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:  # the decoder reads ahead and knows no lines
        _refuse_undecodable(path)
    if blank:
        raise DataError(f"{path} is empty")


def _refuse_undecodable(path: Path) -> None:
    """Find the line that is not UTF-8 and raise what `decode_text` says of it."""
    before = 0
    with path.open("rb") as binary:
        for number, line in enumerate(binary, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise DataError(_not_utf8(path, number, line[error.start], before + error.start)) from None
            before += len(line)


def _check_start(data: bytes, origin: str | Path) -> None:
    for first_bytes, what in _NO_TEXT.items():
        if data.startswith(first_bytes):
            raise DataError(f"{origin} is {what}")


def _not_utf8(origin: str | Path, line: int, byte: int, offset: int) -> str:
    return f"{origin}: line {line} is not UTF-8 (byte 0x{byte:02x} at offset {offset}); save it as UTF-8"


def _directory_hint(path: Path) -> str:
    if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        return "; name a data set's directory in data.dataset_name"
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    return f"; it holds {', '.join(inside[:5])}" if inside else ""
