"""The one file that knows PEFT's classes and names: puts the engine into a `PeftModel`, and takes it out again.

PEFT's objects are kept and change class to a child of their own class; its entries (`lora_A["default"]`, …) become
frozen aliases of bank rows, so that saving, merging and inspecting go on as in PEFT.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from peft import AdaLoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.adalora.layer import AdaLoraLayer, RankAllocator, SVDConv2d
from torch import Tensor, nn

from spectune.adapter.bank import Bank
from spectune.adapter.engine import AdaLoraEngine, EngineOptions
from spectune.adapter.linear import Factors, adapted_linear, added
from spectune.adapter.schedule import RankSchedule
from spectune.adapter.store import Matrix, TripletStore
from spectune.errors import AdapterError

BANKS = "triplet_banks"  # attribute of the tuner


def attach(
    model: PeftModel,
    *,
    penalty: Literal["loss", "step"] = "loss",
    importance: Literal["elementwise", "triplet"] = "elementwise",
    pruning: Literal["revivable", "permanent"] = "revivable",
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

    Raises:
        AdapterError: no AdaLoRA adapter, none that is trainable, attached already, a convolution, or a schedule that
            never reaches its target.
    """
    tuner, name, config = _trainable_adapter(model)
    schedule = RankSchedule(**{field: getattr(config, field) for field in RankSchedule.__dataclass_fields__})
    layers = _adapted_layers(tuner, name)
    store = _make_store(layers, name, config)
    options = EngineOptions(
        beta1=config.beta1,
        beta2=config.beta2,
        orth_reg_weight=config.orth_reg_weight,
        penalty=penalty,
        importance=importance,
        pruning=pruning,
    )
    setattr(tuner, BANKS, nn.ModuleDict(store.named_banks()))
    banks = {id(bank.rows) for bank in store.banks}
    store.realias()
    extra = [p for p in model.parameters() if p.requires_grad and id(p) not in banks]
    engine = AdaLoraEngine(store, schedule, options, extra)
    _change_classes(model, tuner, engine, name)
    return engine


def detach(model: PeftModel) -> PeftModel:
    """Give plain PEFT back, in place: its own classes, entries of their own, its allocator, a true rank pattern.

    Raises:
        AdapterError: nothing is attached.
    """
    tuner = model.base_model
    if not isinstance(tuner, HostedTuner):
        raise AdapterError("detach() found no engine; the model is plain PEFT already")
    engine, name = tuner.engine, tuner.hosted_adapter
    config = tuner.peft_config[name]
    config.rank_pattern = rank_pattern(engine)
    tuner.refresh_hook.remove()
    for matrix in engine.store.matrices:
        layer = matrix.layer
        for entries in (layer.lora_A, layer.lora_B, layer.lora_E):
            entries[name] = nn.Parameter(entries[name].detach().clone(memory_format=torch.contiguous_format))
        del layer.factors, layer.hosted_adapter
        layer.__class__ = type(layer).__mro__[2]
    delattr(tuner, BANKS)
    del tuner.engine, tuner.hosted_adapter, tuner.refresh_hook
    tuner.__class__ = type(tuner).__mro__[2]
    model.__class__ = type(model).__mro__[2]
    tuner.rankallocator = RankAllocator(tuner.model, config, name)
    return model


class RefreshHook:
    """Before a call of the inner model itself (not through PEFT): make the parts anew. A class, so that it copies."""

    def __init__(self, store: TripletStore) -> None:
        self.store = store

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.store.refresh()


