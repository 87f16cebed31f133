from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from spectune.evaluation.decoding import base_of, evaluation_mode
from spectune.evaluation.loss import evaluation_loss

Adapt = Callable[[PreTrainedModel], PeftModel]


def batch(rows: list[tuple[int, int]], seed: int = 0, vocabulary: int = 100) -> dict[str, Tensor]:
    """Random batch; each row has (source, target) tokens, padded to the longest."""
    draw = random.Random(seed)
    source, target = max(row[0] for row in rows), max(row[1] for row in rows)
    ids = [[draw.randrange(3, vocabulary) for _ in range(n)] + [0] * (source - n) for n, _ in rows]
    mask = [[1] * n + [0] * (source - n) for n, _ in rows]
    labels = [[draw.randrange(3, vocabulary) for _ in range(n)] + [-100] * (target - n) for _, n in rows]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


def by_hand(model: PreTrainedModel, data: dict[str, Tensor]) -> list[float]:
    """−log p of every target token, in float64."""
    with torch.no_grad(), evaluation_mode(model):
        log_p = model(**data).logits.double().log_softmax(-1)
    rows, columns = (data["labels"] != -100).nonzero(as_tuple=True)
    return [-float(log_p[r, c, data["labels"][r, c]]) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]


def test_it_is_the_mean_over_target_tokens_of_all_rows(tiny_t5: PreTrainedModel, tiny_bart: PreTrainedModel) -> None:
    batches = [batch([(5, 6), (3, 1)]), batch([(4, 2)], seed=1)]
    for model in (tiny_t5, tiny_bart):
        tokens = [value for data in batches for value in by_hand(model, data)]
        assert len(tokens) == 9
        assert evaluation_loss(model, batches) == pytest.approx(math.fsum(tokens) / 9, rel=1e-6)


def test_it_does_not_depend_on_how_rows_are_batched(tiny_t5: PreTrainedModel) -> None:
    whole = batch([(4, 3), (4, 2), (4, 3), (4, 1)])
    single = [{name: tensor[row : row + 1] for name, tensor in whole.items()} for row in range(4)]
    assert evaluation_loss(tiny_t5, single) == pytest.approx(evaluation_loss(tiny_t5, [whole]), rel=1e-6)


def test_pefts_penalty_is_not_in_it(tiny_t5: PreTrainedModel, adapt: Adapt) -> None:
    adapted, data = adapt(tiny_t5), batch([(5, 4), (2, 2)])
    with torch.no_grad():
        with_penalty = float(adapted.eval()(**data).loss)
    tokens = by_hand(base_of(adapted), data)
    loss = evaluation_loss(adapted, [data])
    assert loss == pytest.approx(math.fsum(tokens) / len(tokens), rel=1e-6)
    assert with_penalty > loss + 0.01


def test_it_works_where_peft_fails_on_labels(tiny_t5: PreTrainedModel, adapt: Adapt) -> None:
    adapted, data = adapt(tiny_t5), batch([(3, 2)])
    expected = evaluation_loss(adapted, [data])
    del adapted.base_model.trainable_adapter_name  # as after PeftModel.from_pretrained, which loads for inference
    assert evaluation_loss(adapted, [data]) == expected


def test_mode_and_random_state_stay(tiny_t5: PreTrainedModel) -> None:
    tiny_t5.train()
    state = torch.get_rng_state()
    first = evaluation_loss(tiny_t5, [batch([(5, 4)])])
    assert tiny_t5.training
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluation_loss(tiny_t5, [batch([(5, 4)])]) == first  # dropout would differ


def test_half_precision_logits_are_summed_in_float32(tiny_t5: PreTrainedModel) -> None:
    data = batch([(6, 50)] * 8)
    exact = evaluation_loss(tiny_t5, [data])
    assert evaluation_loss(tiny_t5.bfloat16(), [data]) == pytest.approx(exact, rel=0.02)


def test_nothing_to_score_is_refused(tiny_t5: PreTrainedModel) -> None:
    empty = batch([(3, 2)])
    empty["labels"][:] = -100
    with pytest.raises(ValueError, match="no target tokens"):
        evaluation_loss(tiny_t5, [empty])
    with pytest.raises(ValueError, match="no batches"):
        evaluation_loss(tiny_t5, [])
