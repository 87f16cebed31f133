"""Starts other than PEFT's N(0, 0.02²): orthonormal factors, random or from the gradient; or a finished adapter's.

But for the last λ is 0, so ΔW stays 0.

With orthonormal P and Q the penalty starts at 0 instead of spending the warm-up on it. The gradient's leading singular
vectors are the directions in which the loss falls fastest (LoRA-GA, arXiv 2407.05000, with Λ = 0 in place of a changed
base): ∂L/∂λ starts at s times the singular values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spectune.adapter.store import Matrix, TripletStore

CHUNK_BYTES = 2**30  # of gradients of whole matrices held at once,
_MOST_PASSES = 16  # or, beside a base held whole, a quarter of it in bfloat16: so many passes do then
NUMBER_BYTES = 8  # of an element of their sums
_BLOCK = 64  # rows of a gradient that are added at once
_EXACT = 256  # up to this width the full decomposition takes milliseconds; at 768 × 3,072 it takes ten times as long as
_OVERSAMPLING, _ITERATIONS = 16, 4  # that of some random directions, which need not be exact


class Triplets(NamedTuple):
    """The finished triplets of one matrix."""

    values: Tensor
    """λ, (r,)."""
    queries: Tensor
    """Rows of Q, (r, in)."""
    outputs: Tensor
    """Rows of Pᵀ, (r, out)."""


@torch.no_grad()
def start_from_triplets(store: TripletStore, finished: Mapping[str, Triplets], scale: float) -> None:
    """Put finished triplets into the first slots of their matrices; the slots left keep their random start, with λ = 0.

    λ is rescaled so that ΔW = s · PΛQ is the finished one, whatever s was.

    Args:
        store: a fresh store with at least as many slots per matrix.
        finished: by matrix name.
        scale: the finished adapter's s.
    """
    matrices = {matrix.name: matrix.layer for matrix in store.matrices}
    name = store.adapter_name
    for matrix, triplets in finished.items():
        layer, rank = matrices[matrix], len(triplets.values)
        layer.lora_E[name][:rank, 0].copy_(triplets.values * (scale / store.scale))
        layer.lora_A[name][:rank].copy_(triplets.queries)
        layer.lora_B[name].t()[:rank].copy_(triplets.outputs)
    store.drop_parts()


@torch.no_grad()
def start_orthonormal(store: TripletStore) -> None:
    """Random orthonormal Q rows and P columns for every matrix, from torch's random state."""
    for matrix in store.matrices:
        layer, rank = matrix.layer, len(matrix.slots)
        _write(store, matrix, _orthonormal(layer.out_features, rank).t(), _orthonormal(layer.in_features, rank).t())


def start_from_gradient(
    store: TripletStore,
    backward: Callable[[], None],
    reduce: Callable[[Sequence[Tensor]], None] | None = None,
    *,
    whole: bool = True,
) -> None:
    """P and Q from the leading singular vectors of each matrix's gradient ∂L/∂W.

    The gradient is summed by hooks on the adapted layers' outputs, as Σ ∂L/∂y xᵀ: weights in 8 or 4 bits, which have no
    gradient of their own, start like all others. Each product is float32, and their sum float64: rounded to float32 it
    is the same in whatever order, so that several processes find the same directions as one, down to the smallest
    singular values, whose vectors are made of the rounding.

    Args:
        store: triplets to start; λ is set to 0.
        backward: runs a few batches forward and backward, with the adapter on (λ is 0, so it adds nothing), the same
            ones under the same dropout at each call; called once for each chunk of matrices, so that no more than
            `chunk_bytes` of gradients exist at a time.
        reduce: sums tensors over all processes, in place, where there are several.
        whole: this process holds the base as it is, neither sharded nor in 8 or 4 bits.
    """
    with torch.no_grad():
        store.values.rows.zero_()
    store.drop_parts()
    for chunk in _chunks(store.matrices, whole):
        _start_chunk(store, chunk, backward, reduce)


