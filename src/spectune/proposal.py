"""A first run file for data nobody has described yet: columns, task and label names guessed from the rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectune.data.column_kinds import has_texts, is_text_like, list_in
from spectune.data.columns import DEFAULT_REFERENCES
from spectune.data.labels import canonical_label, is_integer_label
from spectune.data.locations import resolve_data_path
from spectune.data.sources import READERS, STARTER, dataset_splits, read_table, starter_splits
from spectune.data.table import Table
from spectune.data.wording import names_text, separator_hint
from spectune.errors import ConfigError, DataError
from spectune.presets import PRESETS, names
from spectune.yaml_text import write_yaml

_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question", "context"),
    ("question1", "question2"),
    ("instruction", "input"),
)
_TEXTS = (
    "text sentence source input document article dialogue review content body question premise src mr prompt "
    "utterance command en translation.en title headline news tweet message"
).split()
_TARGETS = (
    "target label summary tldr highlights answer output translation response intent sentiment class category "
    "tgt labels ref reference abstract"
).split()
_SUMMARIES = {"summary", "tldr", "highlights", "abstract"}
_LANGUAGES = frozenset("ar cs de en es fi fr hi it ja ko nl pl pt ro ru sv tr uk zh".split())
_NUMBERS = {"id", "idx", "index", "guid", "uid"}
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_MOST_LABELS = 300
_CHARACTERS_PER_TOKEN = 2.0  # of ASCII, on the safe side, as a token for each byte of other scripts is
_MANY_ROWS = 200_000  # from here on memory may be short
_ENOUGH_ROWS = 20_000  # rows seen in a run: epochs are chosen to come near it


@dataclass(frozen=True, kw_only=True)
class _Guess:
    source: dict[str, str]
    columns: tuple[str, ...]
    target: str
    task: str
    labels: tuple[str, ...]


def propose_run_file(data: str, *, model: str, output_dir: str | None = None, preset: str | None = None) -> str:
    """The text of a commented run file for a table, a data set's directory, a hub id, or `starter`.

    What a preset decides is left to it, and shown in comments.

    Raises:
        DataError: the data cannot be read or has fewer than two columns.
        ConfigError: there is no such preset.
    """
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"{preset!r} is not a preset; choose from {', '.join(names())}")
    place, table = _read(data)
    guess = _guess(table)
    output_dir = output_dir or f"runs/{_short_name(data)}"
    return _render(place=place, table=table, guess=guess, model=model, output_dir=output_dir, preset=preset)


def _read(data: str) -> tuple[dict[str, str], Table]:
    """Where the data is, as keys of the data section, and its training rows."""
    if data == STARTER:
        return {"dataset_name": STARTER}, starter_splits()["train"]
    path = resolve_data_path(data)
    if path.is_file() or path.suffix.lower() in READERS:
        table = read_table(data)
        return {"train_file": data, **_sibling(data, path)}, table
    splits = dataset_splits(data)
    return {"dataset_name": data}, splits.get("train") or next(iter(splits.values()))


def _sibling(data: str, path: Path) -> dict[str, str]:
    """A validation file that lies beside `train.*`."""
    if "train" not in path.stem:
        return {}
    for name in _VALIDATION_NAMES:
        beside = path.stem.replace("train", name) + path.suffix
        if (path.parent / beside).is_file():
            return {"validation_file": str(Path(data).with_name(beside))}
    return {}


def _guess(table: Table) -> _Guess:
    columns = [name for name in (*table.columns, *table.nested_columns()) if is_text_like(table, name)]
    if len(columns) < 2:
        raise DataError(
            f"{table.origin} needs a column of texts and one of targets; it has "
            f"{names_text(table.columns) or 'none'}{separator_hint(table.columns)}"
        )
    target = _first(columns, [*table.label_names, *_TARGETS]) or _unnamed_target(table, columns)
    others = [name for name in columns if name != target and has_texts(table, name)]
    if not others:
        raise DataError(f"{table.origin} has no column of texts beside {target!r}; it has {names_text(table.columns)}")
    texts: tuple[str, ...] = next((pair for pair in _PAIRS if set(pair) <= set(others)), ())
    if texts:
        source = {"source_template": " ".join(f"{name}: {{{name}}}" for name in texts)}
    else:
        texts = (_first(others, _TEXTS) or max(others, key=lambda name: _mean_length(table, name)),)
        source = {"text_column": texts[0]}
    labels = _labels(table, target)
    task = "classification" if labels else _text_task(texts[0], target)
    return _Guess(source=source, columns=texts, target=target, task=task, labels=labels)


def _text_task(text: str, target: str) -> str:
    if target.lower() in _SUMMARIES:
        return "summarization"
    codes = {name.rsplit(".", 1)[-1].lower() for name in (text, target)}
    return "translation" if codes <= _LANGUAGES or target.lower() == "translation" else "text2text"


def _labels(table: Table, target: str) -> tuple[str, ...]:
    """The labels, if the column looks like labels: few short values, each on several rows."""
    counts = Counter(canonical_label(value) for value in _values(table, target))
    counts.pop(None, None)
    labels = [label for label in counts if label is not None]
    rows = sum(counts.values())
    few = 0 < len(labels) <= min(_MOST_LABELS, max(2, rows // 3))
    if target in table.label_names or (few and max(map(len, labels)) <= 60):
        numbers = all(map(is_integer_label, labels))
        return tuple(sorted(labels, key=int) if numbers else sorted(labels))
    return ()


def _values(table: Table, column: str) -> list[Any]:
    return [table.value(index, column) for index in range(len(table.rows))]


def _first(columns: Sequence[str], wanted: Sequence[str]) -> str | None:
    by_folded = {name.casefold(): name for name in columns}
    return next((by_folded[name.casefold()] for name in wanted if name.casefold() in by_folded), None)


def _unnamed_target(table: Table, columns: Sequence[str]) -> str:
    """No name says it: a column that looks like labels and is no row number, else the last; no source of a pair."""
    readable = {name.partition(".")[0] for name in columns}  # as the texts in a column of mappings are
    lists = [name for name in table.columns if name not in readable and name.casefold().rstrip("s") in _TARGETS]
    if lists:
        raise DataError(
            f"{table.origin}: the column {lists[0]!r} looks like what is to be written, but holds lists or mappings; "
            "make a column of one text a row of it, called target, or write a run file with data.references_column: "
            f"{list_in(table, lists[0])}"
        )
    read = {name for pair in _PAIRS if set(pair) <= set(columns) for name in pair}
    free = [name for name in columns if name not in read]
    labelled = [name for name in free if _labels(table, name)]
    likely = labelled or [name for name in free if not read or name.casefold() not in _NUMBERS]
    if not likely:
        raise DataError(f"{table.origin} has {names_text(columns)} to read, and no column of what is to be written")
    return likely[-1]


def _mean_length(table: Table, column: str) -> float:
    lengths = [len(str(value)) for value in _values(table, column) if value is not None]
    return sum(lengths) / max(1, len(lengths))


def _tokens(table: Table, columns: Sequence[str], *, most: int) -> int:
    """A length limit that cuts next to nothing: the longest row in characters, as tokens, in steps of 32."""
    longest = max(
        sum(_tokens_of(str(table.value(index, column) or "")) for column in columns) for index in range(len(table.rows))
    )
    return min(most, 32 * math.ceil((longest + 8) / 32))


def _tokens_of(text: str) -> float:
    ascii_only = text.encode("ascii", "ignore")
    return len(ascii_only) / _CHARACTERS_PER_TOKEN + len(text.encode("utf-8", "replace")) - len(ascii_only)


def _short_name(data: str) -> str:
    path = Path(data)
    stem = path.parent.name if path.stem.startswith("train") and path.parent.name else path.stem
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in stem) or "run"


def _render(
    *, place: dict[str, str], table: Table, guess: _Guess, model: str, output_dir: str, preset: str | None
) -> str:
    header = [
        f"# Written by `spectune init` from {len(table.rows):,} rows of {table.origin}",
        f"# with the columns {', '.join(table.columns)}.{_unused(table, guess)}",
        "# What was guessed is below; check it, then:",
        "#   spectune plan THIS_FILE       shows what will happen",
        "#   spectune train THIS_FILE      does it",
    ]
    base = _entry(
        "model_name_or_path", model, "a directory, a hub id (facebook/bart-base, google/flan-t5-base), or starter"
    )
    sections = {
        "model": base,
        "data": _data_lines(place, table, guess),
        "adapter": [
            *_entry("target_r", 8, "average rank after the freeze; or a budget for the saved file, budget: 400kB"),
            *_entry("init_r", "auto", "rank every matrix starts with: 4 × target_r, at least 16"),
            *_entry("tinit", 0.10, "warm-up: a fraction of the run, or steps"),
            *_entry("tfinal", 0.25, "length of the frozen phase"),
        ],
        "train": [
            *_entry("output_dir", output_dir),
            *_entry("num_train_epochs", max(1, min(10, round(_ENOUGH_ROWS / max(1, len(table.rows)))))),
            *_entry("learning_rate", 0.001, "adapters want about 1e-3"),
            *_entry("per_device_train_batch_size", 8),
            *_entry("seed", 42),
        ],
        "evaluation": [
            *_entry("eval_strategy", "epoch", "epoch, steps (with eval_steps), no"),
            *_entry("num_beams", 1),
            *(_entry("constrain_labels", False, "true: also decode under the labels alone") if guess.labels else []),
        ],
    }
    lines = [" ".join(line.splitlines()) for line in header]
    if preset is not None:
        lines += ["", f"{f'preset: {preset}':<43} # for what is not written below; what is written wins"]
    for name, entries in sections.items():
        lines += ["", f"{name}:", *_left_to_preset(entries, PRESETS.get(preset or "", {}).get(name, {}))]
    return "\n".join(lines) + "\n"


def _unused(table: Table, guess: _Guess) -> str:
    """What nobody reads, said where a text is among it."""
    read = {name.partition(".")[0] for name in (*guess.columns, guess.target)}
    read.add(DEFAULT_REFERENCES)  # a run takes it by itself
    texts = [name for name in table.columns if name not in read and name.casefold() not in _NUMBERS]
    return f" Not used: {', '.join(texts)}." if texts else ""


def _left_to_preset(entries: list[str], preset: dict[str, Any]) -> list[str]:
    """The lines of a section, those of the preset's keys as comments."""
    comments = [f"  # {write_yaml({key: value}).strip()}" for key, value in preset.items()]
    return [line for line in entries if line.split(":")[0].strip() not in preset] + comments


