"""The rehearsed step holds what the real step holds: tensor by tensor for autograd, byte by byte at the peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.architectures.builders import build
from tests.training.conftest import tiny_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from spectune.adapter.targets import default_targets
from spectune.config import RunConfig
from spectune.data.loader import Window
from spectune.evaluation.loss import CrossEntropySum
from spectune.memory.estimate import memory_of
from spectune.memory.lengths import BatchShape, Largest
from spectune.memory.rehearsal import evaluation_peak, training_peak
from spectune.memory.stand_in import stand_in
from spectune.memory.tracking import LiveBytes, bytes_of
from spectune.planning import schedule_of
from spectune.runfile import load_run_config
from spectune.sizes import parameters_of
from spectune.training.checkpointing import enable_checkpointing
from spectune.training.kernels import training_kernels
from spectune.training.model import adapt
from spectune.training.step import StepOptions, window_loss

SHAPE = BatchShape(rows=8, source=40, target=24)
KERNELS = training_kernels(torch.device("cpu"))
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "re-entrant": {"train": REENTRANT},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "autocast": {"train": {"mixed_precision": "bf16"}},
    "dropout": {"adapter": {"lora_dropout": 0.1}},
}


def configuration(**sections: Any) -> RunConfig:
    given: dict[str, Any] = {
        "model": {"model_name_or_path": "x", "dtype": "float32"},
        "data": {"train_file": "x"},
        "adapter": {"init_r": 4, "target_r": 2},
        "train": {"max_steps": 20, "use_cpu": True},
    }
    return load_run_config(None, base={name: values | sections.get(name, {}) for name, values in given.items()})


def meta(family: str) -> Any:
    """The skeleton that a plan works on."""
    with torch.device("meta"):
        model: Any = type(tiny_model(family, 200))(tiny_model(family, 200).config)
    model.tie_weights()
    return model


def real(family: str, config: RunConfig) -> Any:
    """The run's own model, the engine attached."""
    base = tiny_model(family, 200).to(getattr(torch, config.model.dtype))
    model = adapt(base, config.adapter, schedule_of(config, 20), None).model.train()
    if config.train.gradient_checkpointing:
        enable_checkpointing(model.get_base_model(), use_reentrant=config.train.use_reentrant)
    return model


def step(model: Any, config: RunConfig) -> None:
    ids = torch.ones(SHAPE.rows, SHAPE.source, dtype=torch.long)
    labels = torch.ones(SHAPE.rows, SHAPE.target, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0  # as in nearly every batch: models leave out a mask that hides nothing
    window = Window([{"input_ids": ids, "attention_mask": mask, "labels": labels}], 1, 1, 1, 0.0)
    low = config.train.mixed_precision == "bf16"
    options = StepOptions(
        device=torch.device("cpu"),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=low),
        label_smoothing=0.0,
        max_grad_norm=None,
        penalty_in_scores=True,
        call_order="paper",
        kernels=KERNELS,
    )
    window_loss(model, window, options)


@contextmanager
def rehearsed(family: str, config: RunConfig) -> Iterator[Any]:
    """The model in its place, inside its `FakeTensorMode`."""
    skeleton = meta(family)
    with FakeTensorMode():
        yield stand_in(skeleton, config, default_targets(skeleton), (), getattr(torch, config.model.dtype))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_peak_of_a_step(family: str, variant: str) -> None:
    config = configuration(**VARIANTS[variant])
    model = real(family, config)
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        step(model, config)
    with rehearsed(family, config) as standing:
        peak = training_peak(standing, config, SHAPE, KERNELS)
    banks = bytes_of(parameter for parameter in model.parameters() if parameter.requires_grad)
    assert peak > 500_000 > 10 * banks
    assert peak == pytest.approx(live.peak, abs=3 * banks)  # parts and gradients, which are the adapter's share


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_what_autograd_keeps(family: str) -> None:
    config = configuration()

    def kept(model: Any) -> int:
        found: list[torch.Tensor] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            step(model, config)
        activations = [one for one in found if one.untyped_storage()._cdata not in weights]
        return bytes_of(activations)

    model = real(family, config)
    weights = {one.untyped_storage()._cdata for one in [*model.parameters(), *model.buffers()]}
    outputs = sum(4 * bank.rows.numel() for bank in model.base_model.engine.store.outputs)  # S of every layer
    expected = kept(model) - outputs
    with rehearsed(family, config) as model:
        weights = {one.untyped_storage()._cdata for one in [*model.parameters(), *model.buffers()]}
        found = kept(model)
    assert found == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_peak_of_an_evaluation(family: str) -> None:
    """Without a search: encoder, decoder, logits and loss of a batch."""
    config = configuration()
    model = real(family, config).eval()
    base = model.get_base_model()
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
        ids = torch.ones(SHAPE.rows, SHAPE.source, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, -1] = 0
        encoded = base.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        labels = torch.ones(SHAPE.rows, SHAPE.target, dtype=torch.long)
        CrossEntropySum(model).add(labels, encoder_outputs=encoded, attention_mask=mask)
    with rehearsed(family, config) as standing:
        greedy, beams = (evaluation_peak(standing, SHAPE, 2, beams) for beams in (1, 4))
        longer = evaluation_peak(standing, SHAPE, 200, 4)
    assert greedy == pytest.approx(live.peak, rel=0.05)
    caches = 2 * 4 * 32 * SHAPE.rows * 4 * (200 - 2)  # keys and values of one layer, 4 bytes, width 32, 4 beams
    assert longer >= beams >= greedy
    assert longer - greedy > caches / 2


def test_a_family_whose_forward_reads_its_data() -> None:
    from transformers import LEDConfig, LEDForConditionalGeneration

    sizes: dict[str, Any] = {"d_model": 32, "vocab_size": 200, "attention_window": 8}
    for stack in ("encoder", "decoder"):
        sizes |= {f"{stack}_layers": 1, f"{stack}_ffn_dim": 48, f"{stack}_attention_heads": 4}
    with torch.device("meta"):
        model = LEDForConditionalGeneration(LEDConfig(**sizes))
    config = configuration()
    targets = tuple(default_targets(model))
    largest = Largest((SHAPE,), SHAPE, 8, from_rows=False)
    found = memory_of(config, model, targets, parameters_of(config, model, targets), largest)
    with rehearsed("bart", config) as standing:
        nearest = training_peak(standing, config, SHAPE, KERNELS)
    assert found.training == pytest.approx(nearest, rel=0.05)


@pytest.mark.parametrize("name", ["encoder-decoder (GPT-2)", "t5gemma", "t5gemma2", "switch_transformers"])
def test_families_with_maps_caches_and_names_of_their_own(name: str) -> None:
    """GPT-2's transposed maps, windows in the cache, experts whose forward reads its data; T5's names for sizes."""
    with torch.device("meta"):
        model = build(name)
    model.tie_weights()
    config, targets = configuration(evaluation={"num_beams": 3}), tuple(default_targets(model))
    largest = Largest((SHAPE,), SHAPE, 8, from_rows=False, beams=3)
    found = memory_of(config, model, targets, parameters_of(config, model, targets), largest)
    assert 100_000 < found.training < 10_000_000  # two layers of width 16
    assert found.evaluation > 0
