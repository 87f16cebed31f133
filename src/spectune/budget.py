"""A budget for the saved adapter, as a person writes it: `400kB`, `1.5MB`, or a number of parameters.

Torch-free. The engine counts in parameters; what a file of so many bytes has room for is worked out here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_WRITTEN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_BYTES_OF_NUMBER = 4  # an adapter is saved in float32
_HEADER_OF_ONE = 256  # of a tensor beside the triplets, its name included, at most
_LENGTH_FIELD, _ALIGNMENT = 8, 8  # of the safetensors format, around its header


@dataclass(frozen=True)
class Budget:
    """An upper bound on the saved weights of an adapter (`adapter_model.safetensors`)."""

    amount: int
    unit: Literal["parameters", "bytes"]

    def room(self, entries: Mapping[str, tuple[int, ...]], beside: Sequence[int]) -> int:
        """How many parameters the triplets may have.

        Args:
            entries: names and full shapes of the triplets' tensors in the file; a pruned tensor takes no more header.
            beside: parameters of each tensor saved beside them (whole modules, biases, token embeddings).

        Returns:
            A number that may be zero or less.
        """
        if self.unit == "parameters":
            return self.amount - sum(beside)
        header = header_bytes(entries) + _HEADER_OF_ONE * len(beside)
        return (self.amount - header) // _BYTES_OF_NUMBER - sum(beside)


def parse_budget(written: str | int) -> Budget:
    """`400kB` → bytes (kB, MB, GB are powers of 1000; KiB, MiB, GiB of 1024), `120000` → parameters.

    Raises:
        ValueError: neither.
    """
    found = _WRITTEN.match(str(written))
    if found is None or (found[2] and found[2] not in _UNITS) or (not found[2] and "." in found[1]):
        raise ValueError(
            f"budget {written!r} is neither a size such as 400kB or 1.5MB nor a whole number of parameters"
        )
    if not found[2]:
        return Budget(int(found[1]), "parameters")
    return Budget(int(float(found[1]) * _UNITS[found[2]]), "bytes")


def header_bytes(entries: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of a safetensors file before its numbers, at most: offsets and shapes only get shorter by pruning."""
    end = _BYTES_OF_NUMBER * sum(math.prod(shape) for shape in entries.values())
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, shape in entries.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end]}
    return _LENGTH_FIELD + len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()) + _ALIGNMENT
