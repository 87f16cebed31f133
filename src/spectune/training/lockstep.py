"""Evaluation over shared-out layers: each process generates its own batches, and all gather the same layers.

To compute a layer all processes must take part in gathering it, but their batches end after different numbers of
tokens. So before each pass through a stack (the encoder, or the decoder for one token) the processes tell each other
which stack they are about to run. All of them gather the layers of every stack that somebody asked for, in one order;
who did not ask computes nothing with them. Who has no batch left goes on gathering until nobody asks any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

from spectune.errors import ConfigError
from spectune.training.parallel import Processes


class Lockstep:
    """What keeps the processes together in an evaluation. Final."""

    def __init__(self, processes: Processes, stacks: Mapping[str, Sequence[Any]]) -> None:
        """`stacks`: the layers of each, in the order in which they run, shared out (`FSDPModule`)."""
        self._processes, self._names, self._stacks = processes, list(stacks), [list(stack) for stack in stacks.values()]
        self._waiting: list[int] = []
        self._next = (0, 0)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Inside, passes are agreed on; left when no process asks for one any more.

        Raises:
            Interrupted: a signal asked a process to stop; raised in all of them at the same pass.
            ConfigError: the base does not run its layers in their order.
        """
        hooks = [block.register_forward_hook(_forget) for block in chain(*self._stacks)]
        hooks += [
            block.register_forward_pre_hook(partial(self._before, (number, place)), prepend=True)
            for number, stack in enumerate(self._stacks)
            for place, block in enumerate(stack)
        ]
        self._waiting, self._next = [], (0, 0)
        try:
            yield
            while self._agree(None):
                pass
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, here: tuple[int, int], block: Any, args: Any) -> None:
        """Before each layer, ahead of its own gathering."""
        number, place = here
        if place == 0 and self._next[1] == 0:
            self._agree(number)
        elif here != self._next:
            raise ConfigError(
                f"train.fsdp: the base does not run the layers of {self._names[number]} once each, in their order; "
                "leave train.fsdp out"
            )
        self._next = (number, (place + 1) % len(self._stacks[number]))

    def _agree(self, mine: int | None) -> bool:
        """Tell the others which stack is next here, None for no more; returns whether anybody asked for one."""
        self._take_part(self._waiting)
        asked = self._processes.agree([int(number == mine) for number in range(len(self._stacks))])
        wanted = [number for number, one in enumerate(asked) if one]
        before = wanted if mine is None else wanted[: wanted.index(mine)]
        self._waiting = [] if mine is None else wanted[len(before) + 1 :]
        self._take_part(before)
        return bool(wanted)

    def _take_part(self, numbers: Sequence[int]) -> None:
        """Gather the layers of these stacks for the others."""
        for number in numbers:
            for block in self._stacks[number]:
                block.unshard()
                block.reshard()


def _forget(block: Any, args: Any, output: Any) -> None:
    """FSDP keeps a record of calls for the next backward, which would grow until then, and differ between processes."""
    block.reset_iter_state()
