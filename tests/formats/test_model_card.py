from __future__ import annotations

import ast
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from spectune.formats.markdown import escape
from spectune.formats.model_card import CardFacts, model_card

NASTY = "<script>alert(1)</script> | *bold* `code` [link](javascript:x) _em_ &amp; \n# head"


def facts(**changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "base_model": "facebook/bart-base",
        "base_revision": "aadd2ab",
        "task": "classification",
        "data_files": {"train": "private/place/reviews.csv", "validation": "someone/reviews"},
        "rows": {"train": 12345, "validation": 100},
        "label_words": ["negative", "positive"],
        "metrics": {"exact_match": {"value": 0.91234, "signature": "nrefs:1|strip:outer"}},
        "rank_summary": [
            {"group": "encoder feed-forward", "matrices": 4, "total": 30, "mean": 7.5, "min": 0, "max": 12}
        ],
        "budget": 96,
        "init_r": 12,
        "target_r": 8,
        "trainable_parameters": 1000,
        "total_parameters": 100000,
        "adapter_bytes": 4_200_000,
        "total_steps": 500,
        "run_yaml": "model:\n  model_name_or_path: facebook/bart-base\n",
        "versions": {"torch": "2.13.0"},
    }
    return CardFacts(**values | changes)


def header(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    parsed: dict[str, Any] = yaml.safe_load(front)
    return parsed


def rendered(card: str) -> str:
    """As HTML, raw HTML let through: the most permissive reading of the card."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2]))


def test_the_header_is_what_the_hub_reads() -> None:
    assert header(model_card(facts())) == {
        "base_model": "facebook/bart-base",
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["adalora", "peft", "spectune"],
    }


@pytest.mark.parametrize("task", ["classification", "summarization", "translation", "text2text"])
def test_every_task_has_a_pipeline_tag(task: str) -> None:
    assert header(model_card(facts(task=task)))["pipeline_tag"]


def test_it_tells_what_a_person_needs() -> None:
    card = model_card(facts())
    for text in (
        "revision <code>aadd2ab</code>",
        "<code>reviews.csv</code> | 12,345 |",
        "<code>someone/reviews</code> | 100 |",
        "| exact_match | 0.9123 | <code>nrefs:1\\|strip:outer</code> |",
        "| encoder feed-forward | 4 | 30 | 7.5 | 0 to 12 |",
        "Rank 12 per matrix at the start, 8 on average at the end, 96 rank-one terms in all over 500 steps.",
        "1,000 trained parameters of 100,000 (1.00 %); 4.20 MB of adapter weights.",
        "```yaml\nmodel:\n  model_name_or_path: facebook/bart-base\n```",
        "torch 2.13.0",
    ):
        assert text in card
    assert "private" not in card


def test_loading_takes_five_lines_of_python() -> None:
    code = model_card(facts()).split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 6
    assert "spectune" not in code
    assert "revision='aadd2ab'" in code
    ast.parse(code)


def test_a_local_base_is_named_without_its_directories() -> None:
    card = model_card(facts(base_model="/home/someone/models/starter", base_is_local=True))
    assert "base_model" not in header(card)
    assert "adapter for starter" in card
    assert "someone/models" not in card


def test_texts_are_shown_and_not_run() -> None:
    card = model_card(
        facts(
            base_model=NASTY,
            base_revision=NASTY,
            label_words=[NASTY],
            data_files={NASTY: NASTY},
            rows={NASTY: 1},
            metrics={NASTY: {"value": 1.0, "signature": NASTY}},
            versions={NASTY: NASTY},
            run_yaml=f"x: |\n  ```\n  {NASTY}\n  ````\n",
        )
    )
    assert header(card)["base_model"] == NASTY
    html = rendered(card)
    assert "<script" not in html
    assert "<a " not in html
    assert "<strong>" not in html
    assert "<em>" not in html
    assert html.count("<h1>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | *bold* `code` [link](javascript:x) _em_ &amp;amp; # head" in html
    row = next(line for line in html.splitlines() if "<td>" in line and "alert" in line)
    assert row.count("<td>") == 1


def test_escape_leaves_plain_words_readable() -> None:
    assert escape("macro_f1 of 3.5 (test-set) #1") == "macro_f1 of 3.5 (test-set) #1"
    assert escape("a\n\nb") == "a b"


def test_a_bare_card_has_no_empty_sections() -> None:
    card = model_card(CardFacts(base_model="t5-small"))
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "# AdaLoRA adapter for t5-small",
        "## How to load",
    ]
