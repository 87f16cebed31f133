"""Examples of a streamed training set, one pass at a time, each pass exactly repeatable up to any row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

from spectune.data.columns import Columns
from spectune.data.examples import Example, build_rows, refuse_dropped
from spectune.data.row_streams import Drawn, RowStream
from spectune.data.table import Table
from spectune.data.verbalizer import Verbalizer
from spectune.data.wording import count, some
from spectune.errors import RunError

_NUMBERS_KEPT = 8


@dataclass
class Tally:
    """What the first pass over a stream has found so far; JSON-able by `vars`."""

    rows: int = 0
    examples: int = 0
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Reason → {"rows": how many, "first": the numbers of the first few}."""
    sources_cut: int = 0
    targets_cut: int = 0
    longest_source: int = 0
    longest_target: int = 0

    def lines(self, whole: bool) -> list[str]:
        """For people: rows read, cut and left out; `whole` once the pass has come to its end."""
        of = "in all" if whole else "read so far"
        examples = max(self.examples, 1)
        lines = [
            f"train: {self.examples:,} of {self.rows:,} rows {of}",
            f"train cut: {self.sources_cut / examples:.1%} of sources (longest {self.longest_source:,} tokens),"
            f" {self.targets_cut / examples:.1%} of targets (longest {self.longest_target:,})",
        ]
        for reason, found in self.dropped.items():
            more = found["rows"] - len(found["first"])
            numbers = some(found["first"]) + (f" and {more:,} more" if more else "")
            noun = "row" if found["rows"] == 1 else "rows"
            lines.append(f"train: {count(found['rows'], 'row')} left out, {reason} ({noun} {numbers})")
        return lines

    def drop(self, reason: str, number: int) -> None:
        """Count a row that gives no example."""
        found = self.dropped.setdefault(reason, {"rows": 0, "first": []})
        found["rows"] += 1
        if len(found["first"]) < _NUMBERS_KEPT:
            found["first"].append(number)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a pass the next example begins."""

    rows: int
    """Rows drawn before it."""
    digest: str
    """SHA-256 over them."""
    tally: dict[str, Any]


def start_of_pass(tally: Tally) -> Place:
    """Before the first row."""
    return Place(rows=0, digest=hashlib.sha256().hexdigest(), tally=asdict(tally))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleStream:
    """A streamed training set: rows, and how they become examples. Final."""

    rows: RowStream
    head: Table
    """The first rows, read before anything else."""
    columns: Columns
    prefix: str
    verbalizer: Verbalizer | None
    invalid_rows: Literal["drop", "error"]
    buffer_size: int

    @property
    def origin(self) -> str:
        """How messages name it."""
        return self.rows.origin

    def line(self) -> str:
        """For people, before the rows are read."""
        return (
            f"train: streamed from {self.origin}, number of rows unknown, shuffled in a buffer of {self.buffer_size:,};"
            f" repeated sources and rows shared with other splits are not looked for"
        )


class Pass:
    """One pass over a stream, in the order of its epoch. Only as many rows as the shuffle buffer has are held."""

    def __init__(self, stream: ExampleStream, *, seed: int, epoch: int, tally: Tally) -> None:
        """`tally` goes on being counted, in the first epoch only."""
        self._stream, self._epoch, self._tally = stream, epoch, tally
        self._rows = stream.rows.shuffled(seed=seed, buffer_size=stream.buffer_size, epoch=epoch)
        self._digest = hashlib.sha256()
        self._drawn = 0
        self.examples = self._read()
        """The examples that are left. Raises DataError: a row that cannot be read, a label outside the map, or an
        unusable row where those are refused."""

    def place(self) -> Place:
        """Where this pass is."""
        return Place(rows=self._drawn, digest=self._digest.hexdigest(), tally=asdict(self._tally))

    def skip(self, place: Place) -> None:
        """Draw what was drawn before `place` once more: only so does the shuffle buffer come to hold what it held.

        Raises:
            RunError: the rows are others than they were.
        """
        for drawn in islice(self._rows, place.rows):
            self._note(drawn)
        if (self._drawn, self._digest.hexdigest()) != (place.rows, place.digest):
            raise RunError(
                f"the run cannot be resumed: of {self._stream.origin} the first {place.rows:,} rows are not what they "
                "were; set them back, or start anew with --overwrite"
            )

    def _read(self) -> Iterator[Example]:
        for drawn in self._rows:
            table = self._note(drawn)
            if self._epoch == 0:
                self._tally.rows += 1
            yield from self._built(table, drawn.number)

    def _note(self, drawn: Drawn) -> Table:
        self._drawn += 1
        table = self._stream.rows.table([drawn], {**dict.fromkeys(self._stream.head.columns), **drawn.row})
        columns = self._stream.columns
        names = [*columns.text, *([columns.target] if columns.target else []), columns.references]
        self._digest.update(repr([table.value(0, name) for name in names]).encode("utf-8", "surrogatepass"))
        return table

    def _built(self, table: Table, number: int) -> list[Example]:
        stream = self._stream
        built = build_rows(table, stream.columns, prefix=stream.prefix, verbalizer=stream.verbalizer)
        if built.dropped and stream.invalid_rows == "error":
            refuse_dropped(table, built.dropped)
        if self._epoch == 0:
            self._tally.examples += len(built.examples)
            for reason in built.dropped:
                self._tally.drop(reason, number)
        return built.examples
