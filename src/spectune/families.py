"""What single families of models ask of a run, read from their configuration and their skeleton: no weights.

Languages and LED's global attention have files of their own (`data.languages`, `evaluation.global_attention`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spectune.config import RunConfig
from spectune.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Vocabulary:
    """Rows of the base's embeddings: the token ids it can read and write are below these."""

    source: int
    target: int

    def check(self, name: str, sources: Iterable[list[int]], targets: Iterable[list[int]]) -> None:
        """Refuse token ids without an embedding; nothing is resized.

        Args:
            name: of the split.
            sources: rows of token ids.
            targets: likewise.

        Raises:
            ModelError: the tokenizer is of another model, or has had tokens added.
        """
        for side, rows, size in (("sources", sources, self.source), ("targets", targets, self.target)):
            largest = max((max(row, default=0) for row in rows), default=0)
            if largest >= size:
                raise ModelError(
                    f"the tokenizer gives token {largest} in the {name} {side}, and the base model has embeddings for "
                    f"{size} tokens only: put the base's own tokenizer into its directory, or a base that was resized "
                    "for the added tokens"
                )


def vocabulary_of(model: Any) -> Vocabulary:
    """Of a model or its skeleton; FSMT and some Marian models write another vocabulary than they read."""
    read, write = model.get_input_embeddings(), model.get_output_embeddings()
    source = int(read.weight.shape[0])
    return Vocabulary(source, source if write is None else int(write.weight.shape[0]))


def attention_block(config: Any) -> int:
    """Tokens that the encoder pads every source to a multiple of before its first layer; 1 where it pads nothing.

    LED: its widest window. PegasusX: block_size. LongT5 pads inside attention alone, and BigBirdPegasus nothing but
    long sources, so the exact length counts there.
    """
    windows = getattr(config, "attention_window", None)
    if windows is not None:
        return int(windows if isinstance(windows, int) else max(windows))
    return int(config.block_size) if config.model_type == "pegasus_x" else 1


def family_notes(config: RunConfig, model: Any) -> list[str]:
    """What is allowed and may be a slip, one line each.

    Args:
        config: the run's configuration.
        model: the base or its skeleton.

    Raises:
        ConfigError: `modules_to_save` names a module that the base never calls, or its layers cannot be checkpointed.
    """
    if config.train.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"train.gradient_checkpointing: transformers has none for {type(model).__name__}; set it to false, and "
            "lower train.per_device_train_batch_size for less memory"
        )
    notes = _tied_notes(config, model)
    prefix = _known_prefix(config, model.config)
    if prefix is not None and not config.data.source_prefix and config.data.source_template is None:
        notes.append(f"this {model.config.model_type} knows the task by {prefix}; give it as data.source_prefix")
    return notes


def _known_prefix(config: RunConfig, model_config: Any) -> str | None:
    """The prefix that the base's config.json has for the run's task (`task_specific_params`), T5's custom."""
    tasks = getattr(model_config, "task_specific_params", None)
    task = config.data.task
    if task is None or not isinstance(tasks, Mapping):
        return None
    found = [
        repr(parameters["prefix"])
        for name, parameters in tasks.items()
        if str(name).startswith(task) and isinstance(parameters, Mapping) and parameters.get("prefix")
    ]
    if not found:
        return None
    return f"the prefix {found[0]}" if len(found) == 1 else f"prefixes such as {found[0]}"


def _tied_notes(config: RunConfig, model: Any) -> list[str]:
    """A tied matrix that is trained in full becomes a copy: its partners keep the frozen weights."""
    wanted = config.adapter.modules_to_save or ()
    weights = {name: module.weight for name, module in model.named_modules() if _has_matrix(module)}
    notes = []
    for entry in wanted:
        chosen = [name for name in weights if name == entry or name.endswith(f".{entry}")]
        if any(_is_only_shared(model, name, weights) for name in chosen):
            raise ConfigError(
                f"adapter.modules_to_save {entry}: the base model never calls it, its stacks have embed_tokens tied to "
                "it; name embed_tokens or lm_head"
            )
        partners = [
            name
            for name, weight in weights.items()
            if name not in chosen and any(weight is weights[one] for one in chosen) and not _names(wanted, name)
        ]
        if partners:
            notes.append(
                f"modules_to_save {entry} is tied to {', '.join(partners)} in this model: what is trained is a copy of "
                "its own, the others keep the base's weights"
            )
    return notes


def _is_only_shared(model: Any, name: str, weights: Mapping[str, Any]) -> bool:
    """Whether a module only holds the embeddings that encoder and decoder have modules of their own for."""
    stacks = [one for one in weights if one.endswith("embed_tokens") and weights[one] is weights[name]]
    return name.rsplit(".", 1)[-1] == "shared" and bool(stacks)


def _names(entries: Iterable[str], name: str) -> bool:
    return any(name == entry or name.endswith(f".{entry}") for entry in entries)


def _has_matrix(module: Any) -> bool:
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2
