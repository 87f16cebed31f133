"""What the budget counts, triplets or their parameters, and which triplets it pays for."""

from __future__ import annotations

import torch
from torch import Tensor

from spectune.adapter.allocation import affordable, survivors
from spectune.adapter.store import TripletStore


class Spending:
    """A triplet costs one, or as many as it has parameters.

    Attributes:
        by_parameters: which of the two.
        costs: of one triplet of each matrix.
    """

    def __init__(self, store: TripletStore, *, by_parameters: bool) -> None:
        self._store, self.by_parameters = store, by_parameters
        self.costs = store.costs() if by_parameters else [1] * len(store.matrices)
        self._prices: Tensor | None = None

    def in_memory(self) -> int:
        """The cost of all triplets in memory."""
        return sum(cost * len(matrix.slots) for cost, matrix in zip(self.costs, self._store.matrices, strict=True))

    def choose(self, scores: Tensor, budget: int, candidates: Tensor | None) -> Tensor:
        """Mask of the triplets that `budget` holds, (n,) bool; by count it is exact. Reads nothing from the device."""
        if not self.by_parameters:
            return survivors(scores, budget, candidates)
        return affordable(scores, self._price_list(), budget, candidates)

    def of(self, keep: Tensor | None) -> int:
        """The cost of the triplets of a mask, None for all in memory. Reads the device."""
        if keep is None:
            return self.in_memory()
        return int((self._price_list() * keep).sum() if self.by_parameters else keep.sum())

    def _price_list(self) -> Tensor:
        """(n,) int64, the cost of every triplet in memory, on the device; made once and after each compaction."""
        rows = self._store.values.rows
        if self._prices is None or len(self._prices) != len(rows) or self._prices.device != rows.device:
            pairs = zip(self.costs, self._store.matrices, strict=True)
            self._prices = torch.tensor([cost for cost, m in pairs for _ in m.slots], device=rows.device)
        return self._prices
