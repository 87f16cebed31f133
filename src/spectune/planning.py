"""What a run will do, worked out from its configuration, its data and the base model's configuration: no weights."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spectune.adapter.roles import role_of
from spectune.adapter.schedule import RankSchedule, resolve_schedule
from spectune.base_model import load_tokenizer, locate_model, skeleton
from spectune.config import RunConfig, TrainConfig
from spectune.data.languages import check_language_options, set_languages
from spectune.data.locations import resolve_data_path
from spectune.data.prepare import PreparedData, prepare_data
from spectune.data.tokenization import check_lengths
from spectune.data.windows import windows_per_epoch
from spectune.errors import ConfigError, DataError, ModelError
from spectune.evaluation.metrics import check_rows, choose_metrics
from spectune.families import attention_block, family_notes
from spectune.formats.adapter_files import check_start
from spectune.launch import world_size
from spectune.memory.estimate import Memory, memory_of
from spectune.memory.lengths import Largest, largest_batches
from spectune.sizes import Parameters, find_modules, parameters_of, with_room
from spectune.training.learning_rate import LearningRate, resolve_learning_rate
from spectune.training.trackers import check_trackers

MOST_STEPS = 2**31 - 1
_LEAST_SCALE, _LEAST_RATE = 0.5, 2e-4  # below, short runs do not leave λ = 0 (PEFT's own benchmark: 0.125 and 1e-4)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the run is."""

    rows: int | None
    """Training rows; None where they are streamed, or the data was not found, and `max_steps` is given."""
    steps_per_epoch: int | None
    total_step: int


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What can be said, and refused, of a run before torch is imported."""

    data: PreparedData | None
    """None where the table is missing and `max_steps` is given; `plan` bears that, `train` does not."""
    lengths: Lengths
    schedule: RankSchedule
    rate: LearningRate
    base: str
    """Directory or hub id of the base model."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `spectune plan` shows."""

    model: str
    architecture: str
    lengths: Lengths
    schedule: RankSchedule
    rate: LearningRate
    targets: tuple[str, ...]
    parameters: Parameters
    reckon: Callable[[], Memory]
    """Works out `memory`, which takes a second or so."""
    data: tuple[str, ...]
    """What the data's report says, line by line."""
    notes: tuple[str, ...]

    @cached_property
    def memory(self) -> Memory:
        """Peak memory, part by part; worked out when first asked for.

        Raises a `UserError` for rows that the tokenizer refuses.
        """
        return self.reckon()

    @property
    def initial_budget(self) -> int:
        """Triplets at the start, or their parameters where `adapter.budget` counts those."""
        room = self.parameters.room
        return self.schedule.init_r * len(self.targets) if room is None else self.parameters.triplets_at_start

    @property
    def target_budget(self) -> int:
        """What the triplets may take after the freeze, in the same unit."""
        room = self.parameters.room
        return self.schedule.target_r * len(self.targets) if room is None else room

    def targets_by_role(self) -> dict[str, dict[str, int]]:
        """`count_roles` of the targets."""
        return count_roles(self.targets)


def count_roles(targets: Iterable[str]) -> dict[str, dict[str, int]]:
    """Stack and block (`encoder self_attention`) → role (`q`) → number of matrices among these modules."""
    counts: dict[str, dict[str, int]] = {}
    for name in targets:
        place = role_of(name)
        roles = counts.setdefault(f"{place.stack} {place.block}".strip() or "other", {})
        roles[place.role or "other"] = roles.get(place.role or "other", 0) + 1
    return counts


