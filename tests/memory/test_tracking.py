"""Counting bytes while they live."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from spectune.memory.tracking import LiveBytes


def test_storages_count_once_and_while_they_live() -> None:
    known = torch.zeros(1000)
    with LiveBytes([known]) as live:
        view = known[:500].view(10, 50)
        assert live.now == 0
        first = known + 1  # 4,000 bytes
        second = first.t()
        assert live.now == 4000
        third = view.double()  # 4,000
        del first
        assert live.now == 8000, "a view keeps its storage"
        del second, third
        assert live.now == 0
        assert live.peak == 8000
        known.add_(1)
        assert live.peak == 8000


def test_tensors_without_memory_count_like_others() -> None:
    def work() -> LiveBytes:
        weight = torch.ones(64, 32, requires_grad=True)
        with LiveBytes([weight]) as live:
            x = torch.ones(128, 32)
            torch.nn.functional.gelu(x @ weight.t()).softmax(-1).sum().backward()
        return live

    real = work()
    with FakeTensorMode():
        fake = work()
    assert fake.peak == real.peak > 128 * 64 * 4 * 3