def _data_lines(place: dict[str, str], table: Table, guess: _Guess) -> list[str]:
    limit = 32 if guess.labels and max(map(len, guess.labels)) < 40 else _tokens(table, [guess.target], most=512)
    keys = {**place, **guess.source, "target_column": guess.target, "task": guess.task}
    lines = [
        *[line for key, value in keys.items() for line in _entry(key, value)],
        *_label_lines(place, table, guess),
        *_entry("source_prefix", "", 'put before every source; T5 models expect one, as in "summarize: "'),
        *_entry("max_source_length", _tokens(table, guess.columns, most=1024), "tokens; longer sources are cut"),
        *_entry("max_target_length", limit),
    ]
    if len(table.rows) >= _MANY_ROWS:
        lines.append("  # streaming: true  reads the rows while it trains; needs train.max_steps and validation data")
    if guess.task == "translation":
        lines += _entry("source_lang", None, "code of the tokenizer, as en_XX: for mBART, M2M100, NLLB; else null")
        lines += _entry("target_lang", None, "likewise")
    if "validation_file" not in place:
        lines += _entry("validation_split", 0.1, "held out, unless the data brings a validation split")
    return lines


def _entry(key: str, value: object, comment: str = "") -> list[str]:
    text = "  " + write_yaml({key: value}).rstrip("\n").replace("\n", "\n  ")
    return [f"{text:<43} # {comment}" if comment else text]


