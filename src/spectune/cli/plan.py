"""`spectune plan`: what a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectune.cli.arguments import config_from
from spectune.config import RunConfig
from spectune.errors import visible
from spectune.launch import world_size
from spectune.presets import in_this_run
from spectune.yaml_text import write_yaml

if TYPE_CHECKING:
    from spectune.memory.estimate import Memory
    from spectune.planning import Plan


def plan(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RUN.yaml [section.key=value]...", help="The run file; values that override it."),
    ],
) -> None:
    """Show a run's schedule, learning rate, targets, parameters and memory; trains nothing, reads no weights."""
    config = config_from(words)
    from spectune.planning import plan_run

    for line in list(_lines(config, plan_run(config))):  # a mistake found on the way leaves half a plan unprinted
        typer.echo(visible(line))


def _lines(config: RunConfig, plan: Plan) -> Iterator[str]:
    yield f"model      {plan.model} ({plan.architecture})"
    for position, line in enumerate(plan.data):
        yield f"{'data' if position == 0 else '':10} {line}"
    yield f"run        {_length(config, plan)}"
    yield from _preset_lines(config)
    yield ""
    yield from _schedule_lines(config, plan)
    yield ""
    yield f"learning rate ({plan.rate.kind}, peak {plan.rate.peak:.3g} at step {max(plan.rate.warmup_steps, 1):,})"
    for name, step in _boundaries(plan):
        yield f"  step {step:>7,}  {plan.rate.at(step):<9.3g}  {name}"
    yield ""
    yield f"targets    {len(plan.targets)} matrices"
    for block, roles in plan.targets_by_role().items():
        counts = ", ".join(f"{role} {count}" for role, count in roles.items())
        yield f"  {block.replace('_', '-'):<24} {counts}"
    yield ""
    yield from _size_lines(plan)
    for note in (*plan.memory.cut, *plan.notes):
        yield f"note: {note}"


def _preset_lines(config: RunConfig) -> Iterator[str]:
    """What of the preset holds in this run, and what the run file has otherwise."""
    if config.preset is None:
        return
    same, other = in_this_run(config.preset, config.model_dump(exclude={"preset"}))
    yield f"preset     {config.preset}"
    for section, entries in same.items():
        yield from _pairs(section, entries)
    yield from _pairs(
        "otherwise", {f"{section}.{key}": value for section, entries in other.items() for key, value in entries.items()}
    )


def _pairs(title: str, entries: Mapping[str, Any]) -> Iterator[str]:
    said = ", ".join(write_yaml({key: value}).strip().replace(": ", " ", 1) for key, value in entries.items())
    lines = wrap(said, width=100)
    yield from (f"  {title if number == 0 else '':<10} {line}" for number, line in enumerate(lines))


def _length(config: RunConfig, plan: Plan) -> str:
    lengths, train = plan.lengths, config.train
    batch = f"batches of {train.per_device_train_batch_size}"
    if train.gradient_accumulation_steps > 1:
        batch += f" × {train.gradient_accumulation_steps}"
    if world_size() > 1:
        batch += f" in each of {world_size()} processes"
    if lengths.rows is None or lengths.steps_per_epoch is None:
        streamed = ", rows streamed, their number unknown" if config.data.streaming else ""
        return f"{lengths.total_step:,} steps, {batch}{streamed}"
    epochs = lengths.total_step / lengths.steps_per_epoch
    return (
        f"{lengths.total_step:,} steps: {lengths.rows:,} rows in {batch}, "
        f"{lengths.steps_per_epoch:,} steps an epoch, {epochs:.3g} epochs"
    )


def _schedule_lines(config: RunConfig, plan: Plan) -> Iterator[str]:
    schedule = plan.schedule
    start, target = plan.initial_budget, plan.target_budget
    counted = "triplets (rank over all matrices)" if plan.parameters.room is None else "parameters of all triplets"
    yield (
        f"schedule   init_r {schedule.init_r} → {config.adapter.target}, tinit {schedule.tinit:,}, "
        f"freeze_step {schedule.freeze_step:,}, tfinal {schedule.tfinal:,}, deltaT {schedule.deltaT:,}"
    )
    yield f"  {'phase':<9} {'steps':>17}  {counted}"
    for phase, (first, last) in schedule.phases().items():
        at_start = start if phase != "frozen" else target
        at_end = schedule.budget(last, start, target)
        change = f"{at_start:,}" if at_start == at_end else f"{at_start:,} → {at_end:,}"
        yield f"  {phase:<9} {f'{first:,} – {last:,}':>17}  {change}"
    yield f"  {schedule.allocations:,} allocations"


def _boundaries(plan: Plan) -> list[tuple[str, int]]:
    schedule, rate = plan.schedule, plan.rate
    named = {
        1: "first step",
        max(rate.warmup_steps, 1): "end of the learning rate's warm-up",
        max(schedule.tinit, 1): "tinit: the budget starts to fall",
        schedule.freeze_step: "freeze_step: the survivors are fixed",
        schedule.total_step: "last step",
    }
    return [(name, step) for step, name in sorted(named.items())]


def _size_lines(plan: Plan) -> Iterator[str]:
    counts = plan.parameters
    yield f"parameters {counts.total:,} in the base model"
    start, after = counts.trainable_at_start, counts.trainable_after_freeze
    yield f"  {start:>12,}  trainable at the start ({_percent(start, counts.total + start)} of base and adapter)"
    yield f"  {after:>12,}  after the freeze, about ({_percent(after, counts.total + after)} of base and adapter)"
    yield f"  {_size(counts.saved_bytes):>12}  adapter file, about"
    yield from _memory_lines(plan.memory)


def _memory_lines(memory: Memory) -> Iterator[str]:
    whose = "the largest of its own batches" if memory.from_rows else "batches at full length"
    yield f"memory     {_size(memory.total)} at the peak on a CPU, an estimate at {whose}"
    yield f"  {_size(memory.base):>12}  base weights"
    yield f"  {_size(memory.adapter):>12}  adapter, gradients, optimizer, importance"
    yield f"  {_size(memory.training):>12}  activations and logits of a step, {memory.batch} tokens"
    if memory.start:
        yield f"  {_size(memory.start):>12}  gradients of whole matrices before the first step"
    evaluation = f"{memory.evaluation_batch} tokens"
    yield f"  {_size(memory.evaluation):>12}  or, if that is more, an evaluation and its caches, {evaluation}"
    yield f"  {_size(memory.process):>12}  the process beside them"
    yield f"  {'0.5 GB':>12}  imported libraries, about, not in the sum"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
