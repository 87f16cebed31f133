"""Steps in which some or all adapted matrices get no gradient: layer dropout, experts without tokens, LED's windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from tests.training.test_step import OPTIONS, rows, window
from transformers import AutoModelForSeq2SeqLM, BartConfig, LEDConfig, NllbMoeConfig, SwitchTransformersConfig

import spectune
from spectune.config import TrainConfig
from spectune.training.optimizer import make_optimizer
from spectune.training.step import StepOptions, training_step, window_loss

_BART: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "init_std": 0.2,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
_SWITCH: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_experts": 8,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
    "initializer_factor": 2.0,
    "decoder_start_token_id": 0,
}


def adapted(config: Any) -> tuple[PeftModel, spectune.AdaLoraEngine]:
    torch.manual_seed(0)
    base = AutoModelForSeq2SeqLM.from_config(config)
    settings = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM",
        target_modules=spectune.default_targets(base),
        init_r=4,
        target_r=2,
        tinit=1,
        tfinal=2,
        deltaT=1,
        total_step=6,
        lora_alpha=8,
    )
    model = get_peft_model(base, settings)
    assert isinstance(model, PeftModel)
    return model, spectune.attach(model, penalty="step")


def gradients_by_matrix(engine: spectune.AdaLoraEngine) -> dict[str, bool]:
    """Matrix → whether any of its λ had a gradient."""
    grad = engine.store.values.rows.grad
    assert grad is not None
    names = [matrix.name for matrix in engine.store.matrices]
    return {name: any(part) for name, part in zip(names, engine.store.by_matrix(grad.tolist()), strict=True)}


def train(model: Any, engine: spectune.AdaLoraEngine, batch: dict[str, torch.Tensor]) -> None:
    optimizer = make_optimizer(engine.parameters(), TrainConfig())
    for step in range(1, 7):
        result = training_step(
            model, engine, optimizer, window(batch), step=step, rate=1e-2, options=StepOptions(**OPTIONS)
        )
        assert not result.skipped
    assert sum(engine.ranks().values()) == engine.target_budget
    assert all(torch.isfinite(parameter).all() for parameter in engine.parameters())


@pytest.mark.parametrize(
    "config",
    [
        SwitchTransformersConfig(**_SWITCH),
        NllbMoeConfig(**_BART, num_experts=8, encoder_sparse_step=2, decoder_sparse_step=2, expert_capacity=64),
    ],
    ids=["switch_transformers", "nllb-moe"],
)
def test_experts_without_tokens(config: Any) -> None:
    """A few tokens reach few of eight experts: the others' gradient is zero, their moments stay still."""
    model, engine = adapted(config)
    model.train()
    batch = rows(3, [2])
    batch = {name: tensor[:, :3] for name, tensor in batch.items()}
    window_loss(model, window(batch), StepOptions(**OPTIONS))
    reached = {name: hit for name, hit in gradients_by_matrix(engine).items() if "expert" in name}
    assert any(reached.values())
    assert not all(reached.values())
    engine.store.values.rows.grad = None
    train(model, engine, batch)


def test_every_layer_dropped() -> None:
    model, engine = adapted(BartConfig(**_BART, encoder_layerdrop=1.0, decoder_layerdrop=1.0))
    model.train()
    train(model, engine, rows(3, [4, 2]))
    assert not engine.store.values.rows.any()  # λ starts at zero, and nothing but the data's gradient moves it


@pytest.mark.parametrize("wanted", [True, False])
def test_matrices_of_global_attention_learn_with_it_alone(wanted: bool) -> None:
    config = LEDConfig(**_BART, attention_window=4, max_encoder_position_embeddings=32)
    model, engine = adapted(config)
    model.train()
    batch = rows(3, [4, 2])
    if wanted:
        batch["global_attention_mask"] = torch.zeros_like(batch["input_ids"])
        batch["global_attention_mask"][:, 0] = 1
    window_loss(model, window(batch), StepOptions(**OPTIONS))
    reached = {name: hit for name, hit in gradients_by_matrix(engine).items() if name.endswith("_global")}
    assert len(reached) == 6
    assert set(reached.values()) == {wanted}
    engine.store.values.rows.grad = None
    train(model, engine, batch)
