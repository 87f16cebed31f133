"""What the measuring programs share: alternation, paired numbers, shapes over one set of weights, the files written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks.alternate import Timings, alternate, seconds
from benchmarks.shapes import SHAPES, build, sharing, tokens
from benchmarks.writing import table, write


def test_contenders_alternate_and_rotate() -> None:
    order: list[str] = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = alternate(contenders, rounds=3, warm_up=1)
    assert "".join(order) == "abcbcacababc"
    assert {name: len(values) for name, values in found.values.items()} == {"a": 3, "b": 3, "c": 3}


def test_paired_numbers() -> None:
    timings = Timings({"base": [1.0, 2.0, 10.0], "ours": [2.0, 3.0, 20.0]})
    assert timings.ratio("ours", "base") == 2.0
    assert timings.beyond("ours", "base") == 1.0
    assert timings.median("base") == 2.0
    assert timings.spread("ours", "base") == (1.0, 10.0)


def test_another_measure_than_seconds() -> None:
    found = alternate({"a": lambda: 3.0, "b": lambda: 4.0}, rounds=2, measure=lambda work: float(work()))
    assert found.values == {"a": [3.0, 3.0], "b": [4.0, 4.0]}
    assert seconds(lambda: None) >= 0.0


@pytest.mark.parametrize("shape", ["tiny-t5", "tiny-bart"])
def test_shapes_are_frozen_and_share_weights(shape: str) -> None:
    model = build(shape)
    other = sharing(model)
    assert other is not model
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    batch = tokens(model, rows=2, source=5, target=3)
    assert batch["input_ids"].shape == (2, 5)
    assert torch.isfinite(other(**batch).loss)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build(shape).parameters(), strict=True))


def test_the_shapes_asked_for_are_there() -> None:
    assert {"t5-small", "bart-base", "flan-t5-base", "bart-large"} <= set(SHAPES)


def test_table_and_file(tmp_path: Path) -> None:
    text = table([{"name": "a", "seconds": 1.25, "best": None}, {"name": "long", "seconds": 10.0, "best": "x"}])
    assert text.splitlines() == [
        "| name | seconds | best |",
        "| ---- | ------: | ---- |",
        "| a    |    1.25 | –    |",
        "| long |      10 | x    |",
    ]
    found = json.loads(write("one", {"rows": [1]}, torch.device("cpu"), tmp_path).read_text())
    assert found["rows"] == [1]
    assert {"torch", "transformers", "peft", "python"} <= set(found["versions"])
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert "bfloat16_units" in found["machine"]