def _label_file(place: dict[str, str]) -> Path | None:
    """The names of numbered labels, where they lie beside the data."""
    file, directory = place.get("train_file"), place.get("dataset_name")
    named = Path(file).with_name("labels.json") if file else Path(directory or "") / "labels.json"
    return named if resolve_data_path(named).is_file() else None


def _label_lines(place: dict[str, str], table: Table, guess: _Guess) -> list[str]:
    """Numbers get names, from a file beside the data or to be replaced by hand; words stand for themselves."""
    if not guess.labels:
        return []
    if guess.target in table.label_names:
        names = dict(enumerate(table.label_names[guess.target]))
        return ["  label_names:", *[f"    {write_yaml({key: name}).strip()}" for key, name in names.items()]]
    if all(map(is_integer_label, guess.labels)):
        if (file := _label_file(place)) is not None:
            return _entry("label_names", str(file), "label → word")
        lines = [f"    {write_yaml({int(label): label}).strip()}" for label in guess.labels]
        return ["  label_names:                              # replace the quoted numbers by words", *lines]
    shown = ", ".join(guess.labels[:5]) + (", …" if len(guess.labels) > 5 else "")
    how_many = "1 label" if len(guess.labels) == 1 else f"{len(guess.labels)} labels, each"
    return [f"  # {how_many} written as itself: {' '.join(shown.split())}"]
