"""Held-out rows, samples, and texts that occur twice: all pure functions of their arguments."""

from __future__ import annotations

import random
from collections.abc import Sequence

from spectune.data.examples import Example
from spectune.errors import DataError


def normalised(text: str) -> str:
    """What makes two sources the same: case and white space do not count."""
    return " ".join(text.casefold().split())


def train_validation_split(
    examples: Sequence[Example], fraction: float, seed: int, stratify: bool
) -> tuple[list[Example], list[Example]]:
    """Rows to train on and rows held out, both in the order of the file.

    Rows whose sources are the same stay together, so no source is on both sides. `fraction` of the rows is held out,
    up to the size of such groups, at least one row; with `stratify`, of each label, where the first row of a group
    decides for it, and no label's last group is held out.

    Raises:
        DataError: all sources are the same, so that nothing can be held out.
    """
    strata = _strata(examples, stratify)
    if sum(len(groups) for groups in strata.values()) < 2:
        raise DataError(
            "no validation rows can be held out, because all rows have one and the same source;"
            " give a validation_file, or set data.validation_split: null"
        )
    for name, groups in strata.items():
        random.Random(f"{seed}/{name}").shuffle(groups)
    wanted = max(1, round(fraction * len(examples)))
    sizes = {name: sum(map(len, groups)) for name, groups in strata.items()}
    quotas = _quotas(sizes, wanted)
    held: set[int] = set()
    for name, groups in strata.items():
        held |= _fill(groups, quotas[name])
    # What whole groups or last groups kept back is made up from any label.
    for groups in strata.values():
        if len(held) < wanted:
            left = [group for group in groups if group[0] not in held]
            held |= _fill(left, wanted - len(held))
    if not held:
        held = set(_smallest_spare_group(strata))
    train = [example for index, example in enumerate(examples) if index not in held]
    return train, [examples[index] for index in sorted(held)]


def sample(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` of the examples: the first of a seeded shuffle, in the order of the file."""
    if limit is None or limit >= len(examples):
        return list(examples)
    order = list(range(len(examples)))
    random.Random(f"{seed}/sample").shuffle(order)
    return [examples[index] for index in sorted(order[:limit])]


def repeats(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Row numbers of examples whose source occurred before, and of those among them with another target."""
    first: dict[str, str] = {}
    repeated, conflicting = [], []
    for example in examples:
        source = normalised(example.source)
        if source not in first:
            first[source] = example.target
            continue
        repeated.append(example.row)
        if example.target != first[source]:
            conflicting.append(example.row)
    return repeated, conflicting


def overlap(first: Sequence[Example], second: Sequence[Example]) -> list[int]:
    """Row numbers of the examples of `second` whose source is also in `first`."""
    known = {normalised(example.source) for example in first}
    return [example.row for example in second if normalised(example.source) in known]


def _strata(examples: Sequence[Example], stratify: bool) -> dict[str, list[list[int]]]:
    """Label → groups of indices whose sources are the same."""
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(normalised(example.source), []).append(index)
    strata: dict[str, list[list[int]]] = {}
    for group in groups.values():
        label = examples[group[0]].label if stratify else None
        strata.setdefault(label or "", []).append(group)
    return strata


def _quotas(sizes: dict[str, int], wanted: int) -> dict[str, int]:
    """`wanted` rows shared out over the strata in proportion, by largest remainders (ties: the earlier stratum)."""
    total = sum(sizes.values())
    exact = {name: wanted * size / total for name, size in sizes.items()}
    quotas = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: quotas[name] - exact[name])
    for name in by_remainder[: wanted - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _fill(groups: Sequence[list[int]], quota: int) -> set[int]:
    """Whole groups, in order, that fit into the quota; the last group is never taken."""
    taken: set[int] = set()
    for group in groups[:-1]:
        if len(taken) + len(group) <= quota:
            taken.update(group)
    return taken


def _smallest_spare_group(strata: dict[str, list[list[int]]]) -> list[int]:
    """The smallest group that is not its label's only one, else the smallest of all."""
    spare = [group for groups in strata.values() if len(groups) > 1 for group in groups]
    return min(spare or [group for groups in strata.values() for group in groups], key=len)
