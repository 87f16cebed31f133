"""Load the base model and its tokenizer, and put the adapter on: PEFT's own objects, then the engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_host import attach
from spectune.adapter.schedule import RankSchedule
from spectune.adapter.targets import resolve_targets
from spectune.config import AdapterConfig, ModelConfig
from spectune.errors import ModelError, first_line
from spectune.evaluation import bases
from spectune.training.quantization import check_quantization


@dataclass(frozen=True)
class Adapted:
    """A base with its adapter and engine."""

    model: PeftModel
    engine: AdaLoraEngine
    trainable: int
    total: int
    base_bytes: int


def load_base(location: str, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The base model with weights in `dtype` (or quantised), on `device`, in evaluation mode.

    Raises:
        ConfigError: a quantisation that cannot be had here.
        ModelError: no weights, or weights of another model.
    """
    if config.quantization is not None:
        check_quantization(config.quantization, device)
    try:
        return bases.load_base(
            location,
            revision=config.revision,
            dtype=dtype,
            device=str(device),
            quantization=config.quantization,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        raise ModelError(f"{config.model_name_or_path} cannot be loaded: {first_line(error)}") from None


def adapt(
    base: PreTrainedModel,
    config: AdapterConfig,
    schedule: RankSchedule,
    revision: str | None,
    room: int | None = None,
) -> Adapted:
    """Inject PEFT's AdaLoRA and attach the engine, for a loop that adds the penalty itself.

    Args:
        base: the base model.
        config: the run's section.
        schedule: the resolved schedule.
        revision: of the base, on the hub; written into the adapter's configuration.
        room: parameters that the triplets may have after the freeze (`sizes.parameters_of`).

    Raises:
        ConfigError: a target that matches nothing.
    """
    peft_config = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM",
        target_modules=resolve_targets(base, config.target_modules, config.exclude_modules, config.layers_to_transform),
        modules_to_save=config.modules_to_save,
        bias=config.bias,
        trainable_token_indices=config.trainable_token_indices,
        init_r=schedule.init_r,
        target_r=schedule.target_r,
        tinit=schedule.tinit,
        tfinal=schedule.tfinal,
        deltaT=schedule.deltaT,
        total_step=schedule.total_step,
        beta1=config.beta1,
        beta2=config.beta2,
        orth_reg_weight=config.orth_reg_weight,
        lora_alpha=config.resolved_lora_alpha,
        lora_dropout=config.lora_dropout,
        revision=revision,
    )
    base_bytes = sum(parameter.numel() * parameter.element_size() for parameter in base.parameters())
    with bases.without_peft_chatter():
        model = get_peft_model(base, peft_config, adapter_name=config.adapter_name, revision=revision)
    assert isinstance(model, PeftModel)
    engine = attach(model, penalty="step", importance=config.importance, pruning=config.pruning, budget=room)
    trainable, total = model.get_nb_trainable_parameters()
    return Adapted(model, engine, trainable, total, base_bytes)
