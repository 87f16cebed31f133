"""What PEFT's objects become while the engine is attached: mixins over PEFT's own classes.

Forward and training go through the banks; saving, merging and inspecting go on as in PEFT, over `peft_entries`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import new_class
from typing import Any, cast

import torch
from torch import Tensor, nn

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.former import FormerTensors
from spectune.adapter.linear import Factors, adapted_linear, added, stale
from spectune.adapter.loss import completed, is_encoder_decoder
from spectune.adapter.peft_entries import ENTRIES, kept_rows, sync_rank_pattern
from spectune.errors import AdapterError


class HostedLayer:
    """Mixin over PEFT's SVD layers: the forward over the banks' parts."""

    factors: Factors
    hosted_adapter: str
    quantized: bool
    """PEFT rounds several times on the way through a quantised layer: without gradient its own formula, over the
    aliases, gives what the saved adapter will give."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output plus s · PΛQ x; disabled, merged and several active adapters as in PEFT."""
        layer = cast(Any, self)
        base = layer.base_layer
        if layer.disable_adapters or layer.merged:
            if layer.merged and layer.disable_adapters:
                layer.unmerge()
            return cast(Tensor, base(x, *args, **kwargs))
        if self.quantized and not torch.is_grad_enabled():
            return cast(Tensor, cast(Any, super()).forward(x, *args, **kwargs))
        factors = self.factors
        if stale(factors):
            factors.owner.refresh()
        name, active = self.hosted_adapter, layer.active_adapters
        if active == [name] and not args and not kwargs:
            dropout = layer.lora_dropout[name] if layer.training else None
            return adapted_linear(base, x, factors, None if isinstance(dropout, nn.Identity) else dropout)
        return _several(layer, x, base(x, *args, **kwargs), active)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """As PEFT, where the base's weights are here.

        Raises:
            AdapterError: other processes hold parts of them.
        """
        if hasattr(cast(Any, self).get_base_layer().weight, "full_tensor"):
            raise AdapterError(
                "nothing can be merged into a base that is shared out among processes (train.fsdp); save the adapter, "
                "then: spectune export ADAPTER --format merged"
            )
        cast(Any, super()).merge(*args, **kwargs)

    def set_adapter(self, adapter_names: Any, inference_mode: bool = False) -> None:
        """As PEFT, but the aliases of the banks stay frozen."""
        cast(Any, super()).set_adapter(adapter_names, inference_mode=inference_mode)
        self._freeze_aliases()

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """As PEFT, but the aliases of the banks stay frozen."""
        cast(Any, super()).set_requires_grad(adapter_names, requires_grad=requires_grad)
        self._freeze_aliases()

    def _freeze_aliases(self) -> None:
        layer = cast(Any, self)
        for entries in (layer.lora_A, layer.lora_B, layer.lora_E):
            entries[self.hosted_adapter].requires_grad_(False)


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
        result = (result + dropped.to(down.dtype) @ down.T @ layer.lora_B[name].T * scale).to(result.dtype)
    return result


