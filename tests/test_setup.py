"""`scripts/setup.sh` with stand-ins for the interpreters: which one is chosen, what is repaired, what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = "sh awk df cat sed mv rm mkdir cp dirname tail".split()
# Answers questions (`-c`) with a real Python; makes an environment that holds itself; writes down what pip was asked.
STAND_IN = """#!/bin/sh
case "$1 $2" in
    "-c import ensurepip"*) {venv} ;;
    "-c "*) exec {python} -c "$2" ;;
    "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "{name}" > .venv/made-by ;;
    "-m pip") echo "$*" >> pip.log; {pip} ;;
    *) echo "$1" >> scripts.log ;;
esac
"""


class Checkout:
    """A checkout with nothing in it but the set-up, and a PATH of our own."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root / "project", root / "bin"
        (self.root / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "scripts" / "setup.sh", self.root / "scripts")
        for name in ("constraints.txt", "pyproject.toml"):
            (self.root / name).write_text(name, encoding="utf-8")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)

    def python(self, name: str, *, venv: str = "exit 0", pip: str = "exit 0") -> Path:
        """Put a stand-in on the PATH (anew, into the environment too where there is one)."""
        content = STAND_IN.format(python=sys.executable, name=name, venv=venv, pip=pip)
        return self.script(name, content)

    def script(self, name: str, content: str) -> Path:
        """An executable file on the PATH."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755)
        return path

    def setup(self, **environment: Any) -> subprocess.CompletedProcess[str]:
        """Run the script as make does."""
        return subprocess.run(
            [str(self.bin / "sh"), "scripts/setup.sh"],
            cwd=self.root,
            env={"PATH": str(self.bin), "PYTHON": "", **{key: str(value) for key, value in environment.items()}},
            capture_output=True,
            text=True,
        )

    def refusal(self, **environment: Any) -> str:
        """The one line of a set-up that gives up."""
        finished = self.setup(**environment)
        assert finished.returncode == 1
        assert finished.stderr.startswith("setup: ")
        assert finished.stderr.count("\n") == 1
        return finished.stderr

    def installs(self) -> int:
        """How often pip was asked."""
        log = self.root / "pip.log"
        return len(log.read_text("utf-8").splitlines()) if log.exists() else 0

    def maker(self) -> str:
        """The interpreter that the environment was made with."""
        return (self.root / ".venv" / "made-by").read_text("utf-8").strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_second_call_has_nothing_to_do(checkout: Checkout) -> None:
    checkout.python("python3.11")
    assert checkout.setup().returncode == 0
    assert (checkout.root / "pip.log").read_text("utf-8") == "-m pip install --quiet -c constraints.txt -e .[dev]\n"
    again = checkout.setup()
    assert (again.returncode, again.stdout, checkout.installs()) == (0, "", 1)


def test_every_candidate_is_run_before_it_is_chosen(checkout: Checkout) -> None:
    """A shim on the PATH names a version that is not installed."""
    checkout.script("python3.11", "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    checkout.python("python3.12")
    checkout.python("python3")
    assert checkout.setup().returncode == 0
    assert checkout.maker() == "python3.12"


def test_python_names_the_interpreter(checkout: Checkout) -> None:
    checkout.python("python3.11")
    mine = checkout.python("mine")
    assert checkout.setup(PYTHON=mine).returncode == 0
    assert checkout.maker() == "mine"
    assert "is not a Python 3.11, 3.12 or 3.13 that runs" in checkout.refusal(PYTHON="/nowhere/python")


def test_what_is_missing_is_named_with_its_remedy(checkout: Checkout) -> None:
    assert "no Python 3.11, 3.12 or 3.13 found; install one" in checkout.refusal()
    checkout.python("python3.11", venv="exit 1")
    assert "python3.11 has no venv module; install it (Debian, Ubuntu: apt install python3." in checkout.refusal()
    checkout.python("python3.11")
    checkout.script("df", "#!/bin/sh\nprintf 'Filesystem 1024-blocks Used Available\\n/dev/x 9 9 1048576\\n'\n")
    assert "only 1024 MB free here; make room for 3000 MB (8000 MB with NVIDIA's packages)" in checkout.refusal()
    assert checkout.installs() == 0


def test_an_interrupted_install_is_completed(checkout: Checkout) -> None:
    checkout.python("python3.11", pip="exit 1")
    assert "the install failed (see above)" in checkout.refusal()
    checkout.python("python3.11")
    shutil.copy(checkout.bin / "python3.11", checkout.root / ".venv" / "bin" / "python")
    finished = checkout.setup()
    assert finished.returncode == 0
    assert "completing the environment" in finished.stdout
    assert (checkout.root / "scripts.log").read_text("utf-8") == "scripts/forget_broken_packages.py\n"
    assert checkout.installs() == 2
    assert checkout.setup().stdout == ""


def test_other_pins_are_installed(checkout: Checkout) -> None:
    checkout.python("python3.11")
    checkout.setup()
    (checkout.root / "constraints.txt").write_text("torch==9\n", encoding="utf-8")
    assert checkout.setup().returncode == 0
    assert checkout.installs() == 2


def test_an_environment_without_a_python_is_made_anew(checkout: Checkout) -> None:
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    checkout.python("python3.11")
    assert "making the environment" in checkout.setup().stdout


def test_a_disk_that_fills_during_the_install(checkout: Checkout) -> None:
    real, full = shutil.which("df"), checkout.root / "full"
    row = "printf 'Filesystem 1024-blocks Used Available\\n/dev/x 9 9 1024\\n'"
    checkout.script("df", f'#!/bin/sh\nif [ -f {full} ]; then {row}; else exec {real} "$@"; fi\n')
    checkout.python("python3.11", pip=f": > {full}; exit 1")
    assert "the disk is full (1 MB left); make room for 3000 MB" in checkout.refusal()


def test_half_installed_packages_are_forgotten(tmp_path: Path) -> None:
    """pip would take the second and the third for installed: their METADATA is there."""
    for name, record in {"whole": "whole/a.py,,3\n", "cut": "cut/a.py,,300\n", "early": None}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x=1", encoding="utf-8")
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n", encoding="utf-8")
        if record is not None:
            (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
            (info / "RECORD").write_text(record, encoding="utf-8")
    script = ROOT / "scripts" / "forget_broken_packages.py"
    finished = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    assert finished.stdout == "setup: half installed, to be installed anew: cut, early\n"
    left = [PathDistribution(info).name for info in tmp_path.glob("*.dist-info")]
    assert left == ["whole"]
