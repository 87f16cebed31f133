"""A saved AdaLoRA adapter as its files say it: configuration and weights, checked, without its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spectune.formats.adapter_files import WEIGHTS, read_adapter_config
from spectune.formats.adapter_tensors import Entries, check_tensors, read_tensors, split_entries


@dataclass(frozen=True)
class SavedAdapter:
    """What lies in an adapter's directory; spectune or plain PEFT may have made it."""

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """By their names in the file."""

    @classmethod
    def read(cls, directory: Path) -> SavedAdapter:
        """Read a directory whose configuration is checked, as `locate_adapter` does. Raises AdapterError for damage."""
        config, tensors = read_adapter_config(directory), read_tensors(directory / WEIGHTS)
        check_tensors(directory / WEIGHTS, config, tensors)
        return cls(directory, config, tensors)

    @property
    def entries(self) -> Entries:
        """The triplets: matrix → A = Q (r, in), E = λ (r, 1), B = P (out, r)."""
        return split_entries(self.tensors)[0]

    def ranks(self) -> dict[str, int]:
        """Matrix → triplets with λ ≠ 0, in the order of the names."""
        entries = self.entries
        return {name: int((entries[name]["E"] != 0).sum()) for name in sorted(entries)}
