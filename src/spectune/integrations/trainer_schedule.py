"""The rank schedule of a Trainer's run: its number of steps, and the phases that the config or the callback name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from spectune.adapter.schedule import RankSchedule, resolve_schedule
from spectune.config import AdapterConfig
from spectune.errors import ConfigError

_PHASES = ("tinit", "tfinal", "deltaT")
_UNTOUCHED = {"tinit": 0, "tfinal": 0, "deltaT": 1}  # PEFT's defaults: nobody has chosen a schedule
_REMEMBERED = "phases_given"
_PLACEHOLDER = {"total_step": 2, "tinit": 0, "tfinal": 0, "deltaT": 1}


@dataclass(frozen=True)
class Phases:
    """tinit, tfinal and deltaT in steps or fractions; None where not given."""

    tinit: int | float | None = None
    tfinal: int | float | None = None
    deltaT: int | Literal["auto"] | None = None  # noqa: N815 - PEFT's option name
    of_run: int | None = None
    """Steps of the run that they were laid out for, where that is known."""

    def __str__(self) -> str:
        return f"the AdaLoRA config's tinit {self.tinit}, tfinal {self.tfinal} and deltaT {self.deltaT}"

    @classmethod
    def of_config(cls, config: Any) -> Phases:
        """Those of a PEFT config: no tinit or tfinal of 0, which is PEFT's default, nor a deltaT of 1 alone."""
        found = {name: getattr(config, name) for name in _PHASES}
        if found == _UNTOUCHED:
            return cls()
        of_run = config.total_step if _possible(config) else None  # a placeholder is none
        return cls(found["tinit"] or None, found["tfinal"] or None, found["deltaT"], of_run)

    def over(self, other: Phases) -> Phases:
        """These, and those of `other` where these are not given."""
        own, others = asdict(self), asdict(other)
        return Phases(**{name: others[name] if own[name] is None else own[name] for name in _PHASES})


def phases_of(config: Any, tuner: Any) -> Phases:
    """What a person has put into the config: not what an earlier run of this model has written there."""
    given, written = getattr(tuner, _REMEMBERED, (None, None))
    return given if given is not None and written == _fields(config) else Phases.of_config(config)


def remember_phases(config: Any, tuner: Any, given: Phases) -> None:
    """Beside the model, for a later Trainer of it: that the config, as it is now, was written by a run."""
    setattr(tuner, _REMEMBERED, (given, _fields(config)))


def schedule_of_run(
    total_step: int, *, asked: Phases, given: Phases, init_r: int, target_r: int
) -> tuple[RankSchedule, str | None]:
    """The schedule of a run of `total_step` optimizer steps.

    Args:
        asked: what the callback was told; goes first.
        given: what the AdaLoRA config says. Where that leaves no step for the decrease, spectune's defaults are taken.

    Returns:
        The schedule, and a line to warn with if the config's phases could not be had.

    Raises:
        ConfigError: phases that were asked for leave no step for the decrease.
    """
    fields = AdapterConfig.model_fields
    defaults = Phases(**{name: fields[name].default for name in _PHASES})

    def resolved(phases: Phases) -> RankSchedule:
        over = phases.over(defaults)
        values: dict[str, Any] = {name: getattr(over, name) for name in _PHASES}
        return resolve_schedule(total_step=total_step, init_r=init_r, target_r=target_r, **values)

    try:
        return resolved(asked.over(given)), None
    except (ConfigError, TypeError) as error:
        schedule = resolved(asked)
        return schedule, f"{given} do not fit the Trainer's {total_step:,} steps ({error}); {words(schedule)} instead"


def remark_on_length(schedule: RankSchedule, given: Phases) -> str | None:
    """A line where the config's phases hold in a run of another length than they were laid out for."""
    taken = given.tinit == schedule.tinit or given.tfinal == schedule.tfinal
    if given.of_run in (None, schedule.total_step) or not taken:
        return None
    return (
        f"{given} were laid out for {given.of_run:,} steps, and the Trainer has {schedule.total_step:,}: "
        f"{words(schedule)}; AdaLoraCallback(tinit=…, tfinal=…) says otherwise"
    )


def words(schedule: RankSchedule) -> str:
    """A schedule in half a line."""
    return (
        f"tinit {schedule.tinit:,}, decrease until step {schedule.freeze_step:,} (every {schedule.deltaT:,}), "
        f"tfinal {schedule.tfinal:,}"
    )


def write_schedule(config: Any, schedule: RankSchedule) -> None:
    """Have the PEFT config, which is saved with the adapter, say what is done."""
    for name in _PLACEHOLDER:
        setattr(config, name, getattr(schedule, name))


def make_attachable(config: Any) -> None:
    """Replace a schedule that no run could have (such as a total_step of None) until the number of steps is known."""
    if not _possible(config):
        for name, value in _PLACEHOLDER.items():
            setattr(config, name, value)


def _possible(config: Any) -> bool:
    try:
        RankSchedule(**{name: getattr(config, name) for name in RankSchedule.__dataclass_fields__})
    except (ConfigError, TypeError):
        return False
    return True


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _PLACEHOLDER}
