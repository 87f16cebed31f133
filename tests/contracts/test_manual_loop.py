"""`examples/manual_loop.py` runs as a person runs it: a process of its own, offline, few steps."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "manual_loop.py"
HEADINGS = [
    "1. Prepare data",
    "2. Configure AdaLoRA",
    "3. Load and adapt",
    "4. Train with rank allocation",
    "5. Evaluate by generation",
    "6. Save and reload",
]


def test_the_six_steps(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--steps", "20", "--rows", "16"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == HEADINGS
    assert "warm-up to step 2, decrease to step 10, frozen to step 20" in done.stdout
    assert "216 terms removed from memory" in done.stdout
    assert re.search(r"step   20: loss \d+\.\d+, 432 live terms", done.stdout)
    assert re.search(r"exact match 0\.\d+ \(before training 0\.000\)", done.stdout)
    assert "plain PEFT writes the same text for 16 of 16 rows" in done.stdout
    assert not list(tmp_path.iterdir())


def test_nothing_but_attach() -> None:
    """torch, transformers, PEFT, the standard library; of spectune only `attach` and the bundled files."""
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    foreign = {module for module in modules if module.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"torch", "peft", "transformers", "transformers.utils", "spectune", "spectune.starter.bundle"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spectune"
    }
    assert used == {"attach", "AdaLoraEngine"}
