"""Wrong data, each through the command: one line that names the file and the place, exit status 2, before torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tests.cli.conftest import RunCli

ROWS = 60
GOOD = "text,label\n" + "".join(f"review number {n},{n % 3}\n" for n in range(ROWS))
LINES = "".join(json.dumps({"text": f"review {n}", "label": n % 3}) + "\n" for n in range(ROWS))
AFTER = ROWS + 2  # the line behind the good rows of a CSV
Content = str | bytes

FILES: list[tuple[str, Content, str]] = [
    ("empty.csv", "", "empty.csv is empty"),
    ("blank.csv", "\n\n  \n", "blank.csv is empty"),
    ("mark.csv", b"\xef\xbb\xbf", "mark.csv: the first line must name the columns"),
    ("header.csv", "text,label\n", "header.csv has a header but no rows"),
    ("unnamed.csv", ",,\n1,2,3\n", "unnamed.csv: the first line must name the columns"),
    ("noheader.csv", "a review,0\nanother,1\n", "has no column 'text' (data.text_column); it has a review, 0"),
    ("columns.csv", "Review,Label\na,1\n", "has no column 'text' (data.text_column); it has Review, Label"),
    ("target.csv", "text,class\na,1\n", "has neither a column 'target' nor 'label'; it has text, class"),
    ("semicolons.csv", GOOD.replace(",", ";"), "it seems to be separated by semicolons"),
    ("tabs.csv", GOOD.replace(",", "\t"), "it seems to be separated by tabs"),
    ("commas.tsv", GOOD, "it seems to be separated by commas"),
    ("twice.csv", "text,text,label\na,b,1\n", "the header has the column 'text' more than once"),
    ("long.csv", GOOD + "a,b,1\n", f"line {AFTER} has 3 fields, the header 2 (text, label)"),
    ("short.csv", GOOD + "only\n", f"line {AFTER} has 1 fields, the header 2 (text, label)"),
    ("open.csv", GOOD + '"never closed,1\n', f"the quotes in the record that starts on line {AFTER} do not match"),
    ("inner.csv", GOOD + '"a"b,1\n', f"the quotes in the record that starts on line {AFTER} do not match"),
    ("latin1.csv", GOOD.encode() + b"caf\xe9,1\n", f"line {AFTER} is not UTF-8 (byte 0xe9 at offset"),
    ("utf16.csv", GOOD.encode("utf-16"), "utf16.csv is UTF-16 or UTF-32; save it as UTF-8"),
    ("nul.csv", GOOD.encode() + b"a\0b,1\n", f"line {AFTER} holds a NUL byte; the file is damaged, or no text"),
    ("zeros.csv", b"\0" * 4096, "line 1 holds a NUL byte"),
    ("packed.csv", b"\x1f\x8b\x08\0\0", "packed.csv is compressed with gzip; unpack it"),
    ("sheet.csv", b"PK\x03\x04\x14\0", "sheet.csv is a zip archive or a workbook; unpack it, or save the sheet as CSV"),
    ("parquet.csv", b"PAR1\x15\0", "parquet.csv is a Parquet file; name it .parquet"),
    ("image.csv", b"\x89PNG\r\n\x1a\n", "line 1 is not UTF-8 (byte 0x89 at offset 0)"),
    ("sheet.xlsx", b"PK\x03\x04", "the extension must be one of .csv, .tsv, .json, .jsonl, .ndjson, .parquet"),
    ("rows", GOOD, "the extension must be one of .csv"),
    ("notexts.csv", "text,label\n" + ",1\n" * 30, "has no usable row; 30 rows: empty column 'text' (rows 1, 2, 3"),
    ("spaces.csv", 'text,label\n"   ",1\n', "has no usable row; 1 row: empty column 'text' (row 1)"),
    ("nolabels.csv", "text,label\na,\nb,\n", "column 'label' is empty in every row"),
    ("one.csv", "text,label\nonly,1\n", "no validation rows can be held out, because all rows have one and the same"),
    ("same.csv", "text,label\n" + "same,1\n" * 50, "no validation rows can be held out"),
    ("cut.jsonl", LINES + '{"text": "a"', f"line {ROWS + 1}, column 13 is not JSON"),
    ("comma.jsonl", '{"text": "a", "label": 1},\n', "line 1, column 26 is not JSON: Extra data"),
    ("list.jsonl", '["a", 1]\n', "line 1 is '[\"a\", 1]', not an object with named columns"),
    ("null.jsonl", LINES + "null\n", f"line {ROWS + 1} is 'null', not an object with named columns"),
    ("nothing.jsonl", "{}\n{}\n", "has no column 'text' (data.text_column); it has none"),
    ("deep.jsonl", "[" * 100_000, "line 1 cannot be read: nested too deeply, or an enormous number"),
    ("digits.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", "line 1 cannot be read: nested too deeply"),
    ("keys.jsonl", '{"text": "a", "text": "b"}\n', "line 1 has the key 'text' twice in one object"),
    ("nested.jsonl", '{"text": {"en": "a"}, "label": 1}\n', "holds a dict in column 'text', not a text; write text.en"),
    ("lists.jsonl", '{"text": ["a"], "label": 1}\n', "row 1 (line 1) holds a list in column 'text', not a text"),
    ("labels.jsonl", LINES + '{"text": "a", "label": [1]}\n', f"row {ROWS + 1} (line {ROWS + 1}) holds a list"),
    ("halves.jsonl", '{"text": "\\ud800", "label": 1}\n', "1 row: column 'text' is not valid Unicode (row 1)"),
    ("cut.json", '[{"text": "a"},', "line 1, column 16 is not JSON"),
    ("numbers.json", "[1, 2]", "row 1 is '1', not an object with named columns"),
    ("text.json", '"rows"', 'must hold a list of objects, or {"data": [...]}, or one object a line'),
    ("none.json", "[]", "none.json holds no rows"),
    ("text.parquet", GOOD, "text.parquet cannot be read as Parquet: Parquet magic bytes not found"),
    ("empty.parquet", "", "empty.parquet cannot be read as Parquet: Parquet file size is 0 bytes"),
]  # fmt: skip


def _parquet(path: Path, columns: list[list[object]], names: list[str]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns, names=names), path)
    return path


def _cut(path: Path) -> None:
    whole = _parquet(path, [["a"] * 30, [1] * 30], ["text", "label"]).read_bytes()
    path.write_bytes(whole[:-40])


def _flipped(path: Path) -> None:
    whole = bytearray(_parquet(path, [[f"row {n}" for n in range(90)], [1] * 90], ["text", "label"]).read_bytes())
    whole[60] ^= 0xFF
    path.write_bytes(whole)


PLACES: list[tuple[str, Callable[[Path], object], str]] = [
    ("cut.parquet", _cut, "cut.parquet cannot be read as Parquet"),
    ("flipped.parquet", _flipped, "flipped.parquet cannot be read as Parquet"),
    ("rowless.parquet", lambda path: _parquet(path, [[], []], ["text", "label"]), "rowless.parquet holds no rows"),
    (
        "twice.parquet",
        lambda path: _parquet(path, [["a"], ["b"], [1]], ["text", "text", "label"]),
        "twice.parquet has the column 'text' more than once",
    ),
    (
        "bytes.parquet",
        lambda path: _parquet(path, [[b"\xff"], [1]], ["text", "label"]),
        "row 1 holds a bytes in column 'text', not a text; save the column as text",
    ),
    ("folder.csv", Path.mkdir, "folder.csv is a directory, not a file"),
    ("pipe.csv", os.mkfifo, "pipe.csv is not a regular file"),
    ("link.csv", lambda path: path.symlink_to(path.with_name("gone.csv")), "link.csv is a link that leads nowhere"),
    ("ring.csv", lambda path: path.symlink_to(path), "ring.csv is a link that leads nowhere"),
    (f"{'x' * 300}.csv", lambda path: None, "cannot be read: File name too long"),
    ("nul\0byte.csv", lambda path: None, "nul\\x00byte.csv does not exist"),
    ("gone.csv", lambda path: None, "gone.csv does not exist"),
]  # fmt: skip


def _run_file(directory: Path, name: str) -> Path:
    path, base = directory / "run.yaml", Path(__file__).parents[1] / "configs" / "bart-base"
    sections = {
        "model": {"model_name_or_path": str(base)},
        "data": {"train_file": str(directory / name)},
        "train": {"output_dir": str(directory / "out")},
    }
    path.write_text(json.dumps(sections), encoding="utf-8")
    return path


def test_there_are_enough() -> None:
    assert len(FILES) + len(PLACES) >= 60


@pytest.mark.parametrize(("name", "content", "expected"), FILES, ids=[name for name, *_ in FILES])
def test_wrong_files(run_cli: RunCli, tmp_path: Path, name: str, content: Content, expected: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in ("train", "plan"):
        assert expected in run_cli(command, _run_file(tmp_path, name)).error()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "make", "expected"), PLACES, ids=[expected for *_, expected in PLACES])
def test_wrong_places(
    run_cli: RunCli, tmp_path: Path, name: str, make: Callable[[Path], object], expected: str
) -> None:
    make(tmp_path / name)
    assert expected in run_cli("train", _run_file(tmp_path, name)).error()


def test_a_file_that_may_not_be_read(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "secret.csv").write_text(GOOD, encoding="utf-8")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "secret.csv cannot be read: Permission denied" in run_cli("train", _run_file(tmp_path, "secret.csv")).error()


@pytest.mark.parametrize(
    "name", ["mark.csv", "huge.csv", "carriage.csv", "windows.csv", "breaks.csv", "padded.csv", "gap.jsonl"]
)
def test_odd_and_right(run_cli: RunCli, tmp_path: Path, name: str) -> None:
    """What looks odd and is data: byte order mark, a field of megabytes, other line ends, line breaks in quotes."""
    contents: dict[str, Content] = {
        "mark.csv": b"\xef\xbb\xbf" + GOOD.encode(),
        "huge.csv": GOOD + "x" * 2_000_000 + ",1\n",
        "carriage.csv": GOOD.replace("\n", "\r"),
        "windows.csv": GOOD.replace("\n", "\r\n"),
        "breaks.csv": GOOD + '"two\nlines",1\n',
        "padded.csv": GOOD.replace("text,label", " text , label "),
        "gap.jsonl": LINES + '{"label": 1}\n\n',
    }
    odd = contents[name]
    (tmp_path / name).write_bytes(odd if isinstance(odd, bytes) else odd.encode())
    finished = run_cli("plan", _run_file(tmp_path, name))
    assert finished.status == 0, finished.err
    assert f"of {ROWS + (name in ('huge.csv', 'breaks.csv', 'gap.jsonl'))} rows" in finished.out


def test_before_torch(tmp_path: Path) -> None:
    """One process reads them all."""
    commands = []
    for name, content, _ in FILES:
        place = tmp_path / name.replace(".", "-")
        place.mkdir()
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        commands.append(["train", str(_run_file(place, name))])
    program = (
        "import json, sys\nfrom spectune.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    status = main(command)\n"
        "    if status != 2 or 'torch' in sys.modules: sys.exit(f'{command}: {status}')\n"
    )
    command = [sys.executable, "-c", program, json.dumps(commands)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("\n") == len(FILES)
