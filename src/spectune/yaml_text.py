"""YAML read and written by the 1.2 core schema, duplicate keys refused.

PyYAML follows YAML 1.1, in which `1e-3` is a text, `no` is false, `12:30` is the number 750 and `2024-01-01` is a date.
A run file says `learning_rate: 1e-3`, `eval_strategy: no` and `{0: no, 1: yes}` and means what YAML 1.2 reads.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from spectune.errors import ConfigError

_UNICODE_BREAK = re.compile("[\x85\u2028\u2029]")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_CORE = (
    ("tag:yaml.org,2002:bool", _BOOL, list("tTfF")),
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", _INT, list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
)


class _CoreLoader(yaml.SafeLoader):
    """A safe loader with the types of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _CoreDumper(yaml.SafeDumper):
    """A safe dumper that quotes every text which YAML 1.1 or 1.2 would read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """PyYAML folds the line breaks of Unicode into spaces unless they are escaped."""
    style = '"' if _UNICODE_BREAK.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_HINTS = {
    "'\\t'": "; indent with blanks, not with tabs",
    "mapping values are not allowed": "; check the indentation, and put a text with a colon in quotes",
    "expected <block end>": "; check the indentation of this line and of those above it",
}
"""Part of the parser's words → what to do."""

for _tag, _pattern, _first in _CORE:
    _CoreLoader.add_implicit_resolver(_tag, _pattern, _first)
    _CoreDumper.add_implicit_resolver(_tag, _pattern, _first)
_CoreDumper.add_representer(str, _represent_text)
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(text: str, source: str) -> Any:
    """The value a YAML text stands for; a mistake in it is one line that starts with `source`."""
    try:
        return yaml.load(text, Loader=_CoreLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context or "not YAML"
        hint = next((hint for part, hint in _HINTS.items() if part in problem), "")
        raise ConfigError(f"{source}: {where}{problem}{hint}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from None


def write_yaml(value: Any) -> str:
    """The value as block YAML, keys in their order."""
    return yaml.dump(value, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=10_000)
