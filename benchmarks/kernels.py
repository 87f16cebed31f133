"""torch's attention and dropout against those of a training step on a CPU, forward and backward.

    python -m benchmarks.kernels [--rounds 15]

What `spectune.training.attention` decides by: 8 rows, 12 heads of 64, with a padding mask, as BART and T5 call it; and
what `spectune.training.dropout` is for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.alternate import alternate
from benchmarks.writing import table, write
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectune.training import attention, dropout

ROWS, HEADS, WIDTH = 8, 12, 64
LENGTHS = ((2, 27), (27, 27), (64, 64), (16, 256), (128, 128), (16, 512), (256, 256))
"""Tokens that ask, and that are asked."""
TENSORS = ((216, 768), (216, 3072), (1024, 1024))
"""Hidden states of 8 rows of 27 tokens, those inside a feed-forward layer, longer ones."""
CHANCE = 0.1
PRECISIONS = (torch.float32, torch.bfloat16)

Kernel = Callable[[], AbstractContextManager[Any]]
"""In which an attention is to be called."""
Work = Callable[[], list[Tensor]]
"""The output and the gradients of the inputs."""


@contextmanager
def _of_torch(backend: SDPBackend) -> Iterator[Any]:
    with sdpa_kernel(backend):
        yield F.scaled_dot_product_attention


@contextmanager
def _of_heads() -> Iterator[Any]:
    """Ours in both precisions, at every length."""
    with patch.object(attention, "_faster", lambda *_: True):
        yield attention.scaled_dot_product_attention


def attentions(dtype: torch.dtype, asking: int, asked: int, chance: float = 0.0) -> dict[str, Work]:
    """Forward and backward of one attention, on numbers drawn once, by each kernel; torch has no fused dropout."""
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> Tensor:
        heads = torch.randn(ROWS, length, HEADS, WIDTH, generator=generator).to(dtype)
        return heads.transpose(1, 2).requires_grad_()

    query, key, value, grad = draw(asking), draw(asked), draw(asked), draw(asking).detach()
    mask = torch.zeros(ROWS, 1, 1, asked, dtype=dtype).expand(ROWS, 1, asking, asked)

    def work(kernel: Kernel) -> list[Tensor]:
        with kernel() as attend:
            out = attend(query, key, value, attn_mask=mask, dropout_p=chance)
            return [out.detach(), *torch.autograd.grad(out, (query, key, value), grad)]

    kernels: dict[str, Kernel] = {} if chance else {"fused": partial(_of_torch, SDPBackend.FLASH_ATTENTION)}
    kernels |= {"torch's products": partial(_of_torch, SDPBackend.MATH), "ours": _of_heads}
    return {name: partial(work, kernel) for name, kernel in kernels.items()}


def dropouts(dtype: torch.dtype, shape: tuple[int, int]) -> dict[str, Work]:
    """Forward and backward of one dropout."""
    given, grad = torch.ones(shape, dtype=dtype, requires_grad=True), torch.ones(shape, dtype=dtype)

    def work(drop: Callable[[Tensor, float], Tensor]) -> list[Tensor]:
        out = drop(given, CHANCE)
        return [out.detach(), *torch.autograd.grad(out, given, grad)]

    return {"torch": partial(work, F.dropout), "ours": partial(work, dropout.dropout)}


def measure(works: Mapping[str, Work], rounds: int, **facts: str) -> dict[str, Any]:
    """A row of a table."""
    timings = alternate(works, rounds=rounds, warm_up=3)
    return facts | {f"{name}, ms": 1000 * timings.median(name) for name in works}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args(arguments).rounds
    results: dict[str, Any] = {}
    for dtype, chance in product(PRECISIONS, (0.0, CHANCE)):
        name = f"attention{' with dropout' if chance else ''}, {str(dtype).removeprefix('torch.')}"
        results[name] = [
            measure(attentions(dtype, *lengths, chance), rounds, tokens="{} × {}".format(*lengths))
            for lengths in LENGTHS
        ]
    for dtype in PRECISIONS:
        results[f"dropout, {str(dtype).removeprefix('torch.')}"] = [
            measure(dropouts(dtype, shape), rounds, numbers="{} × {}".format(*shape)) for shape in TENSORS
        ]
    for title, rows in results.items():
        print(f"\n{title}\n\n{table(rows)}")
    write("kernels-cpu", {"rows": ROWS, "heads": HEADS, "width": WIDTH, "results": results}, torch.device("cpu"))


if __name__ == "__main__":
    main()
