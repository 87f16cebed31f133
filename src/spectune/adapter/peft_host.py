"""Puts the engine into a `PeftModel`, and takes it out again.

With `peft_classes`, `peft_entries` and `peft_inference` this is what knows PEFT: its objects are kept, and change class
to a child of their own class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Literal, cast

import torch
from peft import AdaLoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.adalora.layer import AdaLoraLayer, RankAllocator
from torch import Tensor, nn

from spectune.adapter.bank import Bank
from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.former import FormerTensors
from spectune.adapter.linear import Factors
from spectune.adapter.options import EngineOptions
from spectune.adapter.peft_classes import (
    HostedLayer,
    HostedPeftModel,
    HostedTuner,
    hosted_class,
    plain_class,
)
from spectune.adapter.peft_entries import (
    ENTRIES,
    LoadedHook,
    LoadingHook,
    RefreshHook,
    kept_rows,
    make_aliases,
    sync_rank_pattern,
)
from spectune.adapter.schedule import RankSchedule
from spectune.adapter.store import Matrix, TripletStore
from spectune.errors import AdapterError

_log = logging.getLogger("spectune")
BANKS = "triplet_banks"  # attribute of the tuner


def attach(
    model: PeftModel,
    *,
    penalty: Literal["loss", "step"] = "loss",
    importance: Literal["elementwise", "triplet"] = "elementwise",
    pruning: Literal["revivable", "permanent"] = "revivable",
    budget: int | None = None,
) -> AdaLoraEngine:
    """Replace PEFT's AdaLoRA inside `model`, in place, by the engine.

    Works on a fresh `get_peft_model(…, AdaLoraConfig(…))` and on an adapter loaded with `is_trainable=True`. Make the
    optimizer after it, over `engine.parameters()` or `model.parameters()`.

    Args:
        model: a `PeftModel` with a trainable AdaLoRA adapter.
        penalty: "loss" adds the orthogonality penalty to the training-mode loss, as PEFT does; "step" leaves it to
            `engine.add_orthogonality_gradient()`.
        importance: "elementwise" (the paper) or "triplet", |λ · ∂L/∂λ|.
        pruning: "revivable" (the paper) or "permanent".
        budget: parameters that the triplets may have after the freeze, in place of the config's target_r; ranks then
            go where a parameter is worth most.

    Raises:
        AdapterError: no AdaLoRA adapter, none that is trainable, attached already, or a convolution.
        ConfigError: an option that is none, a schedule that never reaches its target, or a budget that holds nothing or
            everything.
    """
    tuner, name, config = _trainable_adapter(model)
    schedule = RankSchedule(**{field: getattr(config, field) for field in RankSchedule.__dataclass_fields__})
    if schedule.init_r == schedule.target_r and budget is None:
        _log.warning("init_r and target_r are both %d, so no rank will move; raise init_r", schedule.init_r)
    store = _make_store(_adapted_layers(tuner, name), name, config)
    averaging = {field: getattr(config, field) for field in ("beta1", "beta2", "orth_reg_weight")}
    options = EngineOptions(**averaging, penalty=penalty, importance=importance, pruning=pruning, budget=budget)
    _keep_weights_trainable(tuner.model)
    _house(store, tuner, name)
    banks = {id(bank.rows) for bank in store.banks}
    extra = [p for p in model.parameters() if p.requires_grad and id(p) not in banks]
    engine = AdaLoraEngine(store, schedule, options, extra)
    _change_classes(model, tuner, engine, name)
    return engine


def _house(store: TripletStore, tuner: Any, name: str) -> None:
    """The banks become the tuner's, PEFT's entries aliases of their rows."""
    setattr(tuner, BANKS, nn.ModuleDict(store.named_banks()))
    for matrix in store.matrices:  # its cast to float32, of a base in lower precision, has made PEFT's scale trainable
        matrix.layer.ranknum[name].requires_grad_(False)
    tuner.former_tensors = FormerTensors(
        getattr(matrix.layer, kind)[name] for matrix in store.matrices for kind in ENTRIES
    )
    store.realias()


def detach(model: PeftModel) -> PeftModel:
    """Give plain PEFT back, in place: its own classes, entries of their own, its allocator, a true rank pattern.

    Raises:
        AdapterError: nothing is attached.
    """
    tuner: Any = model.base_model
    if not isinstance(tuner, HostedTuner):
        raise AdapterError("detach() found no engine; the model is plain PEFT already")
    engine, name = tuner.engine, tuner.hosted_adapter
    sync_rank_pattern(tuner)
    for matrix, saved in zip(engine.store.matrices, engine.saved(), strict=True):
        # PEFT's pattern is init_r long: the rows must be all of those or exactly the ones that it names
        whole = len(saved) == engine.schedule.init_r
        _give_entries_back(matrix.layer, name, torch.tensor(saved, dtype=torch.bool).logical_or_(torch.tensor(whole)))
    for hook in tuner.host_hooks:
        hook.remove()
    delattr(tuner, BANKS)
    tuner.__dict__.pop("restore", None)
    del tuner.engine, tuner.hosted_adapter, tuner.host_hooks, tuner.former_tensors
    tuner.__class__ = plain_class(tuner)
    model.__class__ = plain_class(model)
    host = cast(Any, tuner)
    host.rankallocator = RankAllocator(host.model, host.peft_config[name], name)
    return model


def _give_entries_back(layer: Any, name: str, kept: Tensor) -> None:
    for kind in ENTRIES:
        entries = getattr(layer, kind)
        entries[name] = nn.Parameter(kept_rows(kind, entries[name].detach(), kept))
    del layer.factors, layer.hosted_adapter, layer.quantized
    layer.__class__ = plain_class(layer)


def _trainable_adapter(model: Any) -> tuple[Any, str, AdaLoraConfig]:
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, AdaLoraModel):
        raise AdapterError(
            f"attach() needs a PeftModel with an AdaLoRA adapter, got {type(model).__name__}; "
            "call get_peft_model(model, AdaLoraConfig(...)) first"
        )
    tuner = model.base_model
    if isinstance(tuner, HostedTuner):
        raise AdapterError("the engine is attached to this model already; detach(model) first to attach anew")
    trainable = [name for name, config in tuner.peft_config.items() if not config.inference_mode]
    if not trainable:
        raise AdapterError("no adapter of this model is trainable; load it with is_trainable=True")
    return tuner, trainable[0], cast(AdaLoraConfig, tuner.peft_config[trainable[0]])


def _keep_weights_trainable(model: nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights at their first use without gradient, on processors with bfloat16 units: their
    scales lose digits, widths that 32 does not divide fail, and no gradient passes through them any more."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _adapted_layers(tuner: Any, name: str) -> list[tuple[str, Any]]:
    layers = [
        (path, module)
        for path, module in tuner.model.named_modules()
        if isinstance(module, AdaLoraLayer) and name in module.lora_A
    ]
    for path, layer in layers:
        if isinstance(layer.get_base_layer(), nn.Conv2d):
            raise AdapterError(f"{path} is a convolution; spectune adapts linear maps, name others in target_modules")
    return layers


def _make_store(layers: list[tuple[str, Any]], name: str, config: AdaLoraConfig) -> TripletStore:
    ranks = [layer.lora_E[name].shape[0] for _, layer in layers]
    first = [0, *accumulate(ranks)]
    device = layers[0][1].lora_E[name].device

    def bank(kind: str, members: list[int], take: Callable[[Tensor], Tensor]) -> Bank:
        rows = torch.cat([take(_master(getattr(layers[member][1], kind)[name])) for member in members])
        numbers = [torch.arange(first[member], first[member + 1], device=device) for member in members]
        return Bank(rows.contiguous(), torch.cat(numbers), members, [ranks[member] for member in members])

    store = TripletStore(
        matrices=[],
        values=bank("lora_E", list(range(len(layers))), Tensor.flatten),
        queries=[bank("lora_A", group, lambda entry: entry) for group in _groups(layers, "in_features")],
        outputs=[bank("lora_B", group, Tensor.t) for group in _groups(layers, "out_features")],
        scale=_scale(layers, name),
        adapter_name=name,
        make_aliases=make_aliases,
    )
    store.matrices.extend(
        Matrix(path, layer, Factors(store), _slots(config, path, rank))
        for (path, layer), rank in zip(layers, ranks, strict=True)
    )
    return store


def _master(entry: Tensor) -> Tensor:
    """An entry in the precision of the banks: at least fp32."""
    return entry.detach().to(torch.promote_types(entry.dtype, torch.float32))


def _scale(layers: list[tuple[str, Any]], name: str) -> float:
    scales = {
        layer.scaling[name] / (float(layer.ranknum[name].detach()) + 1e-5)
        for _, layer in layers
        if layer.lora_E[name].numel()
    }
    if len(scales) > 1:
        raise AdapterError(f"the matrices have different scales ({sorted(scales)}); one lora_alpha is supported")
    return scales.pop() if scales else 1.0


def _groups(layers: list[tuple[str, Any]], width: str) -> list[list[int]]:
    """Numbers of the matrices that share a bank: one width, one precision of the base."""
    groups: dict[tuple[int, str], list[int]] = {}
    for number, (_, layer) in enumerate(layers):
        groups.setdefault((getattr(layer, width), str(layer.get_base_layer().weight.dtype)), []).append(number)
    return [groups[key] for key in sorted(groups)]


def _slots(config: AdaLoraConfig, path: str, rank: int) -> list[int]:
    """Original slots of a matrix's triplets: from the pattern of a loaded adapter, else the first `rank`."""
    pattern = (config.rank_pattern or {}).get(f"{path}.lora_E")
    alive = [slot for slot, kept in enumerate(pattern or []) if kept]
    return alive if len(alive) == rank else list(range(rank))


def _change_classes(model: Any, tuner: Any, engine: AdaLoraEngine, name: str) -> None:
    store = engine.store
    for matrix in store.matrices:
        matrix.layer.factors, matrix.layer.hosted_adapter = matrix.factors, name
        matrix.layer.quantized = not matrix.layer.get_base_layer().weight.is_floating_point()
        matrix.layer.__class__ = hosted_class(HostedLayer, type(matrix.layer))
    tuner.engine, tuner.hosted_adapter = engine, name
    tuner.host_hooks = [
        tuner.model.register_forward_pre_hook(RefreshHook(store)),
        tuner.register_load_state_dict_pre_hook(LoadingHook(store)),
        tuner.register_load_state_dict_post_hook(LoadedHook(store)),
    ]
    tuner.__class__ = hosted_class(HostedTuner, type(tuner))
    model.__class__ = hosted_class(HostedPeftModel, type(model))
