"""Presets: they fill in what nobody wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from spectune import presets
from spectune.config import AdapterConfig, RunConfig
from spectune.errors import ConfigError
from spectune.presets import PRESET_SECTIONS, PRESETS, RANK_PAIRS, PresetName, in_this_run, with_preset
from spectune.runfile import SECTIONS, dump_run_config, load_run_config
from spectune.training.fingerprint import settings_of
from spectune.yaml_text import read_yaml

PLAIN: dict[str, Any] = {"model": {"model_name_or_path": "m"}, "data": {"train_file": "a.csv"}}
EVERY = pytest.mark.parametrize("name", PRESETS)
# What a person may write that excludes, or goes together with, a value some preset could have.
WRITTEN: list[dict[str, dict[str, Any]]] = [
    {},
    {"adapter": {"budget": "400kB"}},
    {"adapter": {"budget": 120_000, "target_r": None}},
    {"adapter": {"target_r": 16}},
    {"adapter": {"target_r": 1}},
    {"adapter": {"init_r": 2}},
    {"adapter": {"init_r": 1}},
    {"adapter": {"init_from": "runs/a/adapter"}},
    {"adapter": {"tinit": 5, "tfinal": 10}},
    {"train": {"max_steps": 40}},
    {"train": {"num_train_epochs": 2.0}},
    {"evaluation": {"eval_strategy": "no"}},
    {"evaluation": {"eval_strategy": "steps", "eval_steps": 10}},
    {"evaluation": {"max_new_tokens": 9}},
    {"evaluation": {"max_length": 9}},
    {"evaluation": {"early_stopping_patience": 2}},
]


def load(*overrides: str, **sections: Any) -> RunConfig:
    return load_run_config(None, overrides, base={**PLAIN, **sections})


def test_the_names_are_those_of_the_table() -> None:
    assert list(get_args(PresetName)) == list(PRESETS)


@EVERY
def test_a_preset_holds_keys_of_its_sections(name: str) -> None:
    for section, entries in PRESETS[name].items():
        assert section in PRESET_SECTIONS
        assert set(entries) <= set(SECTIONS[section].model_fields)


@EVERY
def test_its_values_stand_where_nothing_is_written(name: str) -> None:
    config = load(preset=name)
    assert config.preset == name
    for section, entries in PRESETS[name].items():
        assert {key: getattr(getattr(config, section), key) for key in entries} == entries
    assert load() == load(preset=None)


@EVERY
@pytest.mark.parametrize("written", WRITTEN, ids=str)
def test_what_is_written_wins(name: str, written: dict[str, dict[str, Any]]) -> None:
    config = load(preset=name, **written)
    for section, entries in written.items():
        assert {key: getattr(getattr(config, section), key) for key in entries} == entries
    adapter = config.adapter
    assert (adapter.budget is None) != (adapter.target_r is None)
    assert adapter.init_from is None or adapter.init == "random"
    filled = with_preset(name, written)
    assert with_preset(name, filled) == filled
    assert RunConfig.model_validate({"preset": name, **PLAIN, **written}) == config
    assert RunConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *(({"target_r": target}, (init, target)) for target, init in RANK_PAIRS.items()),
        *(({"init_r": init}, (init, target)) for target, init in RANK_PAIRS.items()),
        ({"target_r": 16}, (24, 16)),
        ({"target_r": 3}, (5, 3)),
        ({"init_r": 9}, (9, 6)),
        ({"init_r": 1}, (1, 1)),
        ({"init_r": 20, "target_r": 5}, (20, 5)),
    ],
)
def test_one_rank_brings_the_other(written: dict[str, int], expected: tuple[int, int]) -> None:
    adapter = load(preset="paper", adapter=written).adapter
    assert (adapter.init_r, adapter.target_r) == expected


def test_every_place_to_name_it(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: best\nmodel: {model_name_or_path: m}\ndata: {train_file: a}\n", encoding="utf-8")
    assert load_run_config(path).preset == "best"
    assert load_run_config(path, base={"preset": "paper"}).preset == "best"
    assert load_run_config(path, ["preset=fast"]) == load(preset="fast", data={"train_file": "a"})
    assert load_run_config(path, ["preset=null"]) == load(data={"train_file": "a"})
    assert load_run_config(path, ["preset=paper", "adapter.target_r=4"]).adapter.init_r == 6


def test_sections_made_in_python_say_what_was_set_in_them() -> None:
    config = RunConfig(preset="paper", adapter=AdapterConfig(target_r=4), **PLAIN)
    assert (config.adapter.init_r, config.adapter.lora_alpha, config.train.learning_rate) == (6, 32, 5e-4)
    assert load(preset="paper", adapter=AdapterConfig(target_r=4)) == config
    budget = RunConfig(preset="paper", adapter=AdapterConfig(budget="400kB"), **PLAIN).adapter
    assert (budget.budget, budget.target_r) == ("400kB", None)


@pytest.mark.parametrize("value", ["papr", "Paper", 3, ["paper"], {"paper": 1}, True])
def test_another_name_is_one_line_with_the_names(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"is not a preset; choose from paper, fast, best$") as caught:
        load(preset=value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="preset"):
        RunConfig.model_validate({"preset": value, **PLAIN})


def test_a_slip_near_its_key_finds_it() -> None:
    with pytest.raises(ConfigError, match="presett is not a section; did you mean preset"):
        load(presett={})
    with pytest.raises(ConfigError, match=r"train\.preset is not a known key; did you mean preset, outside"):
        load(train={"preset": "fast"})


def test_mistakes_are_told_as_without_it() -> None:
    with pytest.raises(ConfigError, match=r"train\.seed: 'a' is not a whole number"):
        load(preset="fast", train={"seed": "a"})
    with pytest.raises(ConfigError, match=r"adapter\.target_r: 'a' is not a whole number"):
        load(preset="fast", adapter={"target_r": "a"})
    with pytest.raises(ConfigError, match="init_r 12 is below target_r 16"):
        load(preset="fast", adapter={"init_r": 12, "target_r": 16})


@EVERY
def test_a_resolved_run_does_not_follow_the_preset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolved file gives the same run, and the same fingerprint, when the preset's values have changed."""
    config = load("adapter.target_r=4", preset=name)
    resolved = dump_run_config(config)
    settings = settings_of(config)
    changed = {section: {**entries} for section, entries in PRESETS[name].items()}
    changed["adapter"] |= {"init_r": 40, "target_r": 20, "beta1": 0.5}
    changed["train"]["learning_rate"] = 0.7
    monkeypatch.setattr(presets, "PRESETS", {**PRESETS, name: changed})
    assert load(preset=name).train.learning_rate == 0.7
    again = load_run_config(None, base=read_yaml(resolved, "x"))
    assert again == config
    assert settings_of(again) == settings


def test_the_fingerprint_takes_values_for_the_name() -> None:
    config = load(preset="paper")
    by_hand = load(**PRESETS["paper"])
    assert settings_of(config) == settings_of(by_hand)


def test_what_of_it_holds_in_a_run() -> None:
    config = load("adapter.tinit=0.2", preset="paper")
    same, other = in_this_run("paper", config.model_dump())
    assert other == {"adapter": {"tinit": 0.2}}
    assert same["train"] == PRESETS["paper"]["train"]
    assert {**same["adapter"], "tinit": 0.12} == PRESETS["paper"]["adapter"]
