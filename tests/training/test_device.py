"""Which precision `dtype: auto` takes, why, and that it is always the same on one machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spectune.config import AdapterConfig, RunConfig
from spectune.errors import ConfigError
from spectune.runfile import load_run_config
from spectune.training import bfloat16, device
from spectune.training.bfloat16 import bfloat16_gain, cache_directory, measure_gain
from spectune.training.device import choose_dtype, precision_remark

CPU = torch.device("cpu")


def config(**model: Any) -> RunConfig:
    return load_run_config(None, base={"model": {"model_name_or_path": "starter"} | model, "data": {"train_file": "x"}})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spectune"


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 units."""
    monkeypatch.setattr(device, "native_bfloat16", lambda device: True)


def gains(monkeypatch: pytest.MonkeyPatch, *values: float) -> list[float]:
    """What successive measurements find; those not yet taken."""
    left = list(values)
    monkeypatch.setattr(bfloat16, "measure_gain", lambda device: left.pop(0))
    return left


def test_modules_trained_in_full_are_float32_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no masters: a step of 1e-3 is less than bfloat16's spacing near a LayerNorm's 1."""
    monkeypatch.setattr("spectune.training.device.fastest_dtype", lambda device: (torch.bfloat16, "fast"))
    for adapter in (AdapterConfig(modules_to_save=["final_layer_norm"]), AdapterConfig(bias="all")):
        whole = config().model_copy(update={"adapter": adapter})
        assert choose_dtype(whole, "t5", CPU)[0] == torch.float32
        assert precision_remark(whole, torch.float32) is None
        assert "set model.dtype: float32" in str(precision_remark(whole, torch.bfloat16))
    assert choose_dtype(config(), "t5", CPU)[0] == torch.bfloat16
    assert precision_remark(config(), torch.bfloat16) is None


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    ("gain", "dtype", "reason"),
    [
        (2.5, torch.bfloat16, "auto: cpu multiplies bfloat16 2.50 times as fast"),
        (1.2, torch.bfloat16, "auto: cpu multiplies bfloat16 1.20 times as fast"),
        (1.1, torch.float32, "auto: cpu multiplies bfloat16 only 1.10 times as fast"),
        (0.03, torch.float32, "auto: cpu multiplies bfloat16 only 0.03 times as fast"),
    ],
)
def test_the_faster_one(monkeypatch: pytest.MonkeyPatch, gain: float, dtype: torch.dtype, reason: str) -> None:
    gains(monkeypatch, gain)
    assert choose_dtype(config(), "t5", CPU) == (dtype, reason)


@pytest.mark.usefixtures("units")
def test_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    left = gains(monkeypatch, 2.0, 0.5)
    assert choose_dtype(config(), "bart", CPU)[0] == torch.bfloat16
    assert choose_dtype(config(), "bart", CPU)[0] == torch.bfloat16
    assert left == [0.5], "not measured again"
    (path,) = cache.iterdir()
    kept = json.loads(path.read_text("utf-8"))
    assert kept["gain"] == 2.0
    assert kept["torch"] == torch.__version__
    assert kept["device"]


def test_another_torch_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 2.0, 3.0)
    assert bfloat16_gain(CPU) == 2.0
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert bfloat16_gain(CPU) == 3.0


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"gain": "fast"}', '{"gain": 0}'])
def test_a_damaged_file_is_measured_anew(monkeypatch: pytest.MonkeyPatch, cache: Path, damage: str) -> None:
    gains(monkeypatch, 2.0, 3.0)
    bfloat16_gain(CPU)
    (path,) = cache.iterdir()
    path.write_text(damage, encoding="utf-8")
    assert bfloat16_gain(CPU) == 3.0
    assert bfloat16_gain(CPU) == 3.0


def test_the_first_of_two_processes_stands(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def meanwhile(device: torch.device) -> float:
        monkeypatch.setattr(bfloat16, "measure_gain", lambda device: 1.5)
        assert bfloat16_gain(device) == 1.5
        return 0.5

    monkeypatch.setattr(bfloat16, "measure_gain", meanwhile)
    assert bfloat16_gain(CPU) == 1.5
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("units")
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The units decide, whatever a measurement would say today."""
    (tmp_path / "cache").write_text("a file in the way", encoding="utf-8")
    for gain in (0.5, 2.0):
        gains(monkeypatch, gain)
        dtype, reason = choose_dtype(config(), "bart", CPU)
        assert dtype == torch.bfloat16
        assert "could not be kept" in reason


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lost)
    gains(monkeypatch, 2.0)
    assert bfloat16_gain(CPU) is None


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/spectune"),
        ("darwin", {}, "home/Library/Caches/spectune"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/spectune/Cache"),
        ("linux", {"XDG_CACHE_HOME": "own"}, "own/spectune"),
    ],
)
def test_where_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)


def test_processors_without_units_are_not_timed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(device, "native_bfloat16", lambda device: False)
    left = gains(monkeypatch, 9.0)
    assert choose_dtype(config(), "t5", CPU) == (torch.float32, "auto: cpu has no bfloat16 units")
    assert left == [9.0]
    assert not cache.exists()


def test_a_measurement_is_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "_SHAPE", (4, 8, 8))
    assert measure_gain(CPU) > 0


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5", "longt5", "t5gemma", "switch_transformers"])
def test_never_float16_for_a_t5(monkeypatch: pytest.MonkeyPatch, model_type: str) -> None:
    gains(monkeypatch, 2.0)
    for where in (CPU, torch.device("cuda")):
        with pytest.raises(ConfigError, match="float16"):
            choose_dtype(config(dtype="float16"), model_type, where)
    assert choose_dtype(config(), model_type, CPU)[0] == torch.bfloat16


def test_what_was_asked_for() -> None:
    assert choose_dtype(config(dtype="bfloat16"), "t5", CPU) == (torch.bfloat16, "as configured")
    assert choose_dtype(config(dtype="float16"), "bart", torch.device("cuda"))[0] == torch.float16
    assert choose_dtype(config(quantization="int8"), "bart", CPU)[0] == torch.float32
