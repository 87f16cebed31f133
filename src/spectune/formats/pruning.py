"""A smaller budget for a finished adapter: which triplets stay, and the adapter of those.

The rules are the training's own (`adapter.allocation`): an exact count for a target rank, score per parameter for a
budget in bytes or parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spectune.adapter.allocation import affordable, survivors
from spectune.budget import Budget
from spectune.errors import ConfigError
from spectune.formats.adapter_config import kept_slots
from spectune.formats.adapter_tensors import PREFIX, Entries, split_entries

Keep = dict[str, Tensor]
"""Matrix → (r,) bool over the triplets in the file: which stay."""


def keep_rank(scores: Mapping[str, Tensor], target_rank: float) -> Keep:
    """The best triplets, `target_rank` for each matrix on average, as in PEFT's `target_r`.

    Args:
        scores: matrix → (r,).
        target_rank: the average; the count is rounded down.

    Raises:
        ConfigError: none would stay, or the adapter has fewer.
    """
    present = sum(len(values) for values in scores.values())
    wanted = math.floor(target_rank * len(scores) + 1e-9)  # 0.29 · 100 is 28.999999999999996
    if wanted < 1:
        raise ConfigError(f"target rank {target_rank:g} leaves none of the adapter's {present} triplets; raise it")
    if wanted > present:
        average = present / len(scores)
        raise ConfigError(
            f"target rank {target_rank:g} is above the adapter's average rank, which is {average:.4g}; lower it"
        )
    return _by_matrix(survivors(_flat(scores), wanted), scores)


def keep_within(scores: Mapping[str, Tensor], tensors: Mapping[str, Tensor], budget: Budget, *, lora: bool) -> Keep:
    """The triplets that come first by score per parameter, as many as `budget` pays for.

    Bytes pay for the file's header, too, which gets shorter with each matrix that LoRA leaves out: the room for numbers
    is found by bisection.

    Args:
        scores: matrix → (r,).
        tensors: all that the adapter's file holds.
        budget: an upper bound on the file of weights that is written.
        lora: it is written as plain LoRA, which has no λ.

    Raises:
        ConfigError: it pays for no triplet.
    """
    entries, rest = split_entries(tensors)
    beside = [tensor.numel() for tensor in rest.values()]
    costs = {name: cost_of(kinds, lora=lora) for name, kinds in entries.items()}
    prices = torch.tensor([costs[name] for name, values in scores.items() for _ in values])

    def choose(room: int) -> Keep:
        return _by_matrix(affordable(_flat(scores), prices, room), scores)

    def fits(keep: Keep) -> bool:
        ranks = {name: int(stays.sum()) for name, stays in keep.items()}
        spent = sum(rank * costs[name] for name, rank in ranks.items())
        return spent <= budget.room(_shapes(entries, ranks, lora=lora), beside)

    room, too_much = 0, int(prices.sum()) + 1
    while too_much - room > 1:
        middle = (room + too_much) // 2
        room, too_much = (middle, too_much) if fits(choose(middle)) else (room, middle)
    keep = choose(room)
    if not any(bool(stays.any()) for stays in keep.values()):
        raise ConfigError(
            f"a budget of {budget.amount:,} {budget.unit} has room for none of the adapter's triplets; raise it"
        )
    return keep


def cost_of(kinds: Mapping[str, Tensor], *, lora: bool) -> int:
    """Parameters of one triplet of a matrix: a column of P, a row of Q, and λ unless it is folded into Q."""
    return kinds["A"].shape[1] + kinds["B"].shape[0] + (0 if lora else 1)


def pruned(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], keep: Keep
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of the AdaLoRA adapter that has only the triplets of `keep`."""
    entries, rest = split_entries(tensors)
    slots = kept_slots(config) or {name: list(range(config["init_r"])) for name in entries}
    pattern, saved = {}, {PREFIX + name: tensor for name, tensor in rest.items()}
    for name, kinds in entries.items():
        stays = keep[name]
        alive = {slot for slot, kept in zip(slots[name], stays.tolist(), strict=True) if kept}
        pattern[f"{name}.lora_E"] = [slot in alive for slot in range(config["init_r"])]
        parts = {"A": kinds["A"][stays], "E": kinds["E"][stays], "B": kinds["B"][:, stays]}
        saved |= {f"{PREFIX}{name}.lora_{kind}": part.contiguous() for kind, part in parts.items()}
    total = sum(int(stays.sum()) for stays in keep.values())
    whole = all(all(flags) for flags in pattern.values())
    changes = {"rank_pattern": None if whole else pattern, "target_r": max(1, round(total / len(entries)))}
    return {**config, **changes}, saved


def _shapes(entries: Entries, ranks: Mapping[str, int], *, lora: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the triplets' tensors in the form that is written."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, kinds in entries.items():
        rank, a, b = ranks[name], f"{PREFIX}{name}.lora_A", f"{PREFIX}{name}.lora_B"
        down, up = (rank, kinds["A"].shape[1]), (kinds["B"].shape[0], rank)
        if not lora:
            shapes |= {a: down, b: up, f"{PREFIX}{name}.lora_E": (rank, 1)}
        elif rank:
            shapes |= {f"{a}.weight": down, f"{b}.weight": up}
    return shapes


def _flat(scores: Mapping[str, Tensor]) -> Tensor:
    return torch.cat(list(scores.values()))


def _by_matrix(chosen: Tensor, scores: Mapping[str, Tensor]) -> Keep:
    parts = chosen.split([len(values) for values in scores.values()])
    return dict(zip(scores, parts, strict=True))
