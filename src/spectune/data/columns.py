"""Which columns make the source, the target and the references."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spectune.config import DataConfig
from spectune.data.table import Table
from spectune.data.wording import names_text, nearest_hint
from spectune.errors import ConfigError, DataError

DEFAULT_TEXT = "text"
DEFAULT_TARGETS = ("target", "label")
DEFAULT_REFERENCES = "references"
# Not str.format: that would look up attributes and indices (`{text.__class__}`) and choke on braces in JSON.
_TEMPLATE_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """`literals[0] + column 0 + literals[1] + column 1 + … + literals[-1]`."""

    literals: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Reads `"premise: {premise} hypothesis: {hypothesis}"`; doubled braces are plain ones. Raises ConfigError."""
        literals, columns, position = [""], [], 0
        for match in _TEMPLATE_PART.finditer(text):
            literals[-1] += text[position : match.start()]
            position = match.end()
            if match[0] in ("{{", "}}"):
                literals[-1] += match[0][0]
            elif match[1] is None or not match[1].strip():
                raise ConfigError(
                    f"data.source_template {text!r}: a brace without a column name; write {{column}}, or {{{{ for {{"
                )
            else:
                columns.append(match[1].strip())
                literals.append("")
        literals[-1] += text[position:]
        if not columns:
            raise ConfigError(f"data.source_template {text!r} names no column; write {{column}} where its text belongs")
        return cls(tuple(literals), tuple(columns))

    def render(self, values: tuple[str, ...]) -> str:
        """The template with one text for each of `columns`."""
        return self.literals[0] + "".join(v + after for v, after in zip(values, self.literals[1:], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a run; every table of the run must have them."""

    template: Template
    target: str | None
    """None when no targets are needed."""
    references: str
    """Optional in each table: validation data often has several right outputs where training data has one."""

    @property
    def text(self) -> tuple[str, ...]:
        """The columns of the source."""
        return self.template.columns


def source_template(config: DataConfig) -> Template:
    """How the source is made: the template, or the one text column. Raises ConfigError for a broken template."""
    if config.source_template is not None:
        return Template.parse(config.source_template)
    return Template(("", ""), (config.text_column or DEFAULT_TEXT,))


def resolve_columns(config: DataConfig, table: Table, *, need_targets: bool) -> Columns:
    """The columns the run file means, defaults resolved by what `table` has.

    Raises:
        DataError: a column that is not there, with those that are and the nearest.
        ConfigError: a broken template, or source and target in one column.
    """
    template = source_template(config)
    key = "source_template" if config.source_template is not None else "text_column"
    for column in template.columns:
        require_column(table, column, key)
    target = _target_column(config, table) if need_targets else None
    if target is not None and template.columns == (target,):
        raise ConfigError(f"data.{key} and data.target_column both name {target!r}; the target would be the source")
    return Columns(template=template, target=target, references=config.references_column or DEFAULT_REFERENCES)


def require_column(table: Table, column: str, key: str) -> None:
    """Raises DataError unless `table` has the column; `data.<key>` is where the person named it."""
    if table.has(column):
        return
    known = (*table.columns, *table.nested_columns())
    only = table.columns[0] if len(table.columns) == 1 else ""
    separators = [
        name for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")) if sign in only
    ]
    hint = f"; it seems to be separated by {separators[0]}" if separators else nearest_hint(column, known)
    raise DataError(f"{table.origin} has no column {column!r} (data.{key}); it has {names_text(known)}{hint}")


def _target_column(config: DataConfig, table: Table) -> str:
    if config.target_column is not None:
        require_column(table, config.target_column, "target_column")
        return config.target_column
    found = next((name for name in DEFAULT_TARGETS if table.has(name)), None)
    if found is None and config.references_column is not None:
        require_column(table, config.references_column, "references_column")
        return config.references_column  # the first of each row is what is learnt
    if found is None:
        raise DataError(
            f"{table.origin} has neither a column 'target' nor 'label'; it has {names_text(table.columns)};"
            f" name the one to learn in data.target_column"
        )
    return found
