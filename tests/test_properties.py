"""What holds for every run file, schedule and score, not only for the examples: properties, with hypothesis."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from spectune.adapter.allocation import survivors
from spectune.adapter.schedule import RankSchedule, resolve_schedule
from spectune.config import TAKEN_NAMES, RunConfig
from spectune.errors import ConfigError
from spectune.runfile import SECTIONS, dump_run_config, load_run_config
from spectune.training.learning_rate import resolve_learning_rate
from spectune.yaml_text import read_yaml

# No shrinking: a whole run shrinks for minutes, and the example that fails is plain enough.
quick = settings(max_examples=60, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.reuse, Phase.generate))
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(" :#{}"), min_size=1, max_size=12
)
COUNTS = st.integers(1, 2**31 - 1)
UNIT = st.floats(0.001, 0.999)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Sections of a valid run."""
    target = draw(st.integers(1, 64))
    names = st.dictionaries(st.integers(0, 99) | TEXTS, TEXTS, min_size=1, max_size=3)
    adapter_names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_\-]{0,20}\Z").filter(lambda name: name not in TAKEN_NAMES)
    data: dict[str, Any] = {
        "train_file": draw(TEXTS),
        "text_column": draw(st.none() | TEXTS),
        "source_prefix": draw(st.just("") | TEXTS),
        "label_names": draw(st.none() | names | st.lists(TEXTS, max_size=3)),
        "max_source_length": draw(COUNTS),
        "validation_split": draw(st.none() | UNIT),
    }
    adapter: dict[str, Any] = {
        "target_r": target,
        "init_r": target + draw(st.integers(0, 64)),
        "tinit": draw(UNIT | st.integers(0, 10**6)),
        "tfinal": draw(UNIT | st.integers(0, 10**6)),
        "deltaT": draw(st.just("auto") | COUNTS),
        "beta1": draw(UNIT),
        "target_modules": draw(TEXTS | st.lists(TEXTS, max_size=3)),
        "adapter_name": draw(adapter_names),
    }
    train: dict[str, Any] = {
        "learning_rate": draw(st.floats(1e-12, 100.0)),
        "max_steps": draw(st.none() | COUNTS),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "max_grad_norm": draw(st.none() | st.floats(1e-6, 1e6)),
    }
    return {"model": {"model_name_or_path": draw(TEXTS)}, "data": data, "adapter": adapter, "train": train}


@quick
@given(runs())
def test_a_resolved_run_file_is_the_run(sections: dict[str, dict[str, Any]]) -> None:
    config = load_run_config(None, base=sections)
    assert load_run_config(None, base=read_yaml(dump_run_config(config), "x")) == config
    assert RunConfig.model_validate(config.model_dump()) == config


@quick
@given(runs(), runs())
def test_overrides_say_what_the_file_would(first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]]) -> None:
    """Every value of the second run, given as `section.key=value` over the first, is the second run."""
    names = second["data"]["label_names"]
    if isinstance(names, dict):  # JSON, which is YAML too, knows only texts as keys
        second["data"]["label_names"] = {str(label): words for label, words in names.items()}
    overrides = []
    for section, entries in second.items():
        for key, value in entries.items():
            overrides.append(f"{section}.{key}={json.dumps(value, ensure_ascii=False)}")
    expected = load_run_config(None, base=second)
    found = load_run_config(None, overrides, base={"model": first["model"], "data": first["data"]})
    for section, entries in second.items():
        assert {key: getattr(getattr(found, section), key) for key in entries} == {
            key: getattr(getattr(expected, section), key) for key in entries
        }


@quick
@given(st.sampled_from(sorted(SECTIONS)), st.data())
def test_a_key_mistyped_by_one_letter_finds_its_neighbour(section: str, data: st.DataObject) -> None:
    known = sorted(SECTIONS[section].model_fields)
    key = data.draw(st.sampled_from([key for key in known if len(key) > 5]))
    place = data.draw(st.integers(1, len(key) - 1))
    wrong = key[:place] + key[place + 1 :]
    assume(all(wrong not in model.model_fields for model in SECTIONS.values()))
    with pytest.raises(ConfigError, match=rf"{section}\.{wrong} is not a known key; did you mean \w+\.\w+\?") as caught:
        load_run_config(None, base={section: {wrong: 1}})
    assert "\n" not in str(caught.value)


@quick
@given(
    total=st.integers(1, 10**6),
    tinit=UNIT | st.integers(0, 1000),
    tfinal=UNIT | st.integers(0, 1000),
    interval=st.just("auto") | st.integers(1, 500),
    target=st.integers(1, 32),
    extra=st.integers(0, 32),
    matrices=st.integers(1, 400),
)
def test_every_schedule_falls_to_its_target(
    total: int, tinit: Any, tfinal: Any, interval: Any, target: int, extra: int, matrices: int
) -> None:
    message = ""
    try:
        schedule = resolve_schedule(
            total_step=total, tinit=tinit, tfinal=tfinal, deltaT=interval, init_r=target + extra, target_r=target
        )
    except ConfigError as error:
        message = str(error)
    if message:
        assert "lower tinit or tfinal, or train longer" in message
        return
    initial, final = (target + extra) * matrices, target * matrices
    steps = sorted({1, total, schedule.tinit, schedule.freeze_step, *range(1, total + 1, max(1, total // 50))} - {0})
    budgets = [schedule.budget(step, initial, final) for step in steps]
    assert budgets == sorted(budgets, reverse=True)
    assert all(final <= budget <= initial for budget in budgets)
    assert schedule.budget(schedule.freeze_step, initial, final) == budgets[-1] == final
    assert schedule.allocates(schedule.freeze_step)
    assert 1 <= schedule.freeze_step <= total
    rate = resolve_learning_rate(peak=1e-3, kind="cosine", warmup_ratio=None, schedule=schedule)
    assert all(0 < rate.at(step) <= 1e-3 * (1 + 1e-12) for step in steps)


@quick
@given(st.integers(1, 80), st.data())
def test_allocations_are_counted_without_walking(total: int, data: st.DataObject) -> None:
    tinit = data.draw(st.integers(0, total - 1))
    schedule = RankSchedule(
        total_step=total,
        tinit=tinit,
        tfinal=data.draw(st.integers(0, total - tinit - 1)),
        deltaT=data.draw(st.integers(1, 99)),
        init_r=2,
        target_r=1,
    )
    assert schedule.allocations == sum(schedule.allocates(step) for step in range(1, total + 1))


SCORES = st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=40)


@quick
@given(SCORES, st.data())
def test_who_survives(scores: list[float], data: st.DataObject) -> None:
    """Exactly so many, ties to the lower number, NaN last, candidates before all others, the same at each call."""
    count = data.draw(st.integers(0, len(scores) + 2))
    candidates = data.draw(st.none() | st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    mask = None if candidates is None else torch.tensor(candidates)
    kept = survivors(torch.tensor(scores), count, mask).tolist()
    assert kept == survivors(torch.tensor(scores), count, mask).tolist()
    assert sum(kept) == min(count, len(scores))

    def rank(number: int) -> tuple[bool, float, int]:
        low = -math.inf if math.isnan(scores[number]) else scores[number]
        return candidates is not None and not candidates[number], -low, number

    chosen = [number for number, alive in enumerate(kept) if alive]
    left = [number for number, alive in enumerate(kept) if not alive]
    assert not chosen or not left or max(map(rank, chosen)) < min(map(rank, left))
