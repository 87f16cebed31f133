"""Tiny random encoder-decoders with an AdaLoRA adapter, batches, and the loop that PEFT's users write."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_host import attach
from spectune.adapter.targets import default_targets

VOCABULARY = 60
SCHEDULE: dict[str, Any] = {"total_step": 22, "tinit": 4, "tfinal": 6, "deltaT": 2, "init_r": 4, "target_r": 2}
FREEZE = 16
LAST = 25  # some calls past total_step

_T5: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
_BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.2,
}


def base(family: str, layers: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random model of `family` (t5, gated_t5, bart), the same numbers at each call."""
    return copy.deepcopy(_base(family, layers, tuple(changes.items()))).to(dtype)


@cache
def _base(family: str, layers: int, changes: tuple[tuple[str, Any], ...]) -> Any:
    torch.manual_seed(0)
    if family == "bart":
        return BartForConditionalGeneration(
            BartConfig(
                **{
                    **_BART,
                    "encoder_layers": layers,
                    "decoder_layers": layers,
                    "vocab_size": VOCABULARY,
                    **dict(changes),
                }
            )
        )
    feed_forward = "gated-gelu" if family == "gated_t5" else "relu"
    size: dict[str, Any] = {"num_layers": layers, "vocab_size": VOCABULARY, "feed_forward_proj": feed_forward}
    return T5ForConditionalGeneration(T5Config(**{**_T5, **size, **dict(changes)}))


def options(model: nn.Module, **changes: Any) -> AdaLoraConfig:
    """AdaLoRA on every linear map of `model`, on the schedule above."""
    plain = {"lora_alpha": 16, "orth_reg_weight": 0.3, "task_type": "SEQ_2_SEQ_LM", **SCHEDULE}
    return AdaLoraConfig(**{"target_modules": default_targets(model), **plain, **changes})


def adapted(model: Any, name: str = "default", spread: float = 0.0, **changes: Any) -> Any:
    """Plain PEFT's AdaLoRA in training mode; `spread` draws all entries with that deviation, so that ΔW is not 0."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter name '.*' should not be contained in the prefix")
        peft_model: Any = get_peft_model(model, options(model, **changes), adapter_name=name)
    if spread:
        with torch.no_grad():
            for kind in ("lora_A", "lora_B", "lora_E"):
                for entry in entries(peft_model, kind, name).values():
                    entry.normal_(std=spread)
    peft_model.train()
    return peft_model


def hosted(family: str, *, spread: float = 0.0, layers: int = 1, **changes: Any) -> tuple[Any, AdaLoraEngine]:
    """An attached model; options of `attach` and of AdaLoRA mixed."""
    ours = {key: changes.pop(key) for key in ("penalty", "importance", "pruning", "budget") if key in changes}
    model = adapted(base(family, layers), spread=spread, **changes)
    return model, attach(model, **ours)


def batch(step: int, rows: int = 4, source: int = 7, target: int = 4) -> dict[str, Tensor]:
    """Random tokens, the same for the same step."""
    generator = torch.Generator().manual_seed(1000 + step)

    def tokens(width: int) -> Tensor:
        return torch.randint(3, VOCABULARY, (rows, width), generator=generator)

    return {"input_ids": tokens(source), "labels": tokens(target)}


def entries(model: nn.Module, kind: str, name: str = "default") -> dict[str, Tensor]:
    """PEFT's entries of one kind (lora_A, lora_B, lora_E) by module name."""
    end = f".{kind}.{name}"
    return {key.removesuffix(end): value for key, value in model.named_parameters() if key.endswith(end)}


def live(model: nn.Module, name: str = "default") -> Tensor:
    """Which λ are not 0, over all matrices."""
    return torch.cat([entry.detach().flatten() != 0 for entry in entries(model, "lora_E", name).values()])


def logits(model: Any, step: int = 99) -> Tensor:
    """Logits of one batch, as the model stands."""
    tokens = batch(step)
    with torch.no_grad():
        found: Tensor = model(input_ids=tokens["input_ids"], decoder_input_ids=tokens["labels"]).logits
    return found


def generated(model: Any, step: int = 99) -> Tensor:
    """Tokens that greedy decoding gives."""
    found: Tensor = model.generate(input_ids=batch(step)["input_ids"], max_new_tokens=5, do_sample=False, num_beams=1)
    return found


def reload(model: Any, directory: Path, family: str, name: str = "default", **kwargs: Any) -> Any:
    """Save, and load with plain PEFT on a fresh base."""
    model.save_pretrained(directory)
    return load_plain(family, directory if name == "default" else directory / name, **kwargs)


def load_plain(family: str, directory: Path, dtype: torch.dtype = torch.float32, layers: int = 1, **kwargs: Any) -> Any:
    """A saved adapter under plain PEFT, on a fresh base."""
    with warnings.catch_warnings():  # PEFT reads AdaLoRA's pattern as LoRA's, and says that it ignores it
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match")
        plain: Any = PeftModel.from_pretrained(base(family, layers, dtype), directory, **kwargs)
    return plain


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, foreach=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, lr=1e-2),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=5e-2, momentum=0.9),
}


@dataclass
class Trace:
    """What a run showed after each step."""

    losses: list[float] = field(default_factory=list)
    live: list[Tensor] = field(default_factory=list)


def steps_of_peft(
    model: Any,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    *,
    name: str = "default",
    micro_batches: int = 1,
    after: Callable[[int], None] = lambda step: None,
) -> Trace:
    """The loop of PEFT's documentation, the same for plain PEFT and an attached model."""
    trace = Trace()
    for step in steps:
        total = 0.0
        for part in range(micro_batches):
            loss = model(**batch(micro_batches * step + part)).loss / micro_batches
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad(set_to_none=True)
        trace.losses.append(total)
        trace.live.append(live(model, name))
        after(step)
    return trace


def steps_of_paper(
    model: Any,
    engine: AdaLoraEngine,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    *,
    max_norm: float | None = None,
) -> list[float]:
    """Our own order: attach(model, penalty="step"). Returns the cross entropies."""
    losses = []
    for step in steps:
        loss = model(**batch(step)).loss
        loss.backward()
        engine.add_orthogonality_gradient()
        engine.observe()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(engine.parameters(), max_norm)
        optimizer.step()
        engine.reallocate(step)
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses
