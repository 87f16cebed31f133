"""Tiny encoder-decoder models with random weights, built from their configs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)


@pytest.fixture
def tiny_t5(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tiny_tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        initializer_factor=2.0,
    )
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config)


@pytest.fixture
def tiny_bart(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tiny_tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=1,
        init_std=0.5,
    )
    return BartForConditionalGeneration(config)


@pytest.fixture
def adapt() -> Callable[[PreTrainedModel], PeftModel]:
    """Wrap a model in a PEFT AdaLoRA adapter that changes its output (λ starts at zero in PEFT)."""

    def wrap(model: PreTrainedModel) -> PeftModel:
        config = AdaLoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM,
            init_r=4,
            target_r=2,
            total_step=10,
            lora_alpha=8,
            lora_dropout=0.0,
            target_modules=["q", "v"] if model.config.model_type == "t5" else ["q_proj", "v_proj"],
        )
        adapted = get_peft_model(model, config)
        assert isinstance(adapted, PeftModel)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_()
        return adapted

    return wrap