class HostedTuner:
    """Mixin over `AdaLoraModel`: root forward, PEFT's allocator call, aliasing through moves, copies and switches."""

    engine: AdaLoraEngine
    hosted_adapter: str
    host_hooks: list[Any]
    former_tensors: FormerTensors
    restore: Callable[[AdaLoraEngine, Path], None] | None = None
    """What loads a directory over the engine's adapter, where somebody (the Trainer's callback) has a way to."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The inner model's output; in training mode the loss includes the penalty, in evaluation mode it does not.

        transformers' Trainer passes `num_items_in_batch`, by which a loss is to be divided. Most encoder-decoders
        ignore it and return the mean over their micro-batch, and the Trainer adds the means up: so it is kept from all
        of them, and their mean is weighted here.
        """
        self._before_forward()
        training, items = cast(Any, self).training, None
        if "num_items_in_batch" in kwargs and is_encoder_decoder(cast(Any, self).model):
            items = kwargs.pop("num_items_in_batch")
        output = cast(Any, self).model.forward(*args, **kwargs)
        wanted = training and self.engine.options.penalty == "loss" and not self.engine.store.disabled
        penalty = self.engine.penalty if wanted else None
        return completed(output, labels=kwargs.get("labels"), items=items, penalty=penalty)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_forward(self) -> None:
        """Make the parts anew, and notice training that never allocates: all that stays outside a compiled graph."""
        store = self.engine.store
        store.refresh()
        if cast(Any, self).training:
            store.watch.forward_in_training(store.values.rows, store.matrices[0].layer, frozen=self.engine.frozen)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The inner model's `generate`, with parts made once."""
        if self.engine.store.held:
            return cast(Any, self).model.generate(*args, **kwargs)
        self.hold_parts(True)
        try:
            return cast(Any, self).model.generate(*args, **kwargs)
        finally:
            self.hold_parts(False)

    @torch.no_grad()
    def hold_parts(self, held: bool) -> None:
        """Make the parts once and keep them over many calls, or drop them; weights must not change in between."""
        self.engine.store.hold(held)

    def update_and_allocate(self, global_step: int) -> None:
        """PEFT's call, after `optimizer.step()` and before `zero_grad()`.

        Raises:
            AdapterError: no gradient at all, before the freeze; or a step that repeats or goes back.
        """
        self.former_tensors.warn_if_held()
        if global_step < self.engine.schedule.freeze_step and self.engine.store.without_gradient:
            where = "after optimizer.step() and before optimizer.zero_grad()"
            raise AdapterError(f"update_and_allocate({global_step}) finds no gradient to score by; call it {where}")
        self.engine.update_and_allocate(global_step)

    def set_adapter(self, adapter_name: Any, inference_mode: bool = False) -> None:
        """As PEFT; the banks are trainable exactly while their adapter is active and not in inference mode."""
        cast(Any, super()).set_adapter(adapter_name, inference_mode=inference_mode)
        self._set_trainable(self.hosted_adapter in _names(adapter_name) and not inference_mode)

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """As PEFT; for the engine's adapter it is the banks that begin or cease to be trainable."""
        cast(Any, super()).set_requires_grad(adapter_names, requires_grad=requires_grad)
        if self.hosted_adapter in _names(adapter_names):
            self._set_trainable(requires_grad)

    def _set_trainable(self, trainable: bool) -> None:
        for bank in self.engine.store.banks:
            bank.rows.requires_grad_(trainable)
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

    def inject_adapter(self, *args: Any, **kwargs: Any) -> None:
        """As PEFT: another adapter is loaded, and what was trainable stays trainable."""
        trainable = self.engine.store.values.rows.requires_grad
        cast(Any, super()).inject_adapter(*args, **kwargs)
        self._set_trainable(trainable)

    def delete_adapter(self, adapter_name: str) -> None:
        """As PEFT, for other adapters than the engine's."""
        if adapter_name == self.hosted_adapter:
            raise AdapterError(f"the engine trains the adapter {adapter_name!r}; detach(model) before deleting it")
        cast(Any, super()).delete_adapter(adapter_name)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = cast(Any, super())._unload_and_optionally_merge(*args, **kwargs)
        for hook in self.host_hooks:  # the model that comes out is the base, and knows nothing of the engine
            hook.remove()
        return model

    def resize_modules_by_rank_pattern(self, rank_pattern: Any, adapter_name: str) -> None:
        """PEFT's moment of cutting the entries before a pruned adapter is loaded into them."""
        if adapter_name == self.hosted_adapter:
            raise AdapterError(
                f"a pruned adapter cannot be loaded over {adapter_name!r} while the engine trains it; load it with "
                "PeftModel.from_pretrained(base, directory, is_trainable=True) and attach to that"
            )
        cast(Any, super()).resize_modules_by_rank_pattern(rank_pattern, adapter_name)

    def resize_state_dict_by_rank_pattern(
        self, rank_pattern: Any, state_dict: dict[str, Tensor], adapter_name: str
    ) -> dict[str, Tensor]:
        """PEFT's moment of cutting the saved entries: keep what the engine says, whatever the pattern's keys are."""
        if adapter_name != self.hosted_adapter:
            resize = cast(Any, super()).resize_state_dict_by_rank_pattern
            return cast(dict[str, Tensor], resize(rank_pattern, state_dict, adapter_name))
        sync_rank_pattern(self)  # PEFT has just cut the adapter's name out of the keys, wherever it stood
        for matrix, saved in zip(self.engine.store.matrices, self.engine.saved(), strict=True):
            mask = torch.tensor(saved, dtype=torch.bool)
            for kind in ENTRIES:
                key = f"base_model.model.{matrix.name}.{kind}.{adapter_name}"
                state_dict[key] = kept_rows(kind, state_dict[key], mask)
        return state_dict


