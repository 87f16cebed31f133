"""Runs on bases in 8 and 4 bits: trained, saved, reloaded, evaluated and resumed like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, tiny_model

import spectune
from spectune.errors import ConfigError
from spectune.evaluation.bases import load_base
from spectune.manifest import sha256
from spectune.planning import outline_run
from spectune.runfile import load_run_config
from spectune.sizes import base_bytes
from spectune.training.quantization import check_quantization

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("base", "kind", "dtype", "proof"),
    [("bart", "int8", "auto", "child"), ("t5", "nf4", "float32", "quick"), ("bart", "nf4", "bfloat16", "child")],
)
def test_a_run_proves_its_adapter(
    run: Run, table: Path, request: pytest.FixtureRequest, base: str, kind: str, dtype: str, proof: str
) -> None:
    """In another process, whose imports take seconds, or in this one."""
    if proof == "quick":
        request.getfixturevalue("quick_proof")
    result = run(
        base=base,
        model={"quantization": kind, "dtype": dtype},
        adapter={"init": "gradient"},
        data={"max_source_length": 48},
        evaluation={"eval_strategy": "steps", "eval_steps": 5},
    )
    assert result.summary["reload_identical"]
    assert result.summary["reload"]["rows"] > 0
    assert sum(result.summary["ranks"].values()) == 2 * len(result.summary["ranks"])
    settings = json.loads((result.adapter / "spectune.json").read_text("utf-8"))
    assert settings["quantization"] == kind
    assert spectune.load(str(result.adapter)).model.get_memory_footprint() < _unquantized_bytes(base)
    again = spectune.evaluate(str(result.adapter), str(table))
    assert again.rows == 46
    assert "quantization: " + kind in (result.directory / "run.yaml").read_text("utf-8")


def _unquantized_bytes(kind: str) -> int:
    return sum(4 * parameter.numel() for parameter in tiny_model(kind, 200).parameters())


@pytest.mark.usefixtures("quick_proof")
def test_resume_is_bitwise(run: Run, tmp_path: Path) -> None:
    train: dict[str, Any] = {"save_steps": 7, "save_total_limit": 9}
    model = {"quantization": "nf4", "dtype": "float32"}
    whole = run(model=model, train=train | {"output_dir": str(tmp_path / "whole")})
    killed = tmp_path / "killed"
    as_if_killed_at(whole.directory, 7, killed)
    resumed = run(resume=True, model=model, train=train | {"output_dir": str(killed)})
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_base_shrinks_and_plan_knows_by_how_much(bases: dict[str, Path], kind: str) -> None:
    def sizes(quantization: str | None) -> tuple[int, int]:
        given: dict[str, Any] = {"model_name_or_path": str(bases["bart"]), "dtype": "float32"}
        values = {"model": given | {"quantization": quantization}, "data": {"train_file": "-"}}
        config = load_run_config(None, base=values)
        base = load_base(str(bases["bart"]), dtype=torch.float32, device="cpu", quantization=quantization)
        model: Any = tiny_model("bart", base.config.vocab_size)
        return base_bytes(config.model, model, 4), base.get_memory_footprint(return_buffers=False)

    plain, found = sizes(None)
    assert plain == found
    smaller, found = sizes(kind)
    assert smaller < plain
    assert smaller == pytest.approx(found, rel=0.05)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, bases: dict[str, Path], table: Path) -> None:
    model = {"model_name_or_path": str(bases["t5"]), "quantization": "nf4"}
    config = load_run_config(None, base={"model": model, "data": {"train_file": str(table)}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"nf4 needs the bitsandbytes library; pip install bitsandbytes"):
        outline_run(config)


@pytest.mark.parametrize(("kind", "layer"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_without_a_path_for_the_device(monkeypatch: pytest.MonkeyPatch, kind: str, layer: str) -> None:
    check_quantization(kind, torch.device("cpu"))

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("\nno kernel\nfor it")

    monkeypatch.setattr(f"bitsandbytes.nn.{layer}", broken)
    expected = rf"bitsandbytes has no {kind} for this cpu \(no kernel\); leave model.quantization out"
    with pytest.raises(ConfigError, match=expected):
        check_quantization(kind, torch.device("cpu"))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"quantization": "int4"}, "'int8' or 'nf4'"),
        ({"quantization": "int8", "dtype": "bfloat16"}, "int8 does not go with dtype bfloat16"),
        ({"quantization": "int8", "dtype": "float16"}, "int8 does not go with dtype float16"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        load_run_config(None, base={"model": {"model_name_or_path": "starter"} | given, "data": {"train_file": "x"}})
