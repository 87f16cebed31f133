"""The methods that are compared: each turns a base model into something to train, with the same saved size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.schedule import resolve_schedule
from spectune.adapter.targets import default_targets
from spectune.config import AdapterConfig
from spectune.presets import with_preset
from spectune.training.model import adapt


@dataclass
class Trainable:
    """A model with what is trained of it."""

    model: Any
    groups: list[dict[str, Any]]
    """Parameter groups for AdamW; `factor` multiplies the learning rate."""
    allocate: Callable[[int], Any] = lambda step: None
    """Called after `optimizer.step()`, while gradients are there, with the step from 1."""
    engine: AdaLoraEngine | None = None
    options: AdapterConfig | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    @property
    def trained(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [parameter for group in self.groups for parameter in group["params"]]


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    kind: str
    """Of `MAKERS`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of PEFT's or our configuration, over the defaults; `tinit` and `tfinal` as fractions."""
    rate_of_values: float = 1.0
    """Learning rate of λ over that of P and Q."""
    rate_of_queries: float = 1.0
    """Learning rate of Q over that of P (one over LoRA+'s ratio)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    ratio: float | None = None
    """init_r over target_r; None: what `init_r: auto` gives."""
    scale: float | None = None
    """s = lora_alpha / init_r, where the options give no lora_alpha."""
    preset: str | None = None
    """What a preset says of the adapter, instead of `ratio`; `options` go over it."""
    by_parameters: bool = False
    """Spend parameters instead of triplets: as many as target_r triplets a matrix would take."""


def init_rank(rank: int, ratio: float | None) -> int:
    """init_r for an average rank after the freeze; at least one more than it."""
    return AdapterConfig(target_r=rank).resolved_init_r if ratio is None else max(rank + 1, round(rank * ratio))


def _frozen(base: PreTrainedModel, method: Method, rank: int, steps: int) -> Trainable:
    return Trainable(base, [])


def _full(base: PreTrainedModel, method: Method, rank: int, steps: int) -> Trainable:
    base.requires_grad_(True)
    return Trainable(base, [_group(base.parameters())])


def _lora(base: PreTrainedModel, method: Method, rank: int, steps: int) -> Trainable:
    alpha = {"lora_alpha": 2 * rank} | dict(method.options)
    return _peft(base, LoraConfig(**_COMMON, target_modules=default_targets(base), r=rank, **alpha))


def _peft_adalora(base: PreTrainedModel, method: Method, rank: int, steps: int) -> Trainable:
    """PEFT's own AdaLoRA, `update_and_allocate` called as its documentation says."""
    options = {"init_r": init_rank(rank, method.ratio)} | dict(method.options)
    options |= {name: round(options.get(name, 0.0) * steps) for name in ("tinit", "tfinal")}
    config = AdaLoraConfig(**_COMMON, target_modules=default_targets(base), target_r=rank, total_step=steps, **options)
    made = _peft(base, config)
    made.allocate = made.model.base_model.update_and_allocate
    return made


def _spectune(base: PreTrainedModel, method: Method, rank: int, steps: int) -> Trainable:
    options: dict[str, Any] = {"init_r": init_rank(rank, method.ratio), "target_r": rank, **method.options}
    if method.preset is not None:
        options = with_preset(method.preset, {"adapter": {"target_r": rank}})["adapter"] | dict(method.options)
    if method.scale is not None:
        options.setdefault("lora_alpha", max(1, round(method.scale * options["init_r"])))
    config = AdapterConfig(**options)
    timing = {name: getattr(config, name) for name in ("tinit", "tfinal", "deltaT", "init_r")}
    schedule = resolve_schedule(total_step=steps, target_r=rank, **timing)
    made = adapt(base, config, schedule, None, _room(base, rank) if method.by_parameters else None)
    store = made.engine.store
    groups = [
        _group((bank.rows for bank in store.queries), method.rate_of_queries),
        _group(bank.rows for bank in store.outputs),
        _group([store.values.rows], method.rate_of_values),
    ]
    return Trainable(made.model, groups, engine=made.engine, options=config, betas=method.betas)


_COMMON: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM"}


def _peft(base: PreTrainedModel, config: Any) -> Trainable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(base, config)
    return Trainable(model, [_group(parameter for parameter in model.parameters() if parameter.requires_grad)])


