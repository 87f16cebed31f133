"""What the loss is made of, and that a window of micro-batches gives the gradient of one batch."""

from __future__ import annotations

import pytest
import torch
from tests.adapter.tiny import adapted, base, batch, hosted
from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine


def gradients(engine: AdaLoraEngine) -> list[Tensor]:
    found = [parameter.grad for parameter in engine.parameters() if parameter.grad is not None]
    assert len(found) == len(engine.parameters())
    return found


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_evaluation_loss_is_cross_entropy_alone(family: str) -> None:
    model, engine = hosted(family, spread=0.2)
    tokens = batch(99)
    with torch.no_grad():
        training, penalty = float(model(**tokens).loss), float(engine.penalty())
        evaluation = float(model.eval()(**tokens).loss)
    shifted = model.get_base_model().prepare_decoder_input_ids_from_labels(tokens["labels"])
    with torch.no_grad():
        found = model(input_ids=tokens["input_ids"], decoder_input_ids=shifted).logits
    expected = torch.nn.functional.cross_entropy(found.flatten(0, 1), tokens["labels"].flatten())
    assert evaluation == pytest.approx(float(expected), abs=1e-5)
    assert penalty > 0.1
    assert training == pytest.approx(evaluation + penalty, abs=1e-5)


def test_penalty_as_in_peft() -> None:
    plain = adapted(base("t5"), spread=0.2)
    model, engine = hosted("t5", spread=0.2)
    tokens = batch(0)
    without = adapted(base("t5"), spread=0.2, orth_reg_weight=0.0)
    with torch.no_grad():
        penalty = float(plain(**tokens).loss - without(**tokens).loss)
        assert float(engine.penalty()) == pytest.approx(penalty, abs=1e-5)
        assert float(model(**tokens).loss) == pytest.approx(float(plain(**tokens).loss), abs=1e-5)


def test_penalty_of_the_step_stays_out_of_the_loss() -> None:
    model, engine = hosted("t5", spread=0.2, penalty="step")
    inside, _ = hosted("t5", spread=0.2)
    loss = model(**batch(0)).loss
    loss.backward()
    penalty = engine.add_orthogonality_gradient()
    total = inside(**batch(0)).loss
    total.backward()
    assert float(total.detach()) == pytest.approx(float((loss + penalty).detach()), abs=1e-5)
    for ours, theirs in zip(gradients(engine), gradients(inside.base_model.engine), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_tuple_for_an_output() -> None:
    model, engine = hosted("bart", spread=0.2)
    as_object = model(**batch(0)).loss
    as_tuple = model(**batch(0), return_dict=False)
    assert torch.equal(as_tuple[0], as_object)
    without_labels = model(**{**batch(0), "labels": None}, decoder_input_ids=batch(0)["labels"], return_dict=False)
    assert without_labels[0].dim() == 3
    assert float(engine.penalty().detach()) > 0


@pytest.mark.parametrize("penalty", ["loss", "step"])
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_give_the_gradient_of_one_batch(micro_batches: int, penalty: str) -> None:
    whole, engine = hosted("bart", spread=0.2, penalty=penalty)
    tokens = batch(0, rows=8)
    whole(**tokens).loss.backward()
    expected = [gradient.clone() for gradient in gradients(engine)]
    whole.zero_grad(set_to_none=True)
    for part in range(micro_batches):
        rows = {key: value.chunk(micro_batches)[part] for key, value in tokens.items()}
        (whole(**rows).loss / micro_batches).backward()
    for ours, theirs in zip(gradients(engine), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_two_forwards_before_one_backward() -> None:
    model, engine = hosted("t5", spread=0.2, penalty="step")
    (model(**batch(0)).loss + model(**batch(1)).loss).backward()
    together = [gradient.clone() for gradient in gradients(engine)]
    model.zero_grad(set_to_none=True)
    model(**batch(0)).loss.backward()
    model(**batch(1)).loss.backward()
    for ours, theirs in zip(gradients(engine), together, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
