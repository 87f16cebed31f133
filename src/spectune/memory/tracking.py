"""How many bytes of tensors exist at once while something runs: each storage counted from its making to its end."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside, every operation's results are counted while they live; `peak` is the most that lived at once.

    Works on real tensors and on those of a `FakeTensorMode` that is entered before, which have sizes and no memory.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """
        Args:
            known: tensors that existed before, not to be counted (views of them neither).
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._sizes = {_key(tensor): 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def __enter__(self) -> LiveBytes:
        return cast(LiveBytes, super().__enter__())  # type: ignore[no-untyped-call]

    def _note(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._sizes:
            return
        storage = tensor.untyped_storage()
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _key(tensor: Tensor) -> int:
    """The same for all views of a storage, while it lives."""
    return int(tensor.untyped_storage()._cdata)


@torch.no_grad()
def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storages behind these tensors, shared ones once."""
    return sum({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