def _start_chunk(
    store: TripletStore,
    chunk: list[Matrix],
    backward: Callable[[], None],
    reduce: Callable[[Sequence[Tensor]], None] | None,
) -> None:
    sums = [_GradientSum(matrix) for matrix in chunk]
    try:
        backward()
    finally:
        for one in sums:
            one.remove()
        for bank in store.banks:
            bank.rows.grad = None
        store.watch.answered()
    if reduce is not None:
        reduce([one.total for one in sums])
    for matrix, one in zip(chunk, sums, strict=True):
        _write(store, matrix, *leading(one.total, len(matrix.slots)))


class _GradientSum:
    """∂L/∂W of one adapted matrix, (out, in) in float64, summed over the calls of its layer."""

    def __init__(self, matrix: Matrix) -> None:
        layer = matrix.layer
        device = layer.get_base_layer().weight.device
        self.total = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64, device=device)
        self._handle = layer.register_forward_hook(self._watch)

    def _watch(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:  # the first of the two calls of a re-entrant checkpoint
            return
        x = inputs[0].detach()

        def add(grad: Tensor) -> None:
            _add_product(self.total, grad.reshape(-1, grad.shape[-1]).float(), x.reshape(-1, x.shape[-1]).float())

        output.register_hook(add)

    def remove(self) -> None:
        """Let the layer go."""
        self._handle.remove()


def _add_product(total: Tensor, grads: Tensor, inputs: Tensor) -> None:
    """total (out, in) += gradsᵀ (out, n) · inputs (n, in); on a processor some rows at a time.

    There a product in float32 is copied to be added in float64, and fresh memory of that size costs more than the
    arithmetic: 5 ms a matrix of 768 × 3,072 for 1.
    """
    rows = _BLOCK if total.device.type == "cpu" else len(total)
    for part, of_part in zip(total.split(rows), grads.split(rows, dim=1), strict=True):
        part += of_part.t() @ inputs


def leading(gradient: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading singular vectors of a gradient (out, in): Pᵀ (rank, out) and Q (rank, in)."""
    whole = gradient.detach().float()
    if min(whole.shape) <= _EXACT:
        left, _, right = torch.linalg.svd(whole, full_matrices=False)
        return left[:, :rank].t(), right[:rank]
    with torch.random.fork_rng([whole.device] if whole.is_cuda else []):
        torch.manual_seed(0)  # the same directions in whatever order, and training draws what it would have drawn
        left, _, right = torch.svd_lowrank(whole, q=rank + _OVERSAMPLING, niter=_ITERATIONS)
    return left[:, :rank].t(), right[:, :rank].t()


def _orthonormal(width: int, rank: int) -> Tensor:
    orthonormal: Tensor = torch.linalg.qr(torch.randn(width, rank))[0]
    return orthonormal


def chunk_bytes(sizes: Sequence[int], *, whole: bool) -> int:
    """The most that gradients of whole matrices take at once, where all of them take `sizes` bytes.

    The same in all processes, as each chunk is a pass that they make together; `whole` as in `start_from_gradient`.
    """
    most = max(CHUNK_BYTES, sum(sizes) // _MOST_PASSES) if whole else CHUNK_BYTES
    return max(max(sizes), min(sum(sizes), most))


def _chunks(matrices: list[Matrix], whole: bool) -> Iterator[list[Matrix]]:
    sizes = [NUMBER_BYTES * matrix.layer.out_features * matrix.layer.in_features for matrix in matrices]
    most = chunk_bytes(sizes, whole=whole)
    chunk: list[Matrix] = []
    size = 0
    for matrix, own in zip(matrices, sizes, strict=True):
        size += own
        if chunk and size > most:
            yield chunk
            chunk, size = [], own
        chunk.append(matrix)
    yield chunk


@torch.no_grad()
def _write(store: TripletStore, matrix: Matrix, outputs: Tensor, queries: Tensor) -> None:
    """Through the host's aliases, which are the banks' rows; a matrix narrower than its rank keeps its last rows."""
    layer, name = matrix.layer, store.adapter_name
    layer.lora_B[name].t()[: len(outputs)].copy_(outputs)
    layer.lora_A[name][: len(queries)].copy_(queries)
    layer.lora_E[name].zero_()
    store.drop_parts()
