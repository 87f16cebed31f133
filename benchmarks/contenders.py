"""One training step of the frozen base, of PEFT's LoRA and AdaLoRA, and of spectune, each held in one phase.

Every trained contender clips to norm 1 and steps a fused AdamW, so that they differ in the adapter alone. The frozen
base computes the gradients of its activations and trains nothing: what any adapter must pay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from benchmarks.shapes import sharing
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor

import spectune
from spectune.data.loader import Window
from spectune.training.step import StepOptions, training_step

LONG = 1_000_000
"""Steps of a phase that a benchmark does not leave."""
FIRST = 5
"""Steps taken before anything is measured; the frozen phase begins at step 3."""
PHASES: dict[str, dict[str, int]] = {
    "warm-up": {"tinit": LONG, "tfinal": 1, "deltaT": 1},
    "decrease": {"tinit": 1, "tfinal": 1, "deltaT": 3 * LONG},
    "allocating": {"tinit": 1, "tfinal": 1, "deltaT": 1},
    "frozen": {"tinit": 1, "tfinal": 3 * LONG - 3, "deltaT": 1},
}
"""Phase → the part of a schedule of 3 · LONG steps that holds a run in it: every step of `allocating` chooses triplets,
none of `decrease` does."""


@dataclass(frozen=True)
class Setting:
    """What all contenders share."""

    batch: dict[str, Tensor]
    init_r: int
    target_r: int
    max_grad_norm: float = 1.0


@dataclass
class Contender:
    """A model and its training step."""

    step: Callable[[], Any]
    model: Any
    engine: Any = None
    optimizer: Any = None


def frozen_base(base: Any, setting: Setting) -> Contender:
    """Forward and backward through every layer, without a trainable parameter."""
    model = sharing(base)

    def require_gradient(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output.requires_grad_()

    for part in (model.get_encoder(), model.get_decoder()):
        part.get_input_embeddings().register_forward_hook(require_gradient)
    return Contender(lambda: model(**setting.batch).loss.backward(), model)


def peft_lora(base: Any, setting: Setting) -> Contender:
    """PEFT's LoRA at init_r."""
    config = LoraConfig(r=setting.init_r, lora_alpha=16, task_type="SEQ_2_SEQ_LM", target_modules=_targets(base))
    model: Any = get_peft_model(sharing(base), config).train()
    return _trained(model, setting, lambda step: None)


def peft_adalora(base: Any, setting: Setting, phase: str) -> Contender:
    """PEFT's AdaLoRA, its allocator called as its documentation says."""
    model = _adalora(base, setting, phase)
    return _trained(model, setting, model.base_model.update_and_allocate)


def spectune_manual(base: Any, setting: Setting, phase: str) -> Contender:
    """spectune under the very loop of `peft_adalora`: `spectune.attach` and nothing else."""
    model = _adalora(base, setting, phase)
    engine = spectune.attach(model)
    contender = _trained(model, setting, model.base_model.update_and_allocate, engine.parameters())
    contender.engine = engine
    return contender


def spectune_loop(base: Any, setting: Setting, phase: str) -> Contender:
    """The step that `spectune train` takes, compacted in the frozen phase."""
    model = _adalora(base, setting, phase)
    engine = spectune.attach(model, penalty="step")
    optimizer = torch.optim.AdamW(engine.parameters(), lr=1e-3, fused=True)
    window = Window([setting.batch], setting.batch["labels"].numel(), setting.batch["input_ids"].numel(), 1, 0.0)
    options = StepOptions(
        device=setting.batch["labels"].device,
        autocast=contextlib.nullcontext,
        label_smoothing=0.0,
        max_grad_norm=setting.max_grad_norm,
        penalty_in_scores=True,
        call_order="paper",
    )
    numbers = count(1)

    def step() -> None:
        training_step(model, engine, optimizer, window, step=next(numbers), rate=1e-3, options=options)

    return Contender(step, model, engine, optimizer)


def _trained(
    model: Any, setting: Setting, allocate: Callable[[int], Any], parameters: list[Any] | None = None
) -> Contender:
    """The loop that PEFT's users write, with clipping."""
    trained = [p for p in model.parameters() if p.requires_grad] if parameters is None else parameters
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    numbers: Iterator[int] = count(1)

    def step() -> None:
        model(**setting.batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, setting.max_grad_norm)
        optimizer.step()
        allocate(next(numbers))
        optimizer.zero_grad()

    return Contender(step, model, optimizer=optimizer)


def _adalora(base: Any, setting: Setting, phase: str) -> Any:
    options: dict[str, Any] = {"lora_alpha": 16, "orth_reg_weight": 0.1, "total_step": 3 * LONG, **PHASES[phase]}
    config = AdaLoraConfig(
        init_r=setting.init_r,
        target_r=setting.target_r,
        task_type="SEQ_2_SEQ_LM",
        target_modules=_targets(base),
        **options,
    )
    torch.manual_seed(1)
    return get_peft_model(sharing(base), config).train()


def _targets(base: Any) -> list[str]:
    return spectune.default_targets(base)


def ready(contender: Contender) -> Contender:
    """Take the first steps, after which the contender is in its phase; a frozen engine of ours is compacted."""
    for _ in range(FIRST):
        contender.step()
    if contender.engine is not None and contender.engine.frozen:
        contender.engine.compact(contender.optimizer)
    return contender


CONTENDERS: dict[str, Callable[[Any, Setting], Contender]] = {
    "frozen base": frozen_base,
    "PEFT LoRA": peft_lora,
    **{f"PEFT AdaLoRA, {phase}": partial(peft_adalora, phase=phase) for phase in PHASES},
    **{f"spectune, {phase}": partial(spectune_loop, phase=phase) for phase in PHASES},
    "spectune by hand, decrease": partial(spectune_manual, phase="decrease"),
}
"""Name → how it is made from a frozen base, whose weights it shares."""
