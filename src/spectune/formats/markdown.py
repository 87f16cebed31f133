"""Markdown around texts that come from outside (file names, label words, a base model's name), which are escaped, so
that they are shown and neither rendered nor run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def escape(text: str) -> str:
    """`text` for a line of Markdown: shown as it is, on one line; no markup, no HTML, no table cell ends in it."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    # An underscore inside a word is no markup: exact_match stays readable in the file itself.
    return re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}", *lines])


def code(text: str) -> str:
    """Inline code. An HTML element, not backticks: a text could close those, and they do not hide a `|` in a table."""
    return f"<code>{escape(text)}</code>"


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def file_name(path: str) -> str:
    """Last part of a path of either kind."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