def plan_run(config: RunConfig) -> Plan:
    """Resolve the whole run and train nothing.

    Raises a `UserError` for whatever `spectune train` would refuse before its first step.
    """
    if config.adapter.init_from is not None:
        check_start(config.adapter.init_from, config.adapter.resolved_init_r)
    outline = outline_run(config, data_required=False)
    model = skeleton(config.model)
    notes = [*outline.notes, *check_lengths(config.data, model.config, evaluation=config.evaluation)]
    from spectune.training.sharding import planned_sharding  # with torch, which the skeleton has brought

    notes += [*family_notes(config, model), *planned_sharding(config, model, world_size())]
    _check_dtype(config, model.config)
    if config.data.source_lang is not None:  # a code that the tokenizer does not know
        set_languages(load_tokenizer(outline.base, config.model), config.data)
    targets = find_modules(config, model)
    parameters = parameters_of(config, model, targets)
    return Plan(
        model=config.model.model_name_or_path,
        architecture=type(model).__name__,
        lengths=outline.lengths,
        schedule=with_room(outline.schedule, parameters.room, parameters.triplets_at_start),
        rate=outline.rate,
        targets=targets,
        parameters=parameters,
        reckon=lambda: memory_of(
            config, model, targets, parameters, _largest(config, outline, attention_block(model.config))
        ),
        data=tuple(outline.data.report.lines()) if outline.data is not None else (),
        notes=tuple(notes),
    )


def _check_dtype(config: RunConfig, base_config: Any) -> None:
    from spectune.training.device import check_dtype, kind_of  # with torch, which the skeleton has brought

    check_dtype(config.model.dtype, kind_of(base_config))


def _largest(config: RunConfig, outline: Outline, source_block: int) -> Largest:
    """The largest batches; of the run's own rows where data and tokenizer are at hand."""
    lengths, tokenizer = outline.lengths, None
    with suppress(ModelError):  # `train` will say so
        tokenizer = load_tokenizer(outline.base, config.model) if outline.data is not None else None
    if tokenizer is not None:
        set_languages(tokenizer, config.data)
    epochs = lengths.total_step / (lengths.steps_per_epoch or 1)
    return largest_batches(config, outline.data, tokenizer, epochs, source_block)


def outline_run(config: RunConfig, *, data_required: bool = True) -> Outline:
    """Check data, metrics, schedule, learning rate and the base model's place, in this order, without torch.

    Raises a `UserError` for the first thing that is wrong. Without `data_required` a missing table is a note if
    `max_steps` says how long the run is.
    """
    notes: list[str] = []
    data: PreparedData | None = None
    _check_streaming(config)
    try:
        data = prepare_data(config.data, seed=config.train.seed)
    except DataError as error:
        if data_required or config.train.max_steps is None or not _table_is_missing(config):
            raise
        notes.append(f"the data was not read, the steps are train.max_steps: {error}")
    lengths = run_lengths(config.train, data.train_rows if data is not None else None)
    if data is not None:
        _check_evaluation(config, data)
    schedule = schedule_of(config, lengths.total_step)
    rate = learning_rate_of(config, schedule)
    notes += [*_tuning_notes(config), *_streaming_notes(config)]
    _check_library(config)
    check_trackers(config.train.report_to)
    base = locate_model(config.model)
    check_language_options(config.data, base)
    return Outline(
        data=data,
        lengths=lengths,
        schedule=schedule,
        rate=rate,
        base=base,
        notes=tuple(notes),
    )


def _check_evaluation(config: RunConfig, data: PreparedData) -> None:
    """Refuse metrics that this task does not have, and choices that need rows which are not there."""
    evaluation = config.evaluation
    if evaluation.constrain_labels and data.verbalizer is None:
        change = f"which task {data.task} has none of; set data.task: classification, or constrain_labels: false"
        raise ConfigError(f"evaluation.constrain_labels needs labels, {change}")
    names = choose_metrics(evaluation.metrics, evaluation.metric_for_best_model, data.task, evaluation.constrain_labels)
    scored = (example.target for rows in (data.validation or data.train, data.test) for example in rows)
    check_rows(names[0], scored, data.verbalizer.words if data.verbalizer else None)
    if evaluation.early_stopping_patience is not None and not data.validation:
        raise ConfigError("evaluation.early_stopping_patience needs validation rows; give data.validation_file")