def _names(adapter_names: Any) -> list[str]:
    return [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)


class HostedPeftModel:
    """Mixin over `PeftModel`: counts each adapter number once, exports copies, restores the engine."""

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """As PEFT; over the engine's adapter, which may be cut, the whole state of the engine where that is known."""
        tuner = cast(Any, self).base_model
        if adapter_name == tuner.hosted_adapter and tuner.restore is not None:
            return tuner.restore(tuner.engine, Path(model_id))
        return cast(Any, super()).load_adapter(model_id, adapter_name, *args, **kwargs)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Trainable and total parameters; the aliases of bank rows are not counted a second time."""
        trainable, total = cast(Any, super()).get_nb_trainable_parameters()
        engine = cast(Any, self).base_model.engine
        return trainable, total - sum(bank.rows.numel() for bank in engine.store.banks)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As PyTorch, with contiguous copies of the adapter's entries; the rank pattern is brought up to date."""
        tuner = cast(Any, self).base_model
        sync_rank_pattern(tuner)
        state = cast(Any, super()).state_dict(*args, **kwargs)
        if not kwargs.get("keep_vars"):
            for matrix in tuner.engine.store.matrices:
                for kind in ENTRIES:
                    key = f"{kwargs.get('prefix', '')}base_model.model.{matrix.name}.{kind}.{tuner.hosted_adapter}"
                    state[key] = state[key].clone(memory_format=torch.contiguous_format)
        return state

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As PEFT; weights and rank pattern are of the same moment. One before the freeze is said to be."""
        tuner = cast(Any, self).base_model
        engine = tuner.engine
        engine.store.watch.saved(engine.frozen, engine.last_step, engine.schedule.freeze_step)
        sync_rank_pattern(tuner)
        with warnings.catch_warnings():  # PEFT takes a matrix of rank 0 for a shard that was not gathered
            warnings.filterwarnings("ignore", message=".*LoRA tensor\\(s\\) have invalid shape.*")
            cast(Any, super()).save_pretrained(*args, **kwargs)


_HOSTED: dict[tuple[type, type], type] = {}


def hosted_class(mixin: type, kind: type) -> type:
    """The child of PEFT's class `kind` with the mixin in front, made once."""
    if (mixin, kind) not in _HOSTED:
        name = f"{mixin.__name__}Of{kind.__name__}"
        _HOSTED[mixin, kind] = new_class(name, (mixin, kind), exec_body=lambda body: body.update(__reduce_ex__=_reduce))
    return _HOSTED[mixin, kind]


def plain_class(instance: Any) -> Any:
    """PEFT's own class of an object that became one of ours."""
    return type(instance).__mro__[2]


def _reduce(instance: Any, protocol: Any) -> Any:
    """Pickle and deepcopy by the pair of classes, since the child itself has no importable name."""
    _, mixin, kind, *_ = type(instance).__mro__
    return _remake, (mixin, kind), instance.__dict__.copy()


def _remake(mixin: type, kind: type) -> Any:
    cls = cast(Any, hosted_class(mixin, kind))
    return cls.__new__(cls)
