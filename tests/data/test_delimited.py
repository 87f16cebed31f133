"""CSV and TSV."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.helpers import line_of, write

from spectune.data.delimited import read_csv, read_tsv, stream_tsv
from spectune.errors import DataError


def test_quotes_line_breaks_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", '\ufefftext , label,\r\n"a, ""b""\r\nc",0,x\r\n\r\nd,1,\r\n'))
    assert table.columns == ("text", "label")
    assert table.rows == [{"text": 'a, "b"\r\nc', "label": "0"}, {"text": "d", "label": "1"}]
    assert table.place(2) == "row 2 (line 5)"


def test_very_long_fields_are_read(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", f"text,label\n{'x' * 200_000},0\n"))
    assert len(table.rows[0]["text"]) == 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,0\nb,c,1\n", "line 3 has 3 fields, the header 2 (text, label)"),
        ("text,label\na\n", "line 2 has 1 fields, the header 2"),
        ("text,text\na,b\n", "the header has the column 'text' more than once"),
        ("text,label\n", "has a header but no rows"),
        (",,\n1,2,3\n", "the first line must name the columns"),
        ('text,label\na,0\n"b,1\nc,0\n', "the quotes in the record that starts on line 3 do not match"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_csv(write(tmp_path / "a.csv", content))
    assert message in line_of(error)
    assert "a.csv" in line_of(error)


def test_tsv_with_and_without_quotes(tmp_path: Path) -> None:
    quoted = read_tsv(write(tmp_path / "a.tsv", 'text\tlabel\n"a\tb"\t0\n'))
    assert quoted.rows == [{"text": "a\tb", "label": "0"}]
    plain = read_tsv(write(tmp_path / "b.tsv", 'text\tlabel\n"Hm" he said\t0\n"open\t1\n'))
    assert [row["text"] for row in plain.rows] == ['"Hm" he said', '"open']


def test_tsv_whose_quotes_would_swallow_rows(tmp_path: Path) -> None:
    """GLUE's way: a quote at the start of one text, another at the end of a later one."""
    rows = ['"Great, he said\tpositive', "awful\tnegative", 'my tv is 40"\tpositive', "fine\tpositive", "no\tnegative"]
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "\n".join(rows) + "\n")
    expected = [dict(zip(("text", "label"), row.split("\t"), strict=True)) for row in rows]
    assert read_tsv(path).rows == expected
    assert [row for _, row in stream_tsv(path)] == expected
    broken = write(tmp_path / "b.tsv", 'text\tlabel\n"two\nlines"\tpositive\nfine\tpositive\n')
    assert [row["text"] for row in read_tsv(broken).rows] == ["two\nlines", "fine"]
    assert [row["text"] for _, row in stream_tsv(broken)] == ["two\nlines", "fine"]


def test_tsv_that_is_ragged_either_way(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 has 3 fields"):
        read_tsv(write(tmp_path / "a.tsv", "text\tlabel\na\tb\tc\n"))


def test_tsv_that_may_be_either(tmp_path: Path) -> None:
    """Dialogue over several lines of a parallel text, whose other side shows nothing: three rows had become one."""
    rows = ["I am tired.\tIch bin müde.", '"It was late.\tEs war spät.', 'Good night."\tGute Nacht.', "Yes.\tJa."]
    path = write(tmp_path / "a.tsv", "text\ttarget\n" + "\n".join(rows) + "\n")
    for read in (read_tsv, lambda path: list(stream_tsv(path))):
        with pytest.raises(DataError, match=r"a quote on line 3 may begin .* both readings fit \(3 rows or 4\)"):
            read(path)
    labels = "".join(f"text {number}\t{number % 2}\n" for number in range(8))
    told = write(tmp_path / "b.tsv", 'text\tlabel\n"a\tb\nc"\t1\n' + labels)
    assert len(read_tsv(told).rows) == len(list(stream_tsv(told))) == 9


def test_an_empty_cell_of_the_only_column_is_a_row(tmp_path: Path) -> None:
    """Left out without a word, it shifted every later row and every prediction."""
    path = write(tmp_path / "a.csv", 'text\nfirst\n""\n\n   \nsecond\n')
    assert [row["text"] for row in read_csv(path).rows] == ["first", "", "   ", "second"]
    two = write(tmp_path / "b.csv", "text,label\nfirst,0\n   \nsecond,1\n")
    assert [row["text"] for row in read_csv(two).rows] == ["first", "second"]
