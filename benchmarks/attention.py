"""torch's fused attention against the products of all heads at once, forward and backward, on a CPU.

    python -m benchmarks.attention [--rounds 15]

What `spectune.training.attention` decides by: 8 rows, 12 heads of 64, with a padding mask, as BART and T5 call it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.alternate import alternate
from benchmarks.writing import table, write
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROWS, HEADS, WIDTH = 8, 12, 64
LENGTHS = ((2, 2), (2, 27), (27, 27), (64, 64), (128, 128), (256, 256), (512, 512))
"""Tokens that ask, and that are asked."""
KERNELS = {"fused": SDPBackend.FLASH_ATTENTION, "products": SDPBackend.MATH}


def attention(dtype: torch.dtype, asking: int, asked: int, kernel: SDPBackend) -> Callable[[], None]:
    """Forward and backward of one attention, on numbers drawn once."""
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> torch.Tensor:
        heads = torch.randn(ROWS, length, HEADS, WIDTH, generator=generator).to(dtype)
        return heads.transpose(1, 2).requires_grad_()

    query, key, value, grad = draw(asking), draw(asked), draw(asked), draw(asking).detach()
    mask = torch.zeros(ROWS, 1, 1, asked, dtype=dtype).expand(ROWS, 1, asking, asked)

    def work() -> None:
        with sdpa_kernel(kernel):
            F.scaled_dot_product_attention(query, key, value, attn_mask=mask).backward(grad)
        for one in (query, key, value):
            one.grad = None

    return work


def measure(dtype: torch.dtype, asking: int, asked: int, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    works = {name: attention(dtype, asking, asked, kernel) for name, kernel in KERNELS.items()}
    timings = alternate(works, rounds=rounds, warm_up=3)
    row: dict[str, Any] = {"precision": str(dtype).removeprefix("torch."), "tokens": f"{asking} × {asked}"}
    row |= {f"{name}, ms": 1000 * timings.median(name) for name in KERNELS}
    return row | {"products are faster by": timings.ratio("fused", "products")}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    of_lengths = partial(measure, rounds=options.rounds)
    rows = [of_lengths(dtype, *lengths) for dtype in (torch.float32, torch.bfloat16) for lengths in LENGTHS]
    print(table(rows))
    write("attention-cpu", {"rows": ROWS, "heads": HEADS, "width": WIDTH, "results": rows}, torch.device("cpu"))


if __name__ == "__main__":
    main()
