"""Imports point one way: cli → training, evaluation, report, formats → adapter, data → errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "spectune"
FILES = sorted(SOURCE.rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "accelerate"}

_PLAIN = {"errors", "config", "yaml_text", "runfile", "files", "manifest"}
_MIDDLE = {"training", "evaluation", "report", "formats"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "manifest": {"errors", "files"},
    "budget": set(),
    "config_values": set(),
    "config_data": {"config_values"},
    "presets": set(),
    "config_adapter": {"budget", "config_values"},
    "config": {"config_adapter", "config_data", "config_values", "presets"},
    "yaml_text": {"errors"},
    "runfile": {*_PLAIN, "config_values", "presets"},
    "adapter": {"errors"},
    "data": {"errors", "config", "files", "starter"},
    "starter": {"errors", "files", "manifest", "adapter"},
    "hub": {"errors"},
    "launch": {"errors"},
    "sharing": {"launch", "evaluation", "training"},
    "teacher_forcing": {"errors"},
    "base_model": {"errors", "config", "starter", "hub", "teacher_forcing"},
    "families": {"errors", "config"},
    "report": {"errors", "yaml_text", "adapter", "data"},
    "formats": {"errors", "config", "budget", "files", "manifest", "hub", "adapter", "data"},
    "evaluation": {"errors", "config", "files", "formats", "adapter", "data", "starter", "teacher_forcing"},
    "training": {
        *_PLAIN,
        *_MIDDLE,
        *("adapter", "data", "base_model", "starter", "planning", "sizes", "teacher_forcing", "families", "launch"),
    },
    "integrations": {"errors", "config", "adapter", "training"},
    "sizes": {"errors", "config", "budget", "adapter"},
    "planning": {
        *_PLAIN,
        "formats",
        "adapter",
        "data",
        "base_model",
        "training",
        "evaluation",
        "sizes",
        "families",
        "memory",
        "launch",
    },
    "proposal": {"errors", "data", "presets", "yaml_text"},
    "api": {*_PLAIN, *_MIDDLE, "adapter", "data", "base_model", "starter", "planning", "proposal", "launch", "sharing"},
    "export_checks": {"errors", "files", "budget", "manifest"},
    "exporting": {
        "errors",
        "budget",
        "export_checks",
        "files",
        "adapter",
        "formats",
        "evaluation",
        "report",
        "manifest",
    },
    "sweeping": {"errors", "budget", "data", "export_checks", "exporting", "evaluation", "formats", "api"},
    "cli": {
        *_PLAIN,
        *_MIDDLE,
        "adapter",
        "data",
        "memory",
        "planning",
        "presets",
        "proposal",
        "api",
        "starter",
        "exporting",
        "sweeping",
        "launch",
        "__init__",
    },
    "memory": {"errors", "config", "adapter", "data", "sizes", "training", "evaluation"},
    "__main__": {"cli"},
    "__init__": {"errors", "adapter", "api", "exporting", "sweeping", "integrations"},
}
"""Part of the package → parts it may import, its own aside."""


def _part(module: str) -> str:
    """`spectune.adapter.bank` → `adapter`; the package itself → `__init__`."""
    return [*module.split("."), "__init__"][1]


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "spectune":
                submodules = {path.stem for path in SOURCE.iterdir()}
                yield from (
                    f"spectune.{alias.name}" if alias.name in submodules else "spectune" for alias in node.names
                )
            else:
                yield node.module or ""


def _at_import(tree: ast.Module) -> ast.Module:
    """The tree without what runs later (functions) or never (TYPE_CHECKING)."""

    class Outermost(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.If | None:
            return None if "TYPE_CHECKING" in ast.dump(node.test) else node

    return ast.fix_missing_locations(Outermost().visit(tree))  # type: ignore[no-any-return]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _top_level(path: Path) -> set[str]:
    return {module.split(".")[0] for module in _modules(_at_import(_tree(path)))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    used = {_part(module) for module in _modules(_tree(path)) if module.split(".")[0] == "spectune"}
    assert used - {part} <= ALLOWED[part]


@pytest.mark.parametrize("path", sorted(SOURCE.glob("adapter/*.py")), ids=lambda path: path.stem)
def test_only_the_host_knows_peft(path: Path) -> None:
    foreign = {"transformers", "accelerate"} | (set() if path.stem.startswith("peft_") else {"peft"})
    assert not foreign & {module.split(".")[0] for module in _modules(_tree(path))}


_SCORES = ("answer_scores", "label_scores", "text_scores")


@pytest.mark.parametrize("name", ["metrics", "metric", "scripts", *_SCORES])
def test_metrics_take_strings_only(name: str) -> None:
    modules = set(_modules(_tree(SOURCE / "evaluation" / f"{name}.py")))
    assert not {module for module in modules if module.split(".")[0] in HEAVY}
    allowed = {"spectune.errors", "spectune.evaluation", "spectune.evaluation.metric"}
    allowed |= {f"spectune.evaluation.{name}" for name in (*_SCORES, "scripts")}
    assert {module for module in modules if module.startswith("spectune")} <= allowed


@pytest.mark.parametrize("path", sorted(SOURCE.glob("report/*.py")), ids=lambda path: path.stem)
def test_the_report_reads_files_of_a_run(path: Path) -> None:
    modules = set(_modules(_tree(path)))
    assert not {module for module in modules if module.split(".")[0] in HEAVY}
    ours = {module for module in modules if module.startswith("spectune.") and not module.startswith("spectune.report")}
    plain = {"spectune.errors", "spectune.yaml_text", "spectune.data.wording"}
    assert ours <= {*plain, "spectune.adapter.roles", "spectune.adapter.schedule"}


_TENSORS = ("assembly", "collation", "loader")
LIGHT = [
    *SOURCE.glob("*.py"),
    *SOURCE.glob("cli/*.py"),
    *(path for path in SOURCE.glob("data/*.py") if path.stem not in _TENSORS),
    *(SOURCE / "adapter" / name for name in ("__init__.py", "schedule.py", "roles.py")),
    *(
        SOURCE / "training" / f"{name}.py"
        for name in ("__init__", "learning_rate", "directory", "lock", "signals", "journal", "trackers")
    ),
    SOURCE / "starter" / "bundle.py",
    SOURCE / "formats" / "adapter_files.py",
    SOURCE / "formats" / "adapter_settings.py",
]


@pytest.mark.parametrize("path", sorted(LIGHT), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_torch_before_the_mistakes_are_found(path: Path) -> None:
    assert not HEAVY & _top_level(path)
