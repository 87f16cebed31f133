"""Token ids of large data on disk, so that the next run over the same data need not make them again.

An entry is named by a hash over everything its ids depend on: the texts, the tokenizer as it serializes itself, the
lengths and languages, and the versions of the libraries that tokenise. So nothing is ever out of date; an entry of
other data is another file. A damaged entry is made anew, and a directory that cannot be written is gone without: the
cache never ends a run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet, Truncation
from spectune.files import write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VERSION = 1  # of the entries and of how `tokenize_examples` makes ids
_LIBRARIES = ("tokenizers", "transformers")
WORTH_KEEPING = 2_000_000
"""Characters of sources and targets below which nothing is kept: they are tokenised in about two seconds."""
_IDS = ("input_ids", "labels")


class TokenCache:
    """Entries in one directory, for one tokenizer. Final."""

    def __init__(self, directory: Path, tokenizer_digest: Callable[[], str]) -> None:
        """`tokenizer_digest` is only asked for data that is worth keeping, and before anything is tokenised."""
        self._directory = directory
        self._ask = tokenizer_digest
        self.notes: list[str] = []
        """What a person should know: entries taken, damaged, or not written."""

    @cached_property
    def _tokenizer(self) -> str:
        return self._ask()

    def take_or_make(
        self, examples: Sequence[Example], settings: Mapping[str, object], make: Callable[[], TokenizedSet]
    ) -> TokenizedSet:
        """The token ids of `examples`: those that were kept, else what `make` gives, which is then kept.

        Args:
            settings: what else `make` depends on.
        """
        if sum(len(example.source) + len(example.target) for example in examples) < WORTH_KEEPING:
            return make()
        path = self._directory / f"{self._key(examples, settings)}.safetensors"
        started = time.perf_counter()
        try:
            found = _decode(path.read_bytes(), started)
            self.notes.append(f"token ids of {len(found):,} rows taken from {path}")
            return found
        except OSError:
            pass  # not there; or not to be read, and then hardly to be written either, which is said below
        except Exception as error:  # whatever a damaged file makes of numpy and safetensors
            self.notes.append(f"{path} is damaged and made anew ({type(error).__name__})")
        made = make()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_bytes(path, _encode(made))
        except OSError as error:
            self.notes.append(f"token ids cannot be kept in {self._directory} ({error.strerror}); going on without")
        return made

    def _key(self, examples: Sequence[Example], settings: Mapping[str, object]) -> str:
        versions = {name: metadata.version(name) for name in _LIBRARIES}
        facts = {"version": _VERSION, "tokenizer": self._tokenizer, "settings": dict(settings), "libraries": versions}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for example in examples:
            source, target = example.source.encode(), example.target.encode()
            digest.update(b"%d %d " % (len(source), len(target)) + source + target)
        return digest.hexdigest()


def _encode(made: TokenizedSet) -> bytes:
    """A safetensors file: all ids one after the other, the length of each row, the counts, and a digest over these."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {}
    for name in _IDS:
        rows: list[list[int]] = getattr(made, name)
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = (token for row in rows for token in row)
        tensors |= {name: np.fromiter(ids, dtype=np.int32, count=int(lengths.sum())), f"{name}.lengths": lengths}
    cut = made.truncation
    counts = [cut.rows, cut.sources_cut, cut.targets_cut, cut.longest_source, cut.longest_target]
    tensors["counts"] = np.array([*counts, made.unfaithful_targets, made.tokens], dtype=np.int64)
    return save({**tensors, "digest": _digest(tensors)})


def _decode(content: bytes, started: float) -> TokenizedSet:
    """Back from `_encode`. Raises ValueError, or whatever a damaged file leads to."""
    from safetensors.numpy import load

    tensors = load(content)
    if not np.array_equal(tensors.pop("digest"), _digest(tensors)):
        raise ValueError("other bytes than were written")
    rows, sources_cut, targets_cut, longest_source, longest_target, unfaithful, tokens = tensors["counts"].tolist()
    input_ids, labels = (_rows(tensors[name], tensors[f"{name}.lengths"]) for name in _IDS)
    return TokenizedSet(
        input_ids=input_ids,
        labels=labels,
        truncation=Truncation(
            rows=rows,
            sources_cut=sources_cut,
            targets_cut=targets_cut,
            longest_source=longest_source,
            longest_target=longest_target,
        ),
        unfaithful_targets=unfaithful,
        tokens=tokens,
        seconds=time.perf_counter() - started,
    )


def _rows(ids: NDArray[Any], lengths: NDArray[Any]) -> list[list[int]]:
    flat, ends = ids.tolist(), np.cumsum(lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def _digest(tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """SHA-256 (32 bytes) over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} ".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
