"""AdaLoRA adapters that plain PEFT made, on a base beside them; and what a text's logits are in each form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from tests.training.conftest import tiny_model
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

import spectune
from spectune.formats.adapter_files import SETTINGS, read_adapter_config

SOURCES = ["profit number 3 rose", "the order book fell", "sales"]


def adapter_of_peft(
    place: Path,
    tokenizer: PreTrainedTokenizerFast,
    kind: str = "t5",
    *,
    pruned: bool = True,
    dtype: str = "float32",
    **changes: Any,
) -> Path:
    """`place/adapter` on `place/base`; every number random, ranks 0 to 4 where it is pruned."""
    base = place / "base"
    tiny_model(kind, len(tokenizer)).to(getattr(torch, dtype)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    names = ["q", "k", "v", "o", "wo"] if kind == "t5" else ["q_proj", "k_proj", "v_proj", "fc1", "fc2"]
    options: dict[str, Any] = {"target_modules": names, "init_r": 4, "target_r": 2, "lora_alpha": 12}
    config = AdaLoraConfig(task_type="SEQ_2_SEQ_LM", tinit=1, tfinal=1, total_step=9, **options | changes)
    model: Any = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(base, dtype="auto"), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    adapted = sorted(name for name, _ in model.named_parameters() if name.endswith("lora_E.default"))
    if pruned:
        model.peft_config["default"].rank_pattern = {
            name.removeprefix("base_model.model."): [slot < number % 5 for slot in range(4)]
            for number, name in enumerate(adapted)
        }
    model.save_pretrained(place / "adapter")
    if dtype != "float32":  # as a run in that precision says
        settings = {"task": "text2text", "dtype": dtype, "data": {"train_file": "-"}, "evaluation": {}}
        (place / "adapter" / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return place / "adapter"


def logits(model: Any, tokenizer: Any) -> Tensor:
    """For three texts, and outputs that are their beginnings."""
    encoded = tokenizer(SOURCES, return_tensors="pt", padding=True)
    with torch.no_grad():
        found: Tensor = model.eval()(**encoded, decoder_input_ids=encoded["input_ids"][:, :4]).logits
    return found.float()


def of_adapter(path: Path) -> Tensor:
    """Logits of an AdaLoRA adapter as plain PEFT loads it."""
    loaded = spectune.load(path)
    return logits(loaded.model, loaded.tokenizer)


def of_lora(path: Path, dtype: str = "float32") -> Tensor:
    """Logits of a LoRA export under stock PEFT."""
    config = read_adapter_config(path)
    base = AutoModelForSeq2SeqLM.from_pretrained(config["base_model_name_or_path"], dtype=getattr(torch, dtype))
    return logits(
        PeftModel.from_pretrained(base, path), AutoTokenizer.from_pretrained(config["base_model_name_or_path"])
    )


def of_merged(path: Path) -> Tensor:
    """Logits of a merged export under transformers alone."""
    return logits(AutoModelForSeq2SeqLM.from_pretrained(path, dtype="auto"), AutoTokenizer.from_pretrained(path))


def assert_close(found: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    """Within `bound` of the largest logit."""
    torch.testing.assert_close(found, expected, rtol=0, atol=bound * float(expected.abs().max()))
