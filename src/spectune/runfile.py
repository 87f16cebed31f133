"""Run files: YAML and `section.key=value` overrides in, a checked `RunConfig` out, every mistake one clear line.

Torch is not imported here, so that a mistake is found at once. Relative paths stay as written: they are relative to
the current directory.
"""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from spectune.config import RunConfig
from spectune.config_values import Section
from spectune.errors import ConfigError
from spectune.presets import PRESETS, PresetName, names, with_preset
from spectune.yaml_text import read_yaml, write_yaml

PRESET = "preset"
"""The one key outside the sections."""
SECTIONS: dict[str, type[Section]] = {
    name: field.annotation  # type: ignore[misc]  # every other field of RunConfig is a Section
    for name, field in RunConfig.model_fields.items()
    if name != PRESET
}

_SHOWN_MISTAKES = 3
_SHOWN_CHARACTERS = 60
# What people type when they mean a key whose name is not spelled alike.
_NICKNAMES = {
    "r": "adapter.init_r",
    "rank": "adapter.target_r",
    "lr": "train.learning_rate",
    "epochs": "train.num_train_epochs",
    "steps": "train.max_steps",
    "batch_size": "train.per_device_train_batch_size",
    "name": "model.model_name_or_path",
    "file": "data.train_file",
    "labels": "data.label_names",
    "bf16": "train.mixed_precision",
    "fp16": "train.mixed_precision",
    "generation_num_beams": "evaluation.num_beams",
    "max_length": "data.max_source_length or data.max_target_length",
    "prefix": "data.source_prefix",
    PRESET: f"{PRESET}, outside the sections",
}
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text (in quotes)",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a shorter text",
    "string_pattern_mismatch": "made of letters, digits, _ and - only, the first a letter or digit",
    "too_short": "a list that is not empty",
}
_BOUNDS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
_BOUND_WORDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

Values = dict[str, dict[str, Any]]


def load_run_config(
    path: Path | None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """The configuration of a run: `base`, under the run file, under the overrides (`section.key=value`, `preset=NAME`).

    The preset's values come under all of them. Raises `ConfigError` with one line for whatever is wrong with them.
    """
    source = "the configuration"
    preset, values = _split(base or {}, source)
    if path is not None:
        source = str(path)
        in_file, sections = _split(read_yaml(_read_text(path), source), source)
        preset |= in_file
        for section, entries in sections.items():
            values.setdefault(section, {}).update(entries)
    for override in overrides:
        section, key, value = _parse_override(override)
        if section == PRESET:
            preset[PRESET] = value
        else:
            values.setdefault(section, {})[key] = value
    if mistakes := list(_unknown_keys(values)):
        raise ConfigError(f"{source}: {_joined(mistakes)}")
    name = _preset_name(preset.get(PRESET), source)
    filled = values if name is None else with_preset(name, values)
    if mistakes := list(_wrong_values(filled)):
        raise ConfigError(f"{source}: {_joined(mistakes)}")
    sections_made = {name: SECTIONS[name].model_validate(filled[name], strict=True) for name in filled}
    return RunConfig(preset=name, **sections_made)


def dump_run_config(config: RunConfig) -> str:
    """The resolved run file: every key, those left at their defaults too; `load_run_config` gives the same back."""
    return write_yaml(config.model_dump())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such run file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a directory, not a run file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a UTF-8 text, so not a run file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _split(raw: Any, source: str) -> tuple[dict[str, Any], Values]:
    """The preset, where the raw mapping names one (null too), and the sections."""
    if not isinstance(raw, Mapping):
        return {}, _sections(raw, source)
    sections = {name: entries for name, entries in raw.items() if name != PRESET}
    return {PRESET: raw[PRESET]} if PRESET in raw else {}, _sections(sections, source)


def _preset_name(value: Any, source: str) -> PresetName | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in PRESETS:
        raise ConfigError(f"{source}: {_show(value)} is not a preset; choose from {', '.join(names())}")
    return cast(PresetName, value)


def _sections(raw: Any, source: str) -> Values:
    """The raw mapping with its sections as mappings; an empty section counts as one without keys."""
    if raw is None:
        raise ConfigError(f"{source}: the run file is empty; `spectune init DATA` writes one")
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{source}: a run file is a mapping with the sections {', '.join(SECTIONS)}, not {_show(raw)}"
        )
    values: Values = {}
    for name, entries in raw.items():
        if isinstance(entries, Section):
            entries = entries.model_dump(exclude_unset=True)
        if name in SECTIONS and not isinstance(entries, Mapping | None):
            raise ConfigError(f"{source}: section {name} must hold `key: value` lines, not {_show(entries)}")
        plain = entries.items() if isinstance(entries, Mapping) else ()
        values[str(name)] = {str(key): _plain(value) for key, value in plain}
    return values


