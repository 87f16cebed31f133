"""The tensors that the banks took the place of: if anything still holds them, an optimizer was made too early."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor


class FormerTensors:
    """Weak references to the adapter's tensors from before `attach`. A copy or a pickle of it watches nothing."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._references = [weakref.ref(tensor) for tensor in tensors]

    def warn_if_held(self) -> None:
        """Warn, once, if any of them is alive: nothing would train them."""
        references, self._references = self._references, []
        if not any(reference() is not None for reference in references):
            return
        gc.collect()
        if any(reference() is not None for reference in references):
            warnings.warn(
                "something holds the adapter's tensors from before attach(), most likely an optimizer made too early, "
                "which trains nothing; make it after attach(), over engine.parameters() or model.parameters()",
                stacklevel=3,
            )

    def __reduce__(self) -> Any:
        return FormerTensors, ()
