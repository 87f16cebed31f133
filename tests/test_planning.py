"""What a plan warns of, and how long a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectune.config import RunConfig, TrainConfig
from spectune.errors import ConfigError
from spectune.planning import outline_run, plan_run, run_lengths
from spectune.runfile import load_run_config


def config(table: Path, **sections: Any) -> RunConfig:
    model = Path(__file__).parent / "configs" / "bart-base"
    plain: dict[str, Any] = {"model": {"model_name_or_path": str(model)}, "data": {"train_file": str(table)}}
    return load_run_config(None, base={**plain, "train": {"max_steps": 100}, **sections})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,target\n" + "".join(f"text {n},output {n}\n" for n in range(40)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("sections", "note"),
    [
        ({"adapter": {"lora_alpha": 1}}, "lora_alpha / init_r is 0.0312: so small a scale under-trains"),
        ({"train": {"max_steps": 100, "learning_rate": 5e-5}}, "learning_rate 5e-05 under-trains"),
        ({"adapter": {"init_r": 8}}, "init_r equals target_r: no rank will move"),
    ],
)
def test_what_will_disappoint_is_said(table: Path, sections: dict[str, Any], note: str) -> None:
    (said,) = outline_run(config(table, **sections)).notes
    assert note in said


def test_good_settings_need_no_word(table: Path) -> None:
    assert outline_run(config(table)).notes == ()


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (41, {"per_device_train_batch_size": 8}, (6, 18)),
        (41, {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}, (2, 6)),
        (41, {"per_device_train_batch_size": 8, "num_train_epochs": 0.5}, (6, 3)),
        (41, {"per_device_train_batch_size": 50, "num_train_epochs": 2.5}, (1, 3)),
        (None, {"max_steps": 7}, (None, 7)),
    ],
)
def test_length_of_a_run(rows: int | None, settings: dict[str, Any], expected: tuple[int | None, int]) -> None:
    lengths = run_lengths(TrainConfig(**settings), rows)
    assert (lengths.steps_per_epoch, lengths.total_step) == expected


@pytest.mark.parametrize(
    ("adapter", "more"),
    [
        ({}, 0),
        ({"bias": "all"}, 125_952),
        ({"bias": "lora_only"}, 101_376),
        ({"trainable_token_indices": [5, 7, 5]}, 2 * 768),
        ({"modules_to_save": ["lm_head"]}, 50_265 * 768),
    ],
)
def test_what_is_trained_beside_the_matrices_is_counted(table: Path, adapter: dict[str, Any], more: int) -> None:
    alone = plan_run(config(table)).parameters
    parameters = plan_run(config(table, adapter=adapter)).parameters
    assert parameters.trainable_at_start - alone.trainable_at_start == more
    assert parameters.saved - alone.saved == more


@pytest.mark.parametrize(
    ("section", "values", "line"),
    [
        ("adapter", {"modules_to_save": ["lm_hed"]}, "'lm_hed' is no module of"),
        ("adapter", {"trainable_token_indices": [50_265]}, "50265 is no token of .*, which has 0 to 50264"),
        ("adapter", {"layers_to_transform": [6]}, "no layer 6; the layers are 0 to 5"),
        ("data", {"max_source_length": 2000}, "max_source_length 2000 is more than the 1024 positions"),
    ],
)
def test_a_plan_refuses_what_the_model_does_not_have(
    table: Path, section: str, values: dict[str, Any], line: str
) -> None:
    changes = {"data": {"train_file": str(table), **values}} if section == "data" else {section: values}
    with pytest.raises(ConfigError, match=line):
        plan_run(config(table, **changes))
