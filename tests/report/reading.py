"""A report read back as a browser's parser would: visible text, scripts, elements."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """`text` of the body without scripts and styles, `scripts` by id (or position), ids, and start tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._pieces: list[str] = []
        self._raw = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if values.get("id"):
            self.ids.add(str(values["id"]))
        if tag in ("script", "style"):
            self._raw = tag
            if tag == "script":
                self.scripts.append((values, ""))

    def handle_endtag(self, tag: str) -> None:
        self._raw = "" if tag == self._raw else self._raw

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            values, text = self.scripts[-1]
            self.scripts[-1] = (values, text + data)
        elif not self._raw:
            self._pieces.append(data)

    @property
    def text(self) -> str:
        """What a person reads, on one line."""
        return " ".join(" ".join(self._pieces).split())

    @property
    def data(self) -> Any:
        """What the page's script reads."""
        return next(json.loads(text) for values, text in self.scripts if values.get("id") == "report-data")
