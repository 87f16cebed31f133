"""The rank schedule of a Trainer's run: its number of steps, and the phases that the config or the callback name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from spectune.adapter.schedule import RankSchedule, resolve_schedule
from spectune.config import AdapterConfig
from spectune.errors import ConfigError

_PHASES = ("tinit", "tfinal", "deltaT")
_UNTOUCHED = {"tinit": 0, "tfinal": 0, "deltaT": 1}  # PEFT's defaults: nobody has chosen a schedule
_PLACEHOLDER = {"total_step": 2, "tinit": 0, "tfinal": 0, "deltaT": 1}


@dataclass(frozen=True)
class Phases:
    """tinit, tfinal and deltaT in steps or fractions; None where not given."""

    tinit: int | float | None = None
    tfinal: int | float | None = None
    deltaT: int | Literal["auto"] | None = None  # noqa: N815 - PEFT's option name

    @classmethod
    def of_config(cls, config: Any) -> Phases:
        """Those of a PEFT config, unless it has all three as PEFT does by default."""
        found = {name: getattr(config, name) for name in _PHASES}
        return cls() if found == _UNTOUCHED else cls(**found)

    def over(self, other: Phases) -> Phases:
        """These, and those of `other` where these are not given."""
        own, others = asdict(self), asdict(other)
        return Phases(**{name: others[name] if own[name] is None else own[name] for name in _PHASES})


def schedule_of_run(
    total_step: int, *, asked: Phases, config: Phases, init_r: int, target_r: int
) -> tuple[RankSchedule, str | None]:
    """The schedule of a run of `total_step` optimizer steps.

    Args:
        asked: what the callback was told; goes first.
        config: what the AdaLoRA config says. Where that leaves no step for the decrease, spectune's defaults are taken.

    Returns:
        The schedule, and a line to warn with if the config's phases could not be had.

    Raises:
        ConfigError: phases that were asked for leave no step for the decrease.
    """
    fields = AdapterConfig.model_fields
    defaults = Phases(**{name: fields[name].default for name in _PHASES})

    def resolved(phases: Phases) -> RankSchedule:
        given: dict[str, Any] = asdict(phases.over(defaults))
        return resolve_schedule(total_step=total_step, init_r=init_r, target_r=target_r, **given)

    try:
        return resolved(asked.over(config)), None
    except (ConfigError, TypeError) as error:
        schedule = resolved(asked)
        return schedule, (
            f"the AdaLoRA config's tinit {config.tinit}, tfinal {config.tfinal} and deltaT {config.deltaT} do not fit "
            f"the Trainer's {total_step:,} steps ({error}); {words(schedule)} instead"
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
    try:
        RankSchedule(**{name: getattr(config, name) for name in RankSchedule.__dataclass_fields__})
    except (ConfigError, TypeError):
        for name, value in _PLACEHOLDER.items():
            setattr(config, name, value)
