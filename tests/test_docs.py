"""The documentation: generated pages are what the sources say, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from scripts.docs_reference import DOCS, PAGES

from spectune.presets import PRESETS
from spectune.runfile import SECTIONS

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run python -m scripts.docs_reference"


def test_every_key_of_the_run_file_is_on_its_page() -> None:
    page = (DOCS / "run-file.md").read_text(encoding="utf-8")
    for section, kind in SECTIONS.items():
        part = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
        keys = kind.model_fields
        assert keys
        rows = [line for line in part.splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == list(keys)
        assert [row for row in rows if row.endswith("|  |")] == [], "a key of config.py without a note beneath it"


def test_every_preset_is_on_the_page_of_the_run_file() -> None:
    part = (DOCS / "run-file.md").read_text(encoding="utf-8").split("\n## preset\n")[1].split("\n## ")[0]
    assert f"| key | {' | '.join(PRESETS)} |" in part
    for preset in PRESETS.values():
        for section, entries in preset.items():
            assert all(f"| `{section}.{key}` |" in part for key in entries)


def test_links_lead_to_files_and_headings() -> None:
    broken = []
    for page in DOCS.glob("*.md"):
        for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
            if target.startswith("http"):
                continue
            path = page.parent / target
            if not path.is_file() or (anchor and anchor not in _anchors(path)):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(_files(menu)) == sorted(page.name for page in DOCS.glob("*.md"))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _files(entry: object) -> list[str]:
    if isinstance(entry, dict):
        entry = list(entry.values())
    return [entry] if isinstance(entry, str) else [name for part in entry for name in _files(part)]  # type: ignore[attr-defined]
