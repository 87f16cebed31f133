"""Write docs/run-file.md, docs/commands.md and docs/schedule.svg from the sources.

    python -m scripts.docs_reference [DIRECTORY]

The suite checks that the committed files are what this writes.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined
from scripts.docs_picture import schedule_picture

from spectune.cli.app import app
from spectune.config_values import Section
from spectune.presets import PRESETS
from spectune.runfile import SECTIONS

DOCS = Path(__file__).resolve().parent.parent / "docs"
_WORDS: dict[Any, list[str]] = {
    int: ["whole number"],
    float: ["number"],
    str: ["text"],
    bool: ["`true`", "`false`"],
}


def run_file_page() -> str:
    """Every key of the run file: what it may be, its default, what it does."""
    lines = [
        "# Run file",
        "",
        "YAML, five sections and a preset. Names are those of transformers and PEFT. Only",
        "`model.model_name_or_path` and a data source are required. Any key can be overridden on the command line as",
        "`section.key=value`; an unknown key is an error that names the nearest known one. `data/NAME/…` in a path",
        "lies under the directory named by `SPECTUNE_DATA` when that is set.",
    ]
    lines += _preset_lines()
    for section, kind in SECTIONS.items():
        notes = attribute_notes(inspect.getsource(kind))
        lines += ["", f"## {section}", "", (inspect.getdoc(kind) or "").splitlines()[0], ""]
        lines += ["| key | values | default | |", "|---|---|---|---|"]
        for name, entry in kind.model_fields.items():
            default = "required" if entry.is_required() else _value(entry.default)
            note = " ".join(notes.get(name, "").split())
            lines.append(f"| `{name}` | {_cell(', '.join(_in_words(entry.annotation)))} | {default} | {_cell(note)} |")
    return "\n".join(lines) + "\n"


def _preset_lines() -> list[str]:
    """The presets, side by side."""
    keys = {f"{section}.{key}": None for preset in PRESETS.values() for section in preset for key in preset[section]}
    lines = [
        "",
        "## preset",
        "",
        "`preset: paper`, `fast` or `best` at the top of the file, or `preset=fast` on the command line: values for",
        "keys that are not written; what is written always wins. Of `init_r` and `target_r`, one that is written",
        "brings the other with it: 2 and 1, 4 and 2, 6 and 4, 12 and 8 for `paper` and `fast`, else half as much",
        "again; `init_r` is 8 × `target_r` for `best`. `budget` takes the place of `target_r`. The run directory's",
        "`run.yaml` holds the values themselves.",
        "`paper` is [what the paper does](paper.md); `fast` and `best` are provisional.",
        "",
        f"| key | {' | '.join(PRESETS)} |",
        f"|---|{'---|' * len(PRESETS)}",
    ]
    for dotted in keys:
        section, key = dotted.split(".")
        values = [preset.get(section, {}).get(key) for preset in PRESETS.values()]
        lines.append(f"| `{dotted}` | {' | '.join('' if value is None else _value(value) for value in values)} |")
    return lines


def attribute_notes(source: str) -> dict[str, str]:
    """Attribute of a class → the string written beneath it."""
    (kind,) = ast.parse(source).body
    assert isinstance(kind, ast.ClassDef)
    return {
        entry.target.id: ast.literal_eval(below.value)  # type: ignore[attr-defined]
        for entry, below in zip(kind.body, kind.body[1:], strict=False)
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and _is_text(below)
    }


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    lines = [
        "# Commands",
        "",
        "`python -m spectune` is the same program. A model, an adapter or a data set may be a local directory or a hub",
        "id. Exit status 0, or 2 with one line on standard error for a person's mistake, 1 for a bug; 130 or 143 after",
        "SIGINT or SIGTERM.",
    ]
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        lines += ["", f"## spectune {name}", "", inspect.cleandoc(command.help or "").replace("\f", ""), ""]
        lines += ["| | |", "|---|---|"]
        for parameter in command.params:
            shown = parameter.metavar or parameter.name
            if parameter.param_type_name == "option":
                shown = ", ".join(parameter.opts + parameter.secondary_opts)
            lines.append(f"| `{shown}` | {_cell(parameter.help or '')} |")
    return "\n".join(lines) + "\n"


PAGES = {"run-file.md": run_file_page, "commands.md": commands_page, "schedule.svg": schedule_picture}


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _value(default: Any) -> str:
    if default is PydanticUndefined:
        return ""
    if default is None:
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else "empty"


def _in_words(kind: Any) -> list[str]:
    """`PositiveInt | None` → `whole number`; None goes without saying."""
    inner = [word for argument in get_args(kind) if get_origin(kind) is not Literal for word in _in_words(argument)]
    match get_origin(kind):
        case typing.Annotated:
            return _in_words(get_args(kind)[0])
        case typing.Literal:
            return [f"`{value}`" for value in get_args(kind)]
        case typing.Union | types.UnionType:
            return list(dict.fromkeys(inner))
        case builtins.list:
            return [f"list of {inner[0]}"]
        case builtins.dict:
            return ["mapping"]
    if isinstance(kind, type) and issubclass(kind, Section):
        return ["mapping"]
    return _WORDS.get(kind, [])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write(directory: Path) -> None:
    """All pages into a directory."""
    for name, make in PAGES.items():
        (directory / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
