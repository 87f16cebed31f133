"""Which columns make source and target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.helpers import line_of

from spectune.config import DataConfig
from spectune.data.columns import Template, resolve_columns
from spectune.data.table import Table
from spectune.errors import ConfigError, DataError


def table(*columns: str) -> Table:
    return Table(origin="a.csv", columns=columns, rows=[dict.fromkeys(columns, "x")])


def columns_of(table: Table, **settings: str) -> tuple[tuple[str, ...], str | None]:
    columns = resolve_columns(DataConfig(train_file="a.csv", **settings), table, need_targets=True)
    return columns.text, columns.target


def test_defaults() -> None:
    assert columns_of(table("text", "label")) == (("text",), "label")
    assert columns_of(table("text", "label", "target")) == (("text",), "target")


@pytest.mark.parametrize(
    ("present", "settings", "message"),
    [
        (("review", "label"), {}, "a.csv has no column 'text' (data.text_column); it has review, label"),
        (("Text", "label"), {}, "(did you mean 'Text'?)"),
        (
            ("text", "lable"),
            {"target_column": "label"},
            "no column 'label' (data.target_column); it has text, lable (did",
        ),
        (("text", "sentiment"), {}, "has neither a column 'target' nor 'label'; it has text, sentiment; name the one"),
        (("text;label",), {}, "it seems to be separated by semicolons"),
        (("a", "label"), {"source_template": "{a} {b}"}, "no column 'b' (data.source_template)"),
    ],
)
def test_missing_columns_name_what_there_is(present: tuple[str, ...], settings: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as error:
        columns_of(table(*present), **settings)
    assert message in line_of(error)


def test_source_must_not_be_the_target() -> None:
    with pytest.raises(ConfigError, match="the target would be the source"):
        columns_of(table("text", "label"), target_column="text")


def test_nested_columns() -> None:
    nested = Table(origin="a", columns=("translation",), rows=[{"translation": {"en": "yes", "fr": "oui"}}])
    assert columns_of(nested, text_column="translation.en", target_column="translation.fr")[1] == "translation.fr"
    assert nested.value(0, "translation.fr") == "oui"
    with pytest.raises(DataError, match=r"it has translation, translation\.en, translation\.fr \(did you mean"):
        columns_of(nested, text_column="translation.eng")


def test_template() -> None:
    template = Template.parse("{{q}}: {question} c: { context }")
    assert template.columns == ("question", "context")
    assert template.render(("why?", "{x}")) == "{q}: why? c: {x}"


@pytest.mark.parametrize("text", ["no column", "{", "a } b", "{} x", "{ } x", "{a{b}"])
def test_broken_templates(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Template.parse(text)
    assert "data.source_template" in line_of(error)


PIECES = st.text(alphabet="{}a é", max_size=5)


@given(st.lists(PIECES, min_size=2, max_size=5), st.data())
def test_template_renders_any_literals_and_values(literals: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(PIECES, min_size=len(literals) - 1, max_size=len(literals) - 1))
    escaped = [literal.replace("{", "{{").replace("}", "}}") for literal in literals]
    template = Template.parse("{column}".join(escaped))
    expected = literals[0] + "".join(value + after for value, after in zip(values, literals[1:], strict=True))
    assert template.render(tuple(values)) == expected
