"""The start of a run that does not resume: what `adapter.init` and `adapter.init_from` ask for."""

from __future__ import annotations

from functools import partial
from itertools import islice

from spectune.adapter.initialization import start_from_gradient, start_orthonormal
from spectune.training.checkpoint import seed_all
from spectune.training.continuation import start_from_adapter
from spectune.training.loop import Loop
from spectune.training.session import Ready, name_of
from spectune.training.step import window_loss
from spectune.training.tokens import make_loader

INIT_WINDOWS = 8  # optimizer steps' worth of rows that the gradient of `init: gradient` is summed over


def initialize(ready: Ready, loop: Loop) -> None:
    """The informed starts; PEFT has drawn the random one already. Every process gets the same."""
    session, store = ready.session, ready.adapted.engine.store
    kind, finished = session.config.adapter.init, session.config.adapter.init_from
    if finished is not None:
        base, dtype = session.base_digest, name_of(session.dtype)
        taken = session.processes.together(partial(start_from_adapter, ready.adapted, finished, base, dtype))
        session.reporter.line(f"starts from {finished}: {taken:,} triplets taken over")
    if kind == "orthonormal":
        start_orthonormal(store)
    if kind == "gradient":
        _start_from_gradient(ready, loop)
    session.processes.copy_from_first(ready.adapted.engine.parameters())
    if not session.processes.is_first:
        seed_all(session.config.train.seed + session.processes.rank)  # every process has its own dropout


def _start_from_gradient(ready: Ready, loop: Loop) -> None:
    session = ready.session
    train = session.config.train
    loader = make_loader(ready, seed=train.seed + 1)  # a stream of its own: the run's is not advanced
    # The rows at an epoch's end are cut otherwise for other numbers of processes, and rounded otherwise. Every other
    # window is whole, unless the data is one short window.
    batches = train.gradient_accumulation_steps * session.processes.size
    least = (batches - 1) * train.per_device_train_batch_size
    whole = list(islice((window for window in islice(loader, 2 * INIT_WINDOWS) if window.rows > least), INIT_WINDOWS))
    windows = whole or list(islice(make_loader(ready, seed=train.seed + 1), INIT_WINDOWS))

    def backward() -> None:
        seed_all(train.seed)  # or the directions would hang on how many passes there are
        for window in windows:
            window_loss(ready.adapted.model, window, loop.options)
        loop.trained.optimizer.zero_grad(set_to_none=True)

    ready.adapted.model.train()
    held_whole = session.sharded is None and session.config.model.quantization is None
    start_from_gradient(ready.adapted.engine.store, backward, loop.options.reduce, whole=held_whole)