def _group(parameters: Iterable[nn.Parameter], factor: float = 1.0) -> dict[str, Any]:
    return {"params": list(parameters), "factor": factor}


def _room(base: PreTrainedModel, rank: int) -> int:
    """Parameters of `rank` triplets in every adapted matrix."""
    matrices: list[Any] = [base.get_submodule(name) for name in default_targets(base)]
    return rank * sum(int(one.in_features + one.out_features + 1) for one in matrices)


MAKERS: dict[str, Callable[[PreTrainedModel, Method, int, int], Trainable]] = {
    "frozen": _frozen,
    "full": _full,
    "lora": _lora,
    "peft": _peft_adalora,
    "spectune": _spectune,
}


_OURS = {"init": "gradient", "tinit": 0.1, "tfinal": 0.25, "orth_reg_weight": 0.05}
"""The defaults, written out: what a line was measured with does not change when they do."""
_SCREENED = _OURS | {"orth_reg_weight": 0.1}
"""The defaults from which each choice was changed alone."""
_FIRST_GUESS = _SCREENED | {"tfinal": 0.5}


def _variant(name: str, *, options: Mapping[str, Any] | None = None, **changes: Any) -> Method:
    """spectune, as it was with a penalty of 0.1, with one choice changed."""
    return Method(f"spectune, {name}", "spectune", _SCREENED | dict(options or {}), **changes)


_PAPER = {"tinit": 0.12, "tfinal": 0.49, "orth_reg_weight": 0.1, "lora_alpha": 16, "deltaT": 1}

BASELINES = (
    Method("frozen", "frozen"),
    Method("full fine-tuning", "full"),
    Method("PEFT LoRA", "lora"),
    Method("PEFT LoRA, rsLoRA scale", "lora", {"use_rslora": True}),
    Method("PEFT AdaLoRA, its defaults", "peft", {"init_r": 12}),
    Method("PEFT AdaLoRA, the paper's settings", "peft", _PAPER, ratio=1.5),
)

VARIANTS = (
    Method("spectune", "spectune", _OURS),
    Method("first guess: init_r 1.5 ×, freeze at 1/2", "spectune", _FIRST_GUESS, ratio=1.5),
    Method("first guess, init_r 4 ×", "spectune", _FIRST_GUESS, ratio=4.0),
    Method("first guess, init_r 8 ×", "spectune", _FIRST_GUESS, ratio=8.0),
    Method("first guess, init_r 4 ×, freeze at 3/4", "spectune", _SCREENED, ratio=4.0),
    Method("spectune, preset: fast", "spectune", {"orth_reg_weight": 0.1}, preset="fast"),
    Method("spectune, preset: best", "spectune", {"orth_reg_weight": 0.1}, preset="best"),
    _variant("init_r 16 ×", ratio=16.0),
    _variant("freeze at 9/10", options={"tfinal": 0.1}),
    _variant("random start", options={"init": "random"}),
    _variant("orthonormal start", options={"init": "orthonormal"}),
    _variant("rate of λ × 4", rate_of_values=4.0),
    _variant("half the rate for Q, β₂ 0.99", rate_of_queries=0.5, betas=(0.9, 0.99)),
    _variant("scale 8", scale=8.0),
    _variant("scale 0.5", scale=0.5),
    _variant("no penalty", options={"orth_reg_weight": 0.0}),
    _variant("penalty 0.01", options={"orth_reg_weight": 0.01}),
    _variant("penalty 0.1"),
    _variant("penalty 0.5", options={"orth_reg_weight": 0.5}),
    _variant("penalty not in the scores", options={"penalty_in_scores": False}),
    _variant("triplet importance", options={"importance": "triplet"}),
    _variant("importance after the update", options={"call_order": "peft"}),
    _variant("no smoothing", options={"beta1": 0.001, "beta2": 0.001}),
    _variant("longer smoothing", options={"beta1": 0.97, "beta2": 0.97}),
    _variant("permanent pruning", options={"pruning": "permanent"}),
    _variant("allocation every 20 steps", options={"deltaT": 20}),
    _variant("budget in parameters", by_parameters=True),
)

METHODS = {method.name: method for method in (*BASELINES, *VARIANTS)}
