"""A GPU that does not work costs one line, not the run."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import torch

from spectune.config import RunConfig
from spectune.errors import ConfigError
from spectune.training.device import choose_device, choose_dtype, multiplied_in, padding_multiple

CPU = torch.device("cpu")


def config(dtype: str, mixed_precision: str = "no", **data: Any) -> RunConfig:
    model, train = {"model_name_or_path": "m", "dtype": dtype}, {"mixed_precision": mixed_precision}
    return RunConfig.model_validate({"model": model, "data": {"train_file": "t.csv", **data}, "train": train})


def test_no_gpu_is_nothing_to_speak_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(use_cpu=False) == (CPU, None)


def test_a_gpu_that_is_not_wanted_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))
    assert choose_device(use_cpu=True) == (CPU, None)


def test_kernels_kept_for_each_shape_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person has set stays."""
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "500")
    choose_device(use_cpu=True)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"
    assert os.environ["LRU_CACHE_CAPACITY"] == "500"


@pytest.mark.parametrize(
    ("dtype", "mixed_precision", "device", "expected"),
    [
        (torch.bfloat16, "no", "cpu", 8),
        (torch.float32, "bf16", "cpu", 8),
        (torch.float32, "no", "cpu", 1),
        (torch.bfloat16, "no", "cuda", 1),
    ],
)
def test_lengths_are_rounded_where_every_shape_costs(
    dtype: torch.dtype, mixed_precision: str, device: str, expected: int
) -> None:
    one = config("auto", mixed_precision=mixed_precision)
    assert padding_multiple(one.data, torch.device(device), multiplied_in(one, dtype)) == expected
    one = config("auto", mixed_precision=mixed_precision, pad_to_multiple_of=3)
    assert padding_multiple(one.data, torch.device(device), multiplied_in(one, dtype)) == 3


def test_a_gpu_that_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with …")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fails)
    line = "the GPU does not work (CUDA error: no kernel image is available); going on with the CPU"
    assert choose_device(use_cpu=False) == (CPU, line)


def test_an_old_driver_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def complains() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old.\nPlease update", UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", complains)
    device, line = choose_device(use_cpu=False)
    assert device == CPU
    assert line == "the GPU does not work (The NVIDIA driver on your system is too old.); going on with the CPU"


@pytest.mark.parametrize(("kind", "device", "line"), [("bart", "cpu", "needs a GPU"), ("mt5", "cuda", "overflows in")])
def test_float16_where_it_cannot_be(kind: str, device: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        choose_dtype(config("float16"), kind, torch.device(device))
    assert choose_dtype(config("float16"), "bart", torch.device("cuda"))[0] == torch.float16
