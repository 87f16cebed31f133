"""Peak memory of a run, part by part."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spectune.config import RunConfig
from spectune.memory.lengths import BatchShape, Largest
from spectune.sizes import Parameters, base_bytes, quantized_maps, shape_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Kept in float32 for every number of the adapter: itself, its gradient, two moments, two importance averages.
_COPIES_OF_ADAPTER = 6
# Measured on CPU runs of three shapes, 25 to 550 MB of weights (benchmarks/plan_memory.py): what the process has beside
# tensors once it trains, and the share by which the C library's heap outgrows activations, since blocks that one batch
# frees do not all fit the next one's.
_PROCESS = 40_000_000
_HEAP = 0.2


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the fullest moment of a run, in its process on a CPU, beyond what importing the libraries takes."""

    base: int
    """Weights of the base."""
    adapter: int
    """Triplets, gradients, moments, importance, and the copies that layers multiply with."""
    training: int
    """Activations and logits of a training step, its backward pass included."""
    start: int
    """Gradients of whole matrices beside a training step, where `adapter.init: gradient` sums them before the first."""
    evaluation: int
    """Activations, caches and logits of an evaluation batch."""
    process: int
    """What no tensor accounts for: rows, tokenizer, libraries' own buffers, and the heap's gaps."""
    batch: BatchShape
    """The batch that `training` is of."""
    evaluation_batch: BatchShape
    from_rows: bool
    """Whether the batches are the run's own, or the largest that the settings allow."""
    cut: tuple[str, ...] = ()
    """A line for each split of which many rows are longer than the settings allow."""

    @property
    def total(self) -> int:
        """All that stays, and the larger of training and evaluation."""
        return self.base + self.adapter + self.process + max(self.start + self.training, self.evaluation)


def memory_of(
    config: RunConfig, model: PreTrainedModel, targets: tuple[str, ...], parameters: Parameters, largest: Largest
) -> Memory:
    """Work out every part, the largest batches rehearsed on a stand-in.

    Args:
        model: the base's skeleton.
        largest: batches to reckon with.
    """
    from spectune.training.device import choose_device

    device = choose_device(config.train.use_cpu)[0]
    dtype = _dtype(config, model.config, device)
    largest = _rounded(largest, config, device, dtype)
    peaks, evaluation = _rehearse(config, model, targets, largest, device, dtype)
    batch = max(peaks, key=lambda shape: peaks[shape])
    return Memory(
        base=base_bytes(config.model, model, dtype.itemsize),
        adapter=parameters.trainable_at_start * 4 * _COPIES_OF_ADAPTER,
        training=peaks[batch],
        start=_gradient_start(config, model, targets) if config.adapter.init == "gradient" else 0,
        evaluation=evaluation,
        process=_PROCESS + round(_HEAP * max(peaks[batch], evaluation)),
        batch=batch,
        evaluation_batch=largest.evaluation,
        from_rows=largest.from_rows,
        cut=largest.cut,
    )


def _dtype(config: RunConfig, base_config: Any, device: torch.device) -> torch.dtype:
    """What `auto` is here; what is named may be meant for another machine."""
    import torch

    from spectune.training.device import choose_dtype, kind_of

    if config.model.dtype == "auto":
        return choose_dtype(config, kind_of(base_config), device)[0]
    named: torch.dtype = getattr(torch, config.model.dtype)
    # BART and its kin look at values in float16, to clamp them, and here are none; bfloat16 is as large
    return torch.bfloat16 if named == torch.float16 else named


def _rounded(largest: Largest, config: RunConfig, device: torch.device, dtype: torch.dtype) -> Largest:
    """With training batches padded as the run pads them."""
    from spectune.data.collation import rounded_length
    from spectune.training.device import multiplied_in, padding_multiple

    data = config.data
    multiple = padding_multiple(data, device, multiplied_in(config, dtype))
    shapes = tuple(
        BatchShape(
            shape.rows,
            rounded_length(shape.source, multiple, data.max_source_length),
            rounded_length(shape.target, multiple, data.max_target_length),
        )
        for shape in largest.training
    )
    return replace(largest, training=shapes)


def _rehearse(
    config: RunConfig,
    model: PreTrainedModel,
    targets: tuple[str, ...],
    largest: Largest,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[dict[BatchShape, int], int]:
    """Bytes of each training batch, and of the evaluation."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        return _rehearse_on(config, copy.deepcopy(model), targets, largest, device, dtype)
    except (DataDependentOutputException, DynamicOutputShapeException):  # its forward depends on the data
        from spectune.adapter.targets import default_targets
        from spectune.memory.stand_in import bart_like

        near = bart_like(model.config)
        return _rehearse_on(config, near, tuple(default_targets(near)), largest, device, dtype)


def _rehearse_on(
    config: RunConfig,
    copied: PreTrainedModel,
    targets: tuple[str, ...],
    largest: Largest,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[dict[BatchShape, int], int]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from spectune.memory.rehearsal import evaluation_peak, training_peak
    from spectune.memory.stand_in import stand_in
    from spectune.training.kernels import training_kernels

    kernels = training_kernels(device)
    packed = quantized_maps(config.model, copied)
    with FakeTensorMode():
        standing: Any = stand_in(copied, config, targets, packed, dtype)
        peaks = {shape: training_peak(standing, config, shape, kernels) for shape in largest.training}
        return peaks, evaluation_peak(standing, largest.evaluation, largest.new_tokens, largest.beams)


def _gradient_start(config: RunConfig, model: PreTrainedModel, targets: tuple[str, ...]) -> int:
    """Bytes of the matrices' gradients that are held at once."""
    from spectune.adapter.initialization import NUMBER_BYTES, chunk_bytes

    sizes = [NUMBER_BYTES * rows * columns for rows, columns in (shape_of(model, name) for name in targets)]
    return chunk_bytes(sizes, whole=config.model.quantization is None and not config.train.fsdp)
