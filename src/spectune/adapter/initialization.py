"""Starts other than PEFT's N(0, 0.02²): orthonormal factors, random or from the gradient. λ is 0, so ΔW stays 0.

With orthonormal P and Q the penalty starts at 0 instead of spending the warm-up on it. The gradient's leading singular
vectors are the directions in which the loss falls fastest (LoRA-GA, arXiv 2407.05000, with Λ = 0 in place of a changed
base): ∂L/∂λ starts at s times the singular values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spectune.adapter.store import Matrix, TripletStore

CHUNK_BYTES = 512 * 2**20  # gradients of whole matrices held at once
_EXACT = 1024  # up to this width the full decomposition is cheap
_OVERSAMPLING, _ITERATIONS = 8, 4


@torch.no_grad()
def start_orthonormal(store: TripletStore) -> None:
    """Random orthonormal Q rows and P columns for every matrix, from torch's random state."""
    for matrix in store.matrices:
        layer, rank = matrix.layer, len(matrix.slots)
        _write(store, matrix, _orthonormal(layer.out_features, rank).t(), _orthonormal(layer.in_features, rank).t())


def start_from_gradient(store: TripletStore, backward: Callable[[], None]) -> None:
    """P and Q from the leading singular vectors of each matrix's gradient ∂L/∂W.

    Args:
        store: triplets to start; λ is set to 0.
        backward: runs a few batches forward and backward with the adapter disabled; called once for each chunk of
            matrices, so that no more than `CHUNK_BYTES` of gradients exist at a time.
    """
    for chunk in _chunks(store.matrices):
        weights = [matrix.layer.get_base_layer().weight for matrix in chunk]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            backward()
            for matrix, weight in zip(chunk, weights, strict=True):
                if weight.grad is not None:
                    _write(store, matrix, *leading(weight.grad, len(matrix.slots)))
        finally:
            for weight in weights:
                weight.requires_grad_(False)
                weight.grad = None


def leading(gradient: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading singular vectors of a gradient (out, in): Pᵀ (rank, out) and Q (rank, in)."""
    whole = gradient.detach().float()
    if min(whole.shape) <= _EXACT:
        left, _, right = torch.linalg.svd(whole, full_matrices=False)
        return left[:, :rank].t(), right[:rank]
    left, _, right = torch.svd_lowrank(whole, q=rank + _OVERSAMPLING, niter=_ITERATIONS)
    return left[:, :rank].t(), right[:, :rank].t()


def _orthonormal(width: int, rank: int) -> Tensor:
    orthonormal: Tensor = torch.linalg.qr(torch.randn(width, rank))[0]
    return orthonormal


def _chunks(matrices: list[Matrix]) -> Iterator[list[Matrix]]:
    chunk: list[Matrix] = []
    size = 0
    for matrix in matrices:
        weight = matrix.layer.get_base_layer().weight
        size += weight.numel() * weight.element_size()
        if chunk and size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], weight.numel() * weight.element_size()
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