def _tuning_notes(config: RunConfig) -> list[str]:
    """What is allowed and will disappoint: PEERS' commonest reasons for an AdaLoRA that does not learn."""
    adapter, notes = config.adapter, []
    if adapter.resolved_init_r == adapter.target_r:
        notes.append("init_r equals target_r: no rank will move; leave init_r out, or give a larger one")
    scale = adapter.resolved_lora_alpha / adapter.resolved_init_r
    if scale < _LEAST_SCALE:
        notes.append(
            f"lora_alpha / init_r is {scale:.3g}: so small a scale under-trains; lora_alpha: auto gives 2 × init_r"
        )
    if config.train.learning_rate < _LEAST_RATE:
        notes.append(
            f"learning_rate {config.train.learning_rate:g} under-trains: λ starts at 0 and AdaLoRA wants about 1e-3"
        )
    return notes


def _check_streaming(config: RunConfig) -> None:
    if config.data.streaming and config.train.max_steps is None:
        raise ConfigError("data.streaming does not know how many rows an epoch has; give train.max_steps")


def _streaming_notes(config: RunConfig) -> list[str]:
    """A stream may be so long that its epoch never ends, and then nothing is evaluated or saved on the way."""
    if not config.data.streaming or config.evaluation.eval_strategy != "epoch":
        return []
    saves = "" if config.train.save_steps is not None else ", and nothing is saved before that without train.save_steps"
    return [
        "the end of a streamed epoch is only known when it comes: eval_strategy epoch evaluates there and at the last "
        f"step{saves}; eval_strategy: steps with eval_steps evaluates in between"
    ]


def _check_library(config: RunConfig) -> None:
    if config.model.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization {config.model.quantization} needs the bitsandbytes library; pip install bitsandbytes"
        )


def _table_is_missing(config: RunConfig) -> bool:
    return config.data.train_file is not None and not resolve_data_path(config.data.train_file).exists()


def run_lengths(train: TrainConfig, rows: int | None) -> Lengths:
    """Optimizer steps of an epoch and of the run: max_steps, else num_train_epochs (rounded up, as in transformers).

    A step takes the batches of all processes, as many as `launch.world_size` says.
    """
    steps, processes = None, world_size()
    if rows is not None:
        if rows < processes:
            raise DataError(f"{rows} training rows cannot be shared out among {processes} processes; start fewer")
        steps = windows_per_epoch(
            rows,
            batch_size=train.per_device_train_batch_size,
            accumulation_steps=train.gradient_accumulation_steps,
            world_size=processes,
        )
    if train.max_steps is not None:
        return Lengths(rows=rows, steps_per_epoch=steps, total_step=train.max_steps)
    if steps is None:
        raise ConfigError("without its data the length of the run is unknown; give train.max_steps")
    total = steps * train.num_train_epochs
    if total > MOST_STEPS:
        raise ConfigError(f"the run would have {total:.3g} steps; lower train.num_train_epochs")
    return Lengths(rows=rows, steps_per_epoch=steps, total_step=math.ceil(total))


def schedule_of(config: RunConfig, total_step: int) -> RankSchedule:
    """The rank schedule of a run of `total_step` optimizer steps."""
    adapter = config.adapter
    return resolve_schedule(
        total_step=total_step,
        tinit=adapter.tinit,
        tfinal=adapter.tfinal,
        deltaT=adapter.deltaT,
        init_r=adapter.resolved_init_r,
        target_r=adapter.target_r or 1,  # with a budget, `with_room` puts in what that comes to
    )


def learning_rate_of(config: RunConfig, schedule: RankSchedule) -> LearningRate:
    """The learning rate of a run, laid out with its schedule."""
    train = config.train
    return resolve_learning_rate(
        peak=train.learning_rate, kind=train.lr_scheduler_type, warmup_ratio=train.warmup_ratio, schedule=schedule
    )
