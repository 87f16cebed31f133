"""Where the bundled model and data lie, and how a person gets a copy of the model. Imports no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from spectune.errors import UserError

_HERE = Path(__file__).resolve().parent


def model_directory() -> Path:
    """The directory of the bundled base model, loadable by ``AutoModelForSeq2SeqLM.from_pretrained``."""
    return _HERE / "model"


def data_files() -> tuple[Path, Path]:
    """The bundled CSV files (train, validation), columns ``text`` and ``label``."""
    return _HERE / "data" / "train.csv", _HERE / "data" / "validation.csv"


def write_model(directory: Path) -> None:
    """Copy the bundled base model into ``directory``, made if need be; UserError if something is already there."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; give a directory that is new or empty")
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty; give a directory that is new or empty")
    shutil.copytree(model_directory(), directory, dirs_exist_ok=True)
