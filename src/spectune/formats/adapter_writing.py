"""What every adapter directory that is written here shares. Imports no torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from spectune.files import read_json, write_text
from spectune.formats.adapter_files import CONFIG


def in_order(directory: Path) -> None:
    """Put the lists of a configuration that PEFT wrote in order: it writes sets, differently in each process."""
    config = read_json(directory / CONFIG)
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config.get(name), list):
            config[name].sort()
    write_text(directory / CONFIG, json.dumps(config, indent=2, sort_keys=True))


def readable(directory: Path) -> None:
    """Let those read the weights who may read the configuration; safetensors keeps them from everybody else."""
    config = next(path for path in directory.iterdir() if path.suffix == ".json")
    for path in directory.glob("*.safetensors"):
        shutil.copymode(config, path)
