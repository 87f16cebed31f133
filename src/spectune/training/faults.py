"""What goes wrong outside of our code, said in one line with what to do: memory that is full, layers that torch cannot
gather."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from spectune.config import RunConfig
from spectune.errors import ConfigError, RunError, first_line

_CPU = "can't allocate memory"  # what torch's own allocator says on a CPU
_MPS = "MPS backend out of memory"
_NOT_GATHERED = "mixed torch.Tensor and DTensor"


@contextmanager
def memory_explained(config: RunConfig, during: Literal["training", "evaluation"]) -> Iterator[None]:
    """Turn a failed allocation of the block into a RunError with the batch sizes to try.

    Raises:
        ConfigError: with `train.fsdp`, a base that takes weights out of its layers without calling them.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if config.train.fsdp and _NOT_GATHERED in str(error):
            raise ConfigError(
                "train.fsdp: the base multiplies with weights of a layer without calling the layer, so that they were "
                f"not gathered ({first_line(error)}); leave train.fsdp out"
            ) from error
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in (_CPU, _MPS)):
            raise
        raise RunError(_advice(config, during)) from error


def _advice(config: RunConfig, during: Literal["training", "evaluation"]) -> str:
    if during == "evaluation":
        size = config.evaluation.per_device_eval_batch_size
        if size == 1:
            return (
                "out of memory in an evaluation of single rows; lower evaluation.max_new_tokens or evaluation.num_beams"
            )
        return (
            f"out of memory in an evaluation of {size} rows at once; continue with "
            f"evaluation.per_device_eval_batch_size={_half(size)} and --resume"
        )
    train = config.train
    size, windows = train.per_device_train_batch_size, train.gradient_accumulation_steps
    options = [] if train.gradient_checkpointing else ["train.gradient_checkpointing=true"]
    if size > 1:
        same = f" with train.gradient_accumulation_steps={windows * 2}" if size % 2 == 0 else ""
        gradient = " (the same gradient)" if same else ""
        options.insert(0, f"train.per_device_train_batch_size={_half(size)}{same}{gradient}")
    options.append(f"data.max_source_length below {config.data.max_source_length}")
    return f"out of memory in a training step of {size} rows; start anew with " + ", or ".join(options)


def _half(size: int) -> int:
    return max(1, size // 2)
