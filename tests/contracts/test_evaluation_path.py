"""An evaluation of the live model is plain PEFT's, bit for bit, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.adapter.tiny import FREEZE, OPTIMIZERS, adapted, base, batch, hosted, load_plain, steps_of_peft
from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_host import attach
from spectune.adapter.peft_inference import plain_arithmetic
from spectune.evaluation.generation import generation_model


def trained(
    family: str, dtype: torch.dtype = torch.float32, steps: int = FREEZE + 2, **changes: Any
) -> tuple[Any, AdaLoraEngine]:
    """A model after some steps: pruned to ragged ranks once past the freeze, and compacted then."""
    model = adapted(base(family, 2, dtype), spread=0.3, **changes)
    engine = attach(model)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, steps + 1))
    if engine.frozen:
        engine.compact(optimizer)
    return model, engine


def plain_copy(model: Any, family: str, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The saved adapter under plain PEFT, on a fresh base of two layers."""
    model.save_pretrained(directory)
    fresh = load_plain(family, directory, dtype, layers=2)
    assert type(fresh).__mro__[1] is not type(model).__mro__[1]
    return fresh.eval()


@torch.inference_mode()
def forced(model: PeftModel) -> Tensor:
    """Logits of one batch; of the inner model, since PEFT's own call fails for a loaded AdaLoRA given labels."""
    tokens, inner = batch(7), model.get_base_model()
    found: Tensor = inner(input_ids=tokens["input_ids"], decoder_input_ids=tokens["labels"]).logits
    return found


def written(model: Any, beams: int) -> list[list[int]]:
    """Tokens of 12 rows."""
    ids = batch(3, rows=12)["input_ids"]
    found: Tensor = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, num_beams=beams)
    return found.tolist()


CASES = [
    ("t5", torch.float32, FREEZE + 2),
    ("gated_t5", torch.float32, FREEZE + 2),
    ("bart", torch.float32, FREEZE + 2),
    ("t5", torch.float32, 1),  # nothing pruned yet
    ("bart", torch.float32, 9),  # masked, not compacted
    ("t5", torch.bfloat16, FREEZE + 2),
    ("bart", torch.bfloat16, FREEZE + 2),
    ("bart", torch.bfloat16, 1),
]


@pytest.mark.parametrize(("family", "dtype", "steps"), CASES)
def test_logits_and_tokens_are_plain_pefts(family: str, dtype: torch.dtype, steps: int, tmp_path: Path) -> None:
    model, engine = trained(family, dtype, steps)
    plain = plain_copy(model, family, tmp_path, dtype)
    if steps > FREEZE:
        assert len(set(engine.ranks().values())) > 2
    with generation_model(model):
        assert torch.equal(forced(model), forced(plain))
        for beams in (1, 3):
            assert written(model, beams) == written(plain, beams)


def test_a_loaded_adapter_gets_the_same_path(tmp_path: Path) -> None:
    model, _ = trained("t5")
    plain = plain_copy(model, "t5", tmp_path)
    expected, texts = forced(plain), written(plain, 1)
    with generation_model(plain):
        layer = plain.get_base_model().encoder.block[0].layer[0].SelfAttention.q
        assert "forward" in vars(layer)
        assert torch.equal(forced(plain), expected)
        assert written(plain, 1) == texts
    assert "forward" not in vars(layer)


def snapshot(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def assert_untouched(model: Any, before: dict[str, Tensor], storage: dict[str, int]) -> None:
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == storage
    assert not [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind(failure: type[BaseException] | None) -> None:
    model, engine = trained("bart")
    model.train()
    before, storage = snapshot(model), {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    try:
        with generation_model(model):
            assert not model.training
            written(model, 1)
            if failure is not None:
                raise failure
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert model.training
    assert not model.base_model.engine.store.held
    assert_untouched(model, before, storage)
    model(**batch(1)).loss.backward()  # and trains on
    assert all(parameter.grad is not None for parameter in engine.parameters())


def test_an_evaluation_does_not_change_the_next_step() -> None:
    finals = []
    for evaluates in (False, True):
        model, engine = hosted("t5", spread=0.2)
        optimizer = OPTIMIZERS["adamw"](engine.parameters())
        for step in range(1, 8):
            steps_of_peft(model, optimizer, [step])
            if evaluates:
                with generation_model(model):
                    written(model, 1)
        finals.append([bank.rows.detach().clone() for bank in engine.store.banks])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_wrapped_and_watched_layers_are_called_as_they_are() -> None:
    """Whoever hooks a base layer is still asked; whoever wrapped a layer's forward keeps it."""
    model, _ = trained("t5")
    layers = [module for module in model.modules() if hasattr(module, "hosted_adapter") and hasattr(module, "lora_A")]
    calls: list[str] = []
    hook = layers[0].base_layer.register_forward_hook(lambda *_: calls.append("hook"))
    own = layers[1].forward

    def wrapped(x: Tensor) -> Tensor:
        calls.append("wrapped")
        found: Tensor = own(x)
        return found

    layers[1].forward = wrapped
    with generation_model(model):
        forced(model)
    assert {"hook", "wrapped"} <= set(calls)
    assert "forward" in vars(layers[1])
    hook.remove()


def test_several_adapters_and_disabled_ones_go_pefts_way(tmp_path: Path) -> None:
    model, _ = trained("t5")
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "other")
    model.base_model.set_adapter(["default", "other"])
    plain = load_plain("t5", tmp_path, layers=2)
    plain.load_adapter(tmp_path, "other")
    plain.base_model.set_adapter(["default", "other"])
    with generation_model(model):
        assert torch.allclose(forced(model), forced(plain.eval()), atol=1e-5)
    with model.disable_adapter(), generation_model(model):
        assert torch.equal(forced(model), forced_of_base("t5"))


def forced_of_base(family: str) -> Tensor:
    tokens = batch(7)
    with torch.inference_mode():
        found: Tensor = base(family, 2).eval()(input_ids=tokens["input_ids"], decoder_input_ids=tokens["labels"]).logits
    return found


def test_any_other_model_is_left_alone() -> None:
    model = base("t5").eval()
    with plain_arithmetic(model):
        assert not [module for module in model.modules() if "forward" in vars(module)]
