"""Both kernels of the attention benchmark compute one function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from benchmarks import attention


def test_a_row_of_the_table() -> None:
    row = attention.measure(torch.float32, 2, 3, rounds=2)
    assert row["tokens"] == "2 × 3"
    assert row["precision"] == "float32"
    assert row["products are faster by"] > 0


def test_its_contenders_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    function = F.scaled_dot_product_attention

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        outputs.append(function(*args, **kwargs))
        return outputs[-1]

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    for kernel in attention.KERNELS.values():
        attention.attention(torch.float32, 4, 7, kernel)()
    assert outputs[0].shape == (attention.ROWS, attention.HEADS, 4, attention.WIDTH)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)
