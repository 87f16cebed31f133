"""What several commands need of the command line. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spectune.config import RunConfig
from spectune.errors import ConfigError
from spectune.files import can_be_written
from spectune.runfile import load_run_config

_OVERRIDE = re.compile(r"^(\w+\.\w+|preset)=")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
CONSTRAIN_LABELS_HELP = (
    "Also decode under the labels alone, with a probability each; unless given, as the adapter's run did."
)
RESUME_NEWEST = ""
"""What `--resume` without a directory becomes."""


def with_resume_value(argv: Sequence[str]) -> list[str]:
    """The arguments with `--resume` written as `--resume=DIR`, or `--resume=` where no directory follows.

    An option with an optional value is unknown to the parser. What follows is its value unless it is an option, an
    override or a run file.
    """
    words = list(argv)
    if "train" not in words[:1]:
        return words
    result: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*result, word, *words]
        if word == "--resume":
            follows = bool(words) and not _is_something_else(words[0])
            word = f"--resume={words.pop(0) if follows else RESUME_NEWEST}"
        result.append(word)
    return result


def _is_something_else(word: str) -> bool:
    return word.startswith("-") or "=" in word or Path(word).suffix in (".yaml", ".yml") or Path(word).is_file()


def config_from(words: Sequence[str], options: Mapping[str, object] | None = None) -> RunConfig:
    """The configuration from `[RUN.yaml] [section.key=value …]` and options given as `{section.key: value}`."""
    run_file: Path | None = None
    overrides: list[str] = []
    for position, word in enumerate(words):
        if _OVERRIDE.match(word) or ("=" in word and not Path(word).exists()):
            overrides.append(word)
        elif position == 0:
            run_file = Path(word)
        else:
            raise ConfigError(f"{word!r} is neither the run file nor section.key=value; the run file comes first")
    options = {key: value for key, value in (options or {}).items() if value is not None}
    twice = next((word for word in overrides if word.partition("=")[0] in options), None)
    if twice is not None:
        raise ConfigError(
            f"{twice} is given as an option, too, with the value {options[twice.partition('=')[0]]}; give one"
        )
    given = [f"{key}={value}" for key, value in options.items()]
    if run_file is None and not given and not overrides:
        raise ConfigError("give a run file, or --model and --data; `spectune init DATA` writes a run file")
    return load_run_config(run_file, [*given, *overrides])


def data_option(data: str | None) -> dict[str, object]:
    """The key a `--data` stands for: a table, or the directory or hub id of a data set."""
    if data is None:
        return {}
    is_table = Path(data).suffix.lower() in _TABLES or Path(data).is_file()
    return {"data.train_file" if is_table else "data.dataset_name": data}


def check_place(target: Path, kind: str = "a file") -> None:
    """Raises ConfigError where a result could not be written, before the work for it is done."""
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(f"{target} cannot be written: name {kind} in a directory that exists")
    if not can_be_written(target):
        raise ConfigError(f"{target} cannot be written, its directory takes no file from you; name one elsewhere")


def refuse_own_input(target: Path, data: str | None) -> None:
    """Raises ConfigError where the result would take the place of the rows that it is made of."""
    if data is not None and target.is_file() and Path(data).is_file() and target.samefile(data):
        raise ConfigError(f"{target} is the data itself; name another file with --output")
