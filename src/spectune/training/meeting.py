"""How the processes that a launcher has started find one another, and which device each of them takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from spectune.errors import ConfigError, RunError, first_line
from spectune.launch import local_rank, local_size, rank, world_size

_WAIT = timedelta(hours=24)
"""The longest that one process works while others wait: the reload proof. One that has died is noticed at once."""
_MEET = timedelta(minutes=5)
"""The longest that the processes may take to find one another when they start."""
_STORES: dict[tuple[str | None, ...], tuple[Any, Iterator[int]]] = {}
"""The launcher's store by its address and this process's place, and the numbers of the meetings there."""


def own_device(device: torch.device) -> torch.device:
    """This process's own device of those like `device`. Raises ConfigError if this machine has too few."""
    if device.type != "cuda" or world_size() == 1:
        return device
    if max(local_rank() + 1, local_size()) > torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} GPUs and more processes; start one for each GPU, or use "
            "none: train.use_cpu: true in a run, CUDA_VISIBLE_DEVICES= before another command"
        )
    own = torch.device("cuda", local_rank())
    torch.cuda.set_device(own)
    return own


def meet(use_cpu: bool) -> bool:
    """Form the group, unless the caller's program has; returns whether it was formed here."""
    if not dist.is_available():
        raise ConfigError("this torch is built without torch.distributed; install another, or start one process")
    if dist.is_initialized():
        if dist.get_world_size() != world_size():
            raise ConfigError(
                f"this program has formed a group of {dist.get_world_size()}, and WORLD_SIZE says {world_size()}; "
                "leave that group (torch.distributed.destroy_process_group()), or set WORLD_SIZE as the launcher does"
            )
        if not _has_cpu():
            raise ConfigError(
                "the group that this program has formed cannot exchange what lies in host memory; form it with "
                'torch.distributed.init_process_group("cpu:gloo,cuda:nccl"), or leave it to spectune'
            )
        return False
    needed = ["gloo"] if use_cpu or not torch.cuda.is_available() else ["gloo", "nccl"]
    for name in needed:
        if not dist.is_backend_available(name):
            raise ConfigError(f"this torch is built without {name}; install another, or start one process")
    if "nccl" in needed:
        own_device(torch.device("cuda"))
    try:
        backend = "cpu:gloo,cuda:nccl" if "nccl" in needed else "gloo"
        dist.init_process_group(backend, store=_met_at(), rank=rank(), world_size=world_size(), timeout=_WAIT)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(f"the processes do not meet at {place}: {first_line(error)}") from None
    return True


def _has_cpu() -> bool:
    """Whether the group has a back end for tensors in host memory."""
    group: Any = dist.group.WORLD
    try:
        group._get_backend(torch.device("cpu"))
    except RuntimeError:
        return False
    return True


def _met_at() -> Any:
    """The part of the launcher's store that belongs to this meeting, once all processes are there.

    The store is kept: a program may meet many times, and a new store at the same address could be taken for the last
    one by a process that is early.

    Raises:
        RuntimeError: the others do not come.
    """
    place = tuple(os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"))
    new = place not in _STORES
    if new:
        from torch.distributed.rendezvous import rendezvous

        _STORES.clear()
        _STORES[place] = next(rendezvous("env://", timeout=_MEET))[0], count()
    kept, numbers = _STORES[place]
    distributed: Any = dist  # whose stores have no types
    store: Any = distributed.PrefixStore(f"spectune/meeting-{next(numbers)}", kept)
    store.set_timeout(_MEET if new else _WAIT)  # later ones wait for what a process does alone
    if store.add("here", 1) == world_size():
        store.set("all", "here")
    store.wait(["all"])
    return store
