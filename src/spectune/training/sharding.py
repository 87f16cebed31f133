"""The frozen base shared out among the processes by torch's FSDP2, where `train.fsdp` asks for it.

Each layer of the encoder and of the decoder is a unit: a process keeps its share of the layer's frozen weights, and
gathers the others' for as long as the layer computes, forward and backward. The triplets and whatever else is trained
stay whole in every process, so that nothing else of a run changes. What a layer computes is the same to the bit; only
gradients that several layers send back (the decoder's, to the encoder's output) are added in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spectune.adapter.blocks import block_stacks
from spectune.config import RunConfig
from spectune.errors import ConfigError
from spectune.training.parallel import collective


@dataclass(frozen=True)
class Sharded:
    """A base whose layers are shared out."""

    stacks: dict[str, list[Any]]
    """Layers by the name of their list, in the order in which they run; each an `FSDPModule`."""
    whole: int
    """Bytes of the weights that are shared out, all processes together."""
    kept: int
    """Bytes of this process's share."""

    def facts(self) -> dict[str, int]:
        """For the journal."""
        return {"layers": sum(map(len, self.stacks.values())), "bytes": self.whole, "bytes_of_first": self.kept}

    def line(self, processes: int) -> str:
        """One line about it."""
        layers = sum(len(stack) for stack in self.stacks.values())
        return (
            f"{layers} layers shared out to {processes} processes: {self.kept / 1e6:,.1f} of "
            f"{self.whole / 1e6:,.1f} MB of their weights kept here"
        )


def sharding_notes(config: RunConfig, model: nn.Module) -> list[str]:
    """What `train.fsdp` changes in how a base trains, from its skeleton; nothing where it is off.

    Raises:
        ConfigError: a base whose layers cannot be shared out.
    """
    if not config.train.fsdp:
        return []
    if config.model.quantization is not None:
        raise ConfigError(
            f"train.fsdp cannot share out weights in {config.model.quantization}; leave model.quantization or "
            "train.fsdp out"
        )
    if getattr(getattr(model, "config", None), "attention_type", None) == "block_sparse":
        raise ConfigError(
            "train.fsdp: BigBird rebuilds its layers for short texts, which cannot be done to layers that are shared "
            "out; leave train.fsdp out"
        )
    block_stacks(model)
    if not any(getattr(module, "layerdrop", 0.0) for module in model.modules()):
        return []
    return [
        "train.fsdp: this base leaves out whole layers at random in training (layerdrop), each process others; "
        "that is off, since all must gather the same layers"
    ]


def planned_sharding(config: RunConfig, model: nn.Module, number: int) -> list[str]:
    """`sharding_notes`, and what `number` processes will share out, for the plan."""
    if not config.train.fsdp:
        return []
    notes = sharding_notes(config, model)
    layers = [block for stack in block_stacks(model).values() for block in stack]
    inside = sum(parameter.numel() for parameter in _distinct(layers))
    share = inside / sum(parameter.numel() for parameter in model.parameters())
    what = f"train.fsdp shares {len(layers)} layers with {share:.0%} of the base's parameters out to"
    if number > 1:
        return [*notes, f"{what} {number} processes"]
    return [*notes, f"{what} several processes, and this plan is for one; put WORLD_SIZE=2 (or more) in front of it"]


def shard_base(model: Any, device: torch.device) -> Sharded:
    """Share out the layers of a base, with its adapter attached, and move all of it to the device.

    Called by all processes of the run's group. The weights may lie in host memory: layer after layer goes to the
    device, which never holds more than its shares and one whole layer.

    Raises:
        ConfigError: this torch cannot, or the base's layers cannot be shared out.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, share_comm_ctx

    if not all(hasattr(FSDPModule, name) for name in ("set_custom_all_gather", "reset_iter_state")):
        raise ConfigError(f"train.fsdp needs torch 2.13 or newer, and this is {torch.__version__}")
    base = model.get_base_model()
    for module in base.modules():
        if getattr(module, "layerdrop", 0.0):
            module.layerdrop = 0.0
    stacks = {name: list(blocks) for name, blocks in block_stacks(base).items()}
    layers: list[Any] = [block for stack in stacks.values() for block in stack]
    shared, mesh = _in_several_places(base, layers), init_device_mesh(device.type, (dist.get_world_size(),))
    for block in layers:
        whole = {p for p in block.parameters() if p.requires_grad or id(p) in shared or not _divisible(p)}
        whole |= {p for name, p in block.named_parameters() if _is_saved(name)}
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        block.set_custom_all_gather(_Gather())
        block.unshard()  # makes its buffers outside of an evaluation, whose tensors no gradient could pass
        block.reshard()
    share_comm_ctx(layers)
    model.to(device)
    held = [p for p in _distinct(layers) if is_sharded(p)]
    size = sum(p.numel() * p.element_size() for p in held)
    return Sharded(stacks, size, sum(p.to_local().numel() * p.element_size() for p in held))


def is_sharded(parameter: Any) -> bool:
    """Whether other processes hold parts of it."""
    return hasattr(parameter, "full_tensor")


def _distinct(layers: Iterable[nn.Module]) -> list[Any]:
    return list({id(p): p for layer in layers for p in layer.parameters()}.values())


def _is_saved(name: str) -> bool:
    """PEFT's entries, which are aliases of the banks' rows and are made anew; its scales; and biases, all of which it
    saves where it trains one."""
    return "bias" in name or any(kind in name.split(".") for kind in ("lora_A", "lora_B", "lora_E", "ranknum"))


def _divisible(parameter: Tensor) -> bool:
    return parameter.dim() > 0 and parameter.is_contiguous() and parameter.is_floating_point()


def _in_several_places(base: nn.Module, layers: list[nn.Module]) -> set[int]:
    """Ids of the parameters that another layer, or something outside of the layers, has too."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    outside = {id(p) for module in base.modules() if id(module) not in inside for p in module.parameters(recurse=False)}
    times = Counter(id(p) for layer in layers for p in layer.parameters())
    return outside | {number for number, count in times.items() if count > 1}


class _Gather:
    """FSDP's all-gather, whose failure is another process's end. Its two methods are those that FSDP asks for."""

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        with collective():
            return dist.all_gather_into_tensor(output_tensor, input_tensor, group=group, async_op=async_op)
