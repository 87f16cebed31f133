"""The repeated layers of the encoder and of the decoder, found from the structure of the model. Works on skeletons."""

from __future__ import annotations

from torch import nn

from spectune.adapter.roles import tower_of
from spectune.adapter.targets import is_linear, text_stacks
from spectune.errors import ConfigError


def block_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The list of layers of each stack that reads or writes text, by its name; they run in the order of the list.

    Raises:
        ConfigError: a stack without a list of layers, or with more than one (XLM keeps the parts of its layers apart).
    """
    found: dict[str, nn.ModuleList] = {}
    for stack in text_stacks(model):
        lists = {
            name: module
            for name, module in _outermost_lists(model.get_submodule(stack), stack)
            if not tower_of(name) and any(is_linear(inner) for inner in module.modules())
        }
        if len(lists) != 1:
            raise ConfigError(
                f"{type(model).__name__} has {len(lists) or 'no'} lists of layers in its {stack}, where one is needed "
                "to share them out; leave train.fsdp out"
            )
        found |= lists
    if not found:
        raise ConfigError(f"{type(model).__name__} has no encoder or decoder to share out; leave train.fsdp out")
    return found


def _outermost_lists(module: nn.Module, name: str) -> list[tuple[str, nn.ModuleList]]:
    """Lists of modules that are in no other list."""
    if isinstance(module, nn.ModuleList):
        return [(name, module)]
    return [found for part, child in module.named_children() for found in _outermost_lists(child, f"{name}.{part}")]
