"""Gradient checkpointing, of both kinds: a run with it is the run without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.architectures.builders import build
from tests.architectures.trial import OPTIONS, attached, rows
from tests.training.conftest import Run

import spectune
from spectune.data.assembly import Window
from spectune.errors import ConfigError
from spectune.evaluation.decoding import first_token_mask
from spectune.runfile import load_run_config
from spectune.training.checkpointing import enable_checkpointing
from spectune.training.step import window_loss

ON: dict[str, Any] = {"gradient_checkpointing": True}
REENTRANT: dict[str, Any] = ON | {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
BASES: list[dict[str, Any]] = [
    {"base": "t5"},
    {"base": "bart"},
    {"base": "t5", "model": {"quantization": "nf4", "dtype": "float32"}},
]


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize("model", BASES, ids=["t5", "bart", "t5-nf4"])
def test_a_run_ends_where_it_ends_without(run: Run, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up, decrease, the compaction at the freeze and the steps after it, evaluations in between, with dropout."""
    kinds: list[bool] = []
    function: Any = torch.utils.checkpoint.checkpoint

    def noted(*args: Any, use_reentrant: bool, **kwargs: Any) -> Any:
        kinds.append(use_reentrant)
        return function(*args, use_reentrant=use_reentrant, **kwargs)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", noted)
    options: dict[str, Any] = model | {
        "adapter": {"init": "gradient"},
        "data": {"max_source_length": 48},
        "evaluation": {"eval_strategy": "steps", "eval_steps": 5},
    }
    expected = None
    for train, used in (({}, set()), (ON, {False}), (REENTRANT, {True})):
        kinds.clear()
        result = run(overwrite=True, train=train, **options)
        assert set(kinds) == used
        found = result.summary["ranks"], load_file(result.adapter / "adapter_model.safetensors")
        expected = expected or found
        assert found[0] == expected[0]
        for name, tensor in expected[1].items():  # by the norm: AdamW makes a whole step of a gradient of mere rounding
            assert float((found[1][name] - tensor).norm()) <= 1e-5 * float(tensor.norm()), name


@pytest.mark.parametrize("name", ["switch_transformers", "nllb-moe", "led", "pegasus_x", "mvp (prompts)"])
def test_gradients_of_families_with_ways_of_their_own(name: str) -> None:
    """Experts, global attention, prompts; dropout and the routers' noise are drawn again as they were."""
    expected = None
    for kind in (None, False, True):
        torch.manual_seed(0)
        base = build(name)
        model, engine = attached(base, spectune.default_targets(base))
        if kind is not None:
            enable_checkpointing(base, use_reentrant=kind)
        batch = rows(0)
        if name == "led":
            batch["global_attention_mask"] = first_token_mask(batch["input_ids"])
        with torch.no_grad():
            for parameter in engine.parameters():
                parameter.add_(0.05)  # λ starts at 0, and then neither P nor Q has a gradient
        torch.manual_seed(5)
        window_loss(model.train(), Window([batch], 15, 1, 4, 0.0), OPTIONS)
        found = [parameter.grad for parameter in engine.parameters()]
        expected = expected or found
        assert all(float(one.abs().max()) > 0 for one in expected if one is not None)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "goes with gradient_checkpointing: true"),
        (ON | {"gradient_checkpointing_kwargs": {"reentrant": True}}, "gradient_checkpointing_kwargs: "),
        (ON | {"gradient_checkpointing_kwargs": {"use_reentrant": "yes"}}, "gradient_checkpointing_kwargs: "),
    ],
)
def test_kinds_that_do_not_exist(train: dict[str, Any], message: str) -> None:
    values = {"model": {"model_name_or_path": "starter"}, "data": {"train_file": "x"}, "train": train}
    with pytest.raises(ConfigError, match=message) as caught:
        load_run_config(None, base=values)
    assert "\n" not in str(caught.value)