def _plain(value: Any) -> Any:
    """Paths given from Python are as good as texts, tuples as good as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def _parse_override(override: str) -> tuple[str, str, Any]:
    dotted, equals, text = override.partition("=")
    if equals and dotted.strip() == PRESET:
        return PRESET, "", read_yaml(text, override)
    section, dot, key = dotted.strip().partition(".")
    if not equals or not dot or not section or not key:
        raise ConfigError(f"{override!r} is not an override; write section.key=value, as in train.learning_rate=1e-3")
    return section, key, _override_value(section, key, text, override)


def _override_value(section: str, key: str, text: str, override: str) -> Any:
    if not text.strip():
        return text
    if _is_text_only(section, key) and text.strip()[0] not in "\"'":
        # `data.source_prefix=summarize: ` is a text, though YAML would read a mapping.
        return None if text.strip() in ("null", "~") else text
    return read_yaml(text, override)


def _is_text_only(section: str, key: str) -> bool:
    field = SECTIONS[section].model_fields.get(key) if section in SECTIONS else None
    if field is None:
        return False
    union = get_origin(field.annotation) in (Union, types.UnionType)
    kinds = get_args(field.annotation) if union else [field.annotation]
    return {get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds} <= {str, type(None)}


def _unknown_keys(values: Values) -> Iterator[str]:
    for section, entries in values.items():
        if section not in SECTIONS:
            yield f"{section} is not a section{_nearest(section, [*SECTIONS, PRESET])}"
            continue
        known = list(SECTIONS[section].model_fields)
        for key in entries:
            if key not in known:
                yield f"{section}.{key} is not a known key{_nearest(key, known, f'{section}.')}"
            elif isinstance(entries[key], Mapping) and (inner := _keys_inside(section, key)):
                unknown = [name for name in map(str, entries[key]) if name not in inner]
                yield from (f"{section}.{key}: {name} is not a known key{_nearest(name, inner)}" for name in unknown)


def _keys_inside(section: str, key: str) -> list[str]:
    """The keys of a value that is a small section of its own; none for other values."""
    kinds = get_args(SECTIONS[section].model_fields[key].annotation)
    return [
        name for kind in kinds if isinstance(kind, type) and issubclass(kind, Section) for name in kind.model_fields
    ]


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    """What the person may have meant: a neighbour in the section, else the section the key belongs to."""
    elsewhere = [f"{section}.{name}" for section, model in SECTIONS.items() if name in model.model_fields]
    near = [prefix + match for match in difflib.get_close_matches(name, known, n=1)]
    keys = {key: section for section, model in SECTIONS.items() for key in model.model_fields}
    far = [f"{keys[match]}.{match}" for match in difflib.get_close_matches(name, keys, n=1, cutoff=0.75)]
    nickname = [_NICKNAMES[name]] if name in _NICKNAMES else []
    guesses = [*nickname, *elsewhere, *near, *far]
    return f"; did you mean {guesses[0]}?" if guesses else f"; known are {', '.join(known)}"


def _wrong_values(values: Values) -> Iterator[str]:
    for section, model in SECTIONS.items():
        entries = values.get(section, {})
        try:
            model.model_validate(entries, strict=True)
        except ValidationError as error:
            yield from _explain(section, entries, error.errors())


def _explain(section: str, entries: dict[str, Any], errors: list[ErrorDetails]) -> Iterator[str]:
    """One line per field: a field of several types has an error for each of them."""
    by_field: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_field.setdefault(str(error["loc"][0]) if error["loc"] else "", []).append(error)
    for field, details in by_field.items():
        if not field:
            yield from (f"{section}: {_message(detail)}" for detail in details)
        elif details[0]["type"] == "missing":
            yield f"{section}.{field} is missing"
        else:
            expected = list(dict.fromkeys(_expected(section, field, detail) for detail in details))
            yield f"{section}.{field}: {_show(entries.get(field))} is not {' or '.join(expected)}"


def _expected(section: str, field: str, error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return f"{_BOUND_WORDS[bound]} {context[bound]:,}"
    if kind == "literal_error":
        return f"one of {context['expected']}" if "," in context["expected"] else str(context["expected"])
    return _EXPECTED.get(kind) or _message(error)


def _message(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return error["msg"][:1].lower() + error["msg"][1:]


def _show(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…"


def _joined(mistakes: list[str]) -> str:
    more = len(mistakes) - _SHOWN_MISTAKES
    return "; ".join(mistakes[:_SHOWN_MISTAKES]) + (f"; and {more} more" if more > 0 else "")
