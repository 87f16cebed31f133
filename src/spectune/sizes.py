"""How large a run is: parameters and bytes, from the base model's skeleton, without weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from spectune.adapter.schedule import RankSchedule, check_budget
from spectune.budget import header_bytes, parse_budget
from spectune.config import ModelConfig, RunConfig
from spectune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_QUANTIZED_BYTES = {None: 0.0, "int8": 1.0, "nf4": 0.516}  # a number, with its share of the scales


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameter counts; those after the freeze are estimates, since importance decides which matrices keep what."""

    total: int
    triplets_at_start: int
    """Parameters of all triplets."""
    room: int | None
    """Parameters that the triplets may have after the freeze, where `adapter.budget` says so."""
    trainable_at_start: int
    trainable_after_freeze: int
    saved: int
    saved_bytes: int
    """Of the file of weights, its header included."""


def find_modules(config: RunConfig, model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the matrices to adapt; what else is to be trained is looked up, too.

    Raises:
        ConfigError: a name or number that matches nothing in `model`, which may be a skeleton.
    """
    from spectune.adapter.targets import resolve_targets

    adapter = config.adapter
    targets = resolve_targets(model, adapter.target_modules, adapter.exclude_modules, adapter.layers_to_transform)
    _trained_beside(config, model, tuple(targets))
    return tuple(targets)


def parameters_of(config: RunConfig, model: PreTrainedModel, targets: tuple[str, ...]) -> Parameters:
    """Numbers in the base, in training at the start, after the freeze, and in the saved adapter.

    Raises:
        ConfigError: an `adapter.budget` that holds no triplet, or all of them.
    """
    rank, shapes = config.adapter.resolved_init_r, [shape_of(model, name) for name in targets]
    costs, beside = [rows + columns + 1 for rows, columns in shapes], _trained_beside(config, model, targets)
    entries = _entries(rank, dict(zip(targets, shapes, strict=True)))
    at_start, whole, room = rank * sum(costs), sum(beside), None
    if config.adapter.budget is not None:
        room = parse_budget(config.adapter.budget).room(entries, beside)
        check_budget(room, initial=at_start, dearest=max(costs), init_r=rank)
    after = room if room is not None else (config.adapter.target_r or 0) * sum(costs)
    return Parameters(
        total=sum(parameter.numel() for parameter in model.parameters()),
        triplets_at_start=at_start,
        room=room,
        trainable_at_start=at_start + whole,
        trainable_after_freeze=after + whole,
        saved=after + whole,
        saved_bytes=header_bytes(entries) + 4 * (after + whole),
    )


def _entries(rank: int, shapes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the triplets' tensors in a saved adapter of full rank."""
    entries: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in shapes.items():
        parts = {"lora_A": (rank, columns), "lora_B": (rows, rank), "lora_E": (rank, 1)}
        entries |= {f"base_model.model.{name}.{kind}": shape for kind, shape in parts.items()}
    return entries


def with_room(schedule: RankSchedule, room: int | None, at_start: int) -> RankSchedule:
    """The schedule with the average rank that a budget comes to, which is what PEFT's configuration can hold."""
    if room is None:
        return schedule
    return replace(schedule, target_r=max(1, round(schedule.init_r * room / at_start)))


def shape_of(model: PreTrainedModel, name: str) -> tuple[int, int]:
    """(out features, in features) of a linear map."""
    rows, columns = cast("Tensor", model.get_submodule(name).weight).shape
    return rows, columns


def base_bytes(config: ModelConfig, model: PreTrainedModel, number: int) -> int:
    """Bytes of the base's weights.

    Args:
        number: bytes of one that is not quantised.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    quantized = sum(cast("Tensor", model.get_submodule(name).weight).numel() for name in quantized_maps(config, model))
    return round((total - quantized) * number + quantized * _QUANTIZED_BYTES[config.quantization])


def quantized_maps(config: ModelConfig, model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the linear maps in 8 or 4 bits: all but the output map and what the family keeps in float32."""
    if config.quantization is None:
        return ()
    kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ()), "lm_head"}
    named = model.named_modules()
    return tuple(name for name, one in named if type(one).__name__ == "Linear" and not kept & set(name.split(".")))


def _trained_beside(config: RunConfig, model: PreTrainedModel, targets: tuple[str, ...]) -> list[int]:
    """Sizes of what is trained and saved beside the matrices: whole modules, biases, token embeddings."""
    return [*_modules_in_full(config, model), *_biases(config, model, targets), *_tokens(config, model)]


def _biases(config: RunConfig, model: PreTrainedModel, targets: tuple[str, ...]) -> list[int]:
    if config.adapter.bias == "none":
        return []
    mine = {f"{name}.bias" for name in targets}
    named = [(name, parameter) for name, parameter in model.named_parameters() if "bias" in name]  # PEFT's own rule
    return [parameter.numel() for name, parameter in named if config.adapter.bias == "all" or name in mine]


def _tokens(config: RunConfig, model: PreTrainedModel) -> list[int]:
    tokens = config.adapter.trainable_token_indices or []
    vocabulary, width = cast("Tensor", model.get_input_embeddings().weight).shape
    if tokens and max(tokens) >= vocabulary:
        raise ConfigError(
            f"adapter.trainable_token_indices: {max(tokens)} is no token of {config.model.model_name_or_path}, "
            f"which has 0 to {vocabulary - 1}"
        )
    return [len(set(tokens)) * width] if tokens else []


def _modules_in_full(config: RunConfig, model: PreTrainedModel) -> list[int]:
    found: list[int] = []
    for entry in config.adapter.modules_to_save or []:
        modules = [module for name, module in model.named_modules() if name == entry or name.endswith(f".{entry}")]
        if not modules:
            raise ConfigError(f"adapter.modules_to_save: {entry!r} is no module of {config.model.model_name_or_path}")
        found += [parameter.numel() for module in modules for parameter in module.parameters()]
    return found