class HostedLayer:
    """Mixin over PEFT's SVD layers: the forward over the banks' parts."""

    factors: Factors
    hosted_adapter: str

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output plus s · PΛQ x; disabled, merged and several active adapters as in PEFT."""
        layer = cast(Any, self)
        base = layer.base_layer
        if layer.disable_adapters or layer.merged:
            if layer.merged and layer.disable_adapters:
                layer.unmerge()
            return cast(Tensor, base(x, *args, **kwargs))
        factors = self.factors
        if factors.q is None:
            factors.owner.refresh()
        name, active = self.hosted_adapter, layer.active_adapters
        if active == [name] and not args and not kwargs:
            dropout = layer.lora_dropout[name] if layer.training else None
            return adapted_linear(base, x, factors, None if isinstance(dropout, nn.Identity) else dropout)
        return _several(layer, x, base(x, *args, **kwargs), active)

    def set_adapter(self, adapter_names: Any, inference_mode: bool = False) -> None:
        """As PEFT, but the aliases of the banks stay frozen."""
        cast(Any, super()).set_adapter(adapter_names, inference_mode=inference_mode)
        for entries in _entries(self):
            entries[self.hosted_adapter].requires_grad_(False)


class HostedTuner:
    """Mixin over `AdaLoraModel`: root forward, PEFT's allocator call, aliasing through moves, copies and switches."""

    engine: AdaLoraEngine
    hosted_adapter: str
    refresh_hook: Any

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The inner model's output; in training mode the loss includes the penalty, in evaluation mode it does not."""
        self.engine.store.refresh()
        output = cast(Any, self).model.forward(*args, **kwargs)
        if cast(Any, self).training and self.engine.options.penalty == "loss":
            return _with_penalty(output, self.engine, has_labels=kwargs.get("labels") is not None)
        return output

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The inner model's `generate`, with parts made once."""
        with torch.no_grad():
            self.engine.store.hold(True)
        try:
            return cast(Any, self).model.generate(*args, **kwargs)
        finally:
            self.engine.store.hold(False)

    def update_and_allocate(self, global_step: int) -> None:
        """PEFT's call, after `optimizer.step()` and before `zero_grad()`."""
        self.engine.update_and_allocate(global_step)

    def set_adapter(self, adapter_name: Any, inference_mode: bool = False) -> None:
        """As PEFT; the banks are trainable exactly while their adapter is active and not in inference mode."""
        cast(Any, super()).set_adapter(adapter_name, inference_mode=inference_mode)
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        for bank in self.engine.store.banks:
            bank.rows.requires_grad_(self.hosted_adapter in names and not inference_mode)
        self.engine.store.drop_parts()

    def train(self, mode: bool = True) -> Any:
        """A change of mode drops the parts."""
        self.engine.store.drop_parts()
        return cast(Any, super()).train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        moved = cast(Any, super())._apply(fn, recurse)
        self.engine.follow()
        return moved

    def __setstate__(self, saved: Any) -> None:  # deepcopy and unpickling end here
        cast(Any, super()).__setstate__(saved)
        self.engine.follow()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loading writes through the aliases; the parts are dropped."""
        self.engine.store.drop_parts()
        return cast(Any, super()).load_state_dict(*args, **kwargs)

    def resize_state_dict_by_rank_pattern(
        self, rank_pattern: Any, state_dict: dict[str, Tensor], adapter_name: str
    ) -> dict[str, Tensor]:
        """PEFT's moment of cutting the saved entries: keep what the engine says, whatever the pattern's keys are."""
        if adapter_name != self.hosted_adapter:
            return cast(
                dict[str, Tensor],
                cast(Any, super()).resize_state_dict_by_rank_pattern(rank_pattern, state_dict, adapter_name),
            )
        sync_rank_pattern(self)  # PEFT has just cut the adapter's name out of the keys, wherever it stood
        for matrix, saved in zip(self.engine.store.matrices, self.engine.saved(), strict=True):
            mask = torch.tensor(saved, dtype=torch.bool)
            for kind in ("lora_E", "lora_A", "lora_B"):
                key = f"base_model.model.{matrix.name}.{kind}.{adapter_name}"
                entry = state_dict[key]
                kept = entry[:, mask.to(entry.device)] if kind == "lora_B" else entry[mask.to(entry.device)]
                state_dict[key] = kept.contiguous()
        return state_dict


class HostedPeftModel:
    """Mixin over `PeftModel`: counts each adapter number once."""

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Trainable and total parameters; the aliases of bank rows are not counted a second time."""
        trainable, total = cast(Any, super()).get_nb_trainable_parameters()
        engine = cast(Any, self).base_model.engine
        return trainable, total - sum(bank.rows.numel() for bank in engine.store.banks)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As PyTorch; the configuration's rank pattern is brought up to date with the weights."""
        sync_rank_pattern(cast(Any, self).base_model)
        return cast(Any, super()).state_dict(*args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As PEFT; weights and rank pattern are of the same moment."""
        sync_rank_pattern(cast(Any, self).base_model)
        with warnings.catch_warnings():  # PEFT takes a matrix of rank 0 for a shard that was not gathered
            warnings.filterwarnings("ignore", message=".*LoRA tensor\\(s\\) have invalid shape.*")
            cast(Any, super()).save_pretrained(*args, **kwargs)


def sync_rank_pattern(tuner: Any) -> None:
    """Write the survivors into PEFT's configuration: for each matrix, which of init_r slots a save holds."""
    config = tuner.peft_config[tuner.hosted_adapter]
    config.rank_pattern = rank_pattern(tuner.engine)


def rank_pattern(engine: AdaLoraEngine) -> dict[str, list[bool]] | None:
    """PEFT's `rank_pattern`, keyed without adapter name; None while all of init_r is alive. Reads the device."""
    pattern = {}
    for matrix, saved in zip(engine.store.matrices, engine.saved(), strict=True):
        alive = {slot for slot, stays in zip(matrix.slots, saved, strict=True) if stays}
        pattern[f"{matrix.name}.lora_E"] = [slot in alive for slot in range(engine.schedule.init_r)]
    return None if all(all(slots) for slots in pattern.values()) else pattern


def make_aliases(store: TripletStore) -> None:
    """Replace PEFT's entries by frozen Parameters over the banks' rows; they share storage and version counter."""
    for bank, kind in (
        (store.values, "lora_E"),
        *((bank, "lora_A") for bank in store.queries),
        *((bank, "lora_B") for bank in store.outputs),
    ):
        for member, rows in zip(bank.members, bank.rows.detach().split(bank.sizes), strict=True):
            layer = store.matrices[member].layer
            view = rows.unsqueeze(1) if kind == "lora_E" else rows.t() if kind == "lora_B" else rows
            getattr(layer, kind)[store.adapter_name] = nn.Parameter(view, requires_grad=False)


def _trainable_adapter(model: Any) -> tuple[Any, str, AdaLoraConfig]:
    if not isinstance(model, PeftModel) or not isinstance(model.base_model, AdaLoraModel):
        raise AdapterError(
            f"attach() needs a PeftModel with an AdaLoRA adapter, got {type(model).__name__}; "
            "call get_peft_model(model, AdaLoraConfig(...)) first"
        )
    tuner = model.base_model
    if isinstance(tuner, HostedTuner):
        raise AdapterError("the engine is attached to this model already; detach(model) first to attach anew")
    name = getattr(tuner, "trainable_adapter_name", None)
    if name is None:
        raise AdapterError("no adapter of this model is trainable; load it with is_trainable=True")
    return tuner, name, cast(AdaLoraConfig, tuner.peft_config[name])


def _adapted_layers(tuner: Any, name: str) -> list[tuple[str, Any]]:
    layers = [
        (path, module)
        for path, module in tuner.model.named_modules()
        if isinstance(module, AdaLoraLayer) and name in module.lora_A
    ]
    for path, layer in layers:
        if isinstance(layer, SVDConv2d):
            raise AdapterError(f"{path} is a convolution; spectune adapts linear maps, name others in target_modules")
    return layers


def _make_store(layers: list[tuple[str, Any]], name: str, config: AdaLoraConfig) -> TripletStore:
    scales = {layer.scaling[name] / (float(layer.ranknum[name]) + 1e-5) for _, layer in layers if layer.lora_E[name].numel()}
    if len(scales) > 1:
        raise AdapterError(f"the adapted matrices have different scales ({sorted(scales)}); one lora_alpha is supported")
    ranks = [layer.lora_E[name].shape[0] for _, layer in layers]
    first = [sum(ranks[:number]) for number in range(len(ranks))]
    device = layers[0][1].lora_E[name].device

    def bank(kind: str, members: list[int], take: Callable[[Any], Tensor]) -> Bank:
        rows = torch.cat([take(getattr(layers[member][1], kind)[name].detach()).float() for member in members])
        numbers = [torch.arange(first[member], first[member] + ranks[member], device=device) for member in members]
        return Bank(rows, torch.cat(numbers), members, [ranks[member] for member in members])

    store = TripletStore(
        matrices=[],
        values=bank("lora_E", list(range(len(layers))), Tensor.flatten),
        queries=[bank("lora_A", group, lambda entry: entry) for group in _groups(layers, "in_features")],
        outputs=[bank("lora_B", group, Tensor.t) for group in _groups(layers, "out_features")],
        scale=scales.pop() if scales else 1.0,
        adapter_name=name,
        make_aliases=make_aliases,
    )
    store.matrices.extend(
        Matrix(path, layer, Factors(store), _slots(config, path, rank)) for (path, layer), rank in zip(layers, ranks, strict=True)
    )
    return store


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
        matrix.layer.__class__ = hosted_class(HostedLayer, type(matrix.layer))
    tuner.engine, tuner.hosted_adapter = engine, name
    tuner.refresh_hook = tuner.model.register_forward_pre_hook(RefreshHook(store))
    tuner.__class__ = hosted_class(HostedTuner, type(tuner))
    model.__class__ = hosted_class(HostedPeftModel, type(model))


_HOSTED: dict[tuple[type, type], type] = {}


def hosted_class(mixin: type, kind: type) -> type:
    """The child of PEFT's class `kind` with the mixin in front, made once."""
    if (mixin, kind) not in _HOSTED:
        _HOSTED[mixin, kind] = type(f"{mixin.__name__}Of{kind.__name__}", (mixin, kind), {"__reduce_ex__": _reduce})
    return _HOSTED[mixin, kind]


def _reduce(instance: Any, protocol: Any) -> Any:
    """Pickle and deepcopy by the pair of classes, since the child itself has no importable name."""
    _, mixin, kind, *_ = type(instance).__mro__
    return _remake, (mixin, kind), instance.__dict__.copy()


def _remake(mixin: type, kind: type) -> Any:
    cls = hosted_class(mixin, kind)
    return cls.__new__(cls)


def _entries(layer: Any) -> tuple[Any, Any, Any]:
    return layer.lora_A, layer.lora_B, layer.lora_E


def _with_penalty(output: Any, engine: AdaLoraEngine, *, has_labels: bool) -> Any:
    """Add the penalty to the loss, whether the model returned an output object or a tuple."""
    if isinstance(output, tuple):
        return (output[0] + engine.penalty(), *output[1:]) if has_labels else output
    if getattr(output, "loss", None) is not None:
        output.loss = output.loss + engine.penalty()
    return output


def _several(layer: Any, x: Tensor, result: Tensor, active: list[str]) -> Tensor:
    """Several active adapters, or calls with extra arguments: ours over the parts, the others by PEFT's formula."""
    for name in active:
        if name not in layer.lora_A:
            continue
        dropped = layer.lora_dropout[name](x)
        if name == layer.hosted_adapter:
            result = added(result, dropped, layer.factors)
            continue
        down = layer.lora_A[name] * layer.lora_E[name]
        scale = layer.scaling[name] / (layer.ranknum[name] + 1e-5)
        result = result + (dropped.to(down.dtype) @ down.T @ layer.lora_B[name].T * scale).to(result.dtype)
    return result
