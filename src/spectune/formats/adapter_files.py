"""An adapter's directory as it comes from anybody: found, downloaded if need be, and checked before it is loaded.

Nothing in it is trusted: no file is unpickled, none is written, no code of its own runs, and what its settings say
about trust is not listened to. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from spectune.errors import AdapterError, ConfigError, RunError
from spectune.files import read_json
from spectune.formats.adapter_config import check_config, kept_ranks
from spectune.hub import hub_trouble
from spectune.manifest import MANIFEST, verify_manifest

CONFIG, WEIGHTS, SETTINGS = "adapter_config.json", "adapter_model.safetensors", "spectune.json"
IMPORTANCE = "importance.safetensors"
"""The scores of the last allocation: what a smaller budget is chosen by."""
DOCUMENTS = ("README.md",)
"""What people read and programs do not: it may be edited."""
_HUB_ID = re.compile(r"\w[\w.\-]*/\w[\w.\-]*")
_PICKLE = "adapter_model.bin"
_READ_BY_LOADERS = re.compile(
    r"adapter_(model|config)\..+|(special_tokens_map|added_tokens|tokenizer|tokenizer_config|vocab|config"
    r"|generation_config|spectune|target_vocab|vocab-src|vocab-tgt)\.json|merges\.txt|vocab\.txt"
    r"|.+\.(model|spm|tokenizer|jinja|py|bin)"
)
WANTED = "*.json *.safetensors *.model *.spm *.tokenizer *.jinja *.txt *.bpe README.md".split()
"""Patterns of what is fetched from a hub repository: no pickles, no code."""


def locate_adapter(location: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The directory of an adapter; a run directory stands for its adapter, a hub id is downloaded.

    A manifest, where there is one, is verified.

    Args:
        location: a directory or hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        AdapterError: there is none, or it is damaged, or its weights are a pickle.
    """
    if not isinstance(location, str | os.PathLike):
        raise AdapterError(f"name an adapter's directory or hub id; a {type(location).__name__} is none")
    location = os.fspath(location)
    path = Path(location)
    if path.is_dir():
        if revision is not None:
            raise AdapterError(f"{location} is a directory, which has no revision; leave it out")
        inside = path / "adapter"
        path = inside if not (path / CONFIG).is_file() and (inside / CONFIG).is_file() else path
    elif path.exists():
        raise AdapterError(f"{location} is a file; name an adapter's directory or hub id")
    else:
        path = _download(location, revision)
    _check(path)
    return path


def read_adapter_config(path: Path) -> dict[str, Any]:
    """`adapter_config.json` as a mapping. Raises AdapterError where it is none."""
    try:
        config = read_json(path / CONFIG)
    except RunError as error:
        raise AdapterError(str(error)) from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterError(f"{path / CONFIG} names no peft_type; it is no configuration of PEFT")
    return config


def check_start(location: str, init_r: int) -> Path:
    """The directory of a finished adapter that a run with `init_r` slots per matrix can go on from.

    Raises:
        AdapterError: as `locate_adapter`, or no AdaLoRA adapter.
        ConfigError: a matrix has more triplets than slots.
    """
    path = locate_adapter(location)
    config = read_adapter_config(path)
    largest = max((kept_ranks(config) or {"": config["init_r"]}).values())
    if largest > init_r:
        raise ConfigError(
            f"adapter.init_r {init_r} is below the largest rank of {location}, which is {largest}; "
            f"give adapter.init_r of at least {largest}"
        )
    return path


def check_unfinished(path: Path) -> None:
    """Raises AdapterError for the directory of a run that was stopped before it wrote its adapter."""
    if (path / "checkpoints").is_dir() and (path / "run.yaml").is_file():
        raise AdapterError(
            f"{path} is a run without a finished adapter; continue it with: spectune train {path / 'run.yaml'} --resume"
        )


def _check(path: Path) -> None:
    if not (path / CONFIG).is_file():
        check_unfinished(path)
        raise AdapterError(f"{path} is not an adapter's directory: it holds no {CONFIG}")
    if not (path / WEIGHTS).is_file():
        if (path / _PICKLE).exists():
            raise AdapterError(
                f"{path / _PICKLE} is a pickle, which can run code; ask for the adapter as {WEIGHTS}, or convert it "
                "with PEFT on a machine that you can spare"
            )
        raise AdapterError(f"{path} holds no {WEIGHTS}")
    if (path / MANIFEST).is_file():
        _check_manifest(path)
    check_config(path / CONFIG, read_adapter_config(path))


def _check_manifest(path: Path) -> None:
    """All that shapes an output is as it was written, and nothing else lies there that a loader would read."""
    try:
        known = verify_manifest(path, free=DOCUMENTS)["files"]
    except RunError as error:
        raise AdapterError(
            f"{error}; copy or download the adapter again, or delete {MANIFEST} if you changed it yourself"
        ) from None
    check_strangers(path, known)


def check_strangers(path: Path, known: Collection[str]) -> None:
    """Raises AdapterError for a file beside those of the manifest that a loader would read."""
    for name in sorted(entry.name for entry in path.iterdir()):
        if name != MANIFEST and name not in known and _READ_BY_LOADERS.fullmatch(name):
            raise AdapterError(f"{path} holds {name}, which its {MANIFEST} does not know and a loader reads; remove it")


def _download(location: str, revision: str | None) -> Path:
    if not _HUB_ID.fullmatch(location):
        raise AdapterError(f"there is no directory {location}; name an adapter's directory or hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, revision=revision, allow_patterns=WANTED))
    except Exception as error:  # the hub's library passes on whatever its HTTP library raises
        raise AdapterError(f"there is no directory {location}, and {hub_trouble(error, 'adapter')}") from None
