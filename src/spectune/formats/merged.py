"""The adapter folded into its base: one model of transformers, which needs no PEFT.

Each matrix becomes W + s · P Λ Q, summed in float32 and rounded once to the base's precision, from the numbers in the
adapter's file: PEFT rounds those of a pruned adapter to the base's precision when it loads them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from spectune.errors import AdapterError
from spectune.formats.adapter_tensors import PREFIX, Entries
from spectune.formats.pruning import Keep


def merge(model: PeftModel, entries: Entries, keep: Keep | None) -> tuple[PreTrainedModel, bool]:
    """Fold an adapter, loaded by PEFT as `default`, into its base; `model` is used up.

    Args:
        model: on a base that is not quantised.
        entries: the triplets as its file holds them.
        keep: which of them count; None for all.

    Returns:
        The model, and whether training drew tied embeddings apart: then all of them have to be written.

    Raises:
        AdapterError: numbers that are not finite, with the name of the weight.
    """
    tied = getattr(model.config, "tie_word_embeddings", None)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no longer tied.*|.*tie_word_embeddings.*")  # see `save_merged`
        for name, kinds in entries.items():
            layer: Any = model.get_submodule(PREFIX + name)
            values = kinds["E"] if keep is None else kinds["E"] * keep[name][:, None]
            for kind, tensor in (("lora_A", kinds["A"]), ("lora_E", values), ("lora_B", kinds["B"])):
                entry = getattr(layer, kind)["default"]
                entry.data = tensor.to(entry.device, torch.float32)
        merged = cast(PreTrainedModel, cast(Any, model).merge_and_unload())
    merged.eval()
    for name, parameter in merged.named_parameters():
        if not torch.isfinite(parameter).all():
            raise AdapterError(
                f"merged into its base in {str(parameter.dtype).removeprefix('torch.')}, the weights of {name} are not "
                "finite; the base is damaged, or the sum does not fit that precision: export a LoRA adapter instead"
            )
    return merged, getattr(merged.config, "tie_word_embeddings", None) != tied  # PEFT looks, and says so there


def save_merged(merged: PreTrainedModel, directory: Path, *, whole: bool) -> None:
    """Write the model; `whole`: also the weights that transformers would leave out as copies of others."""
    copies = {name: tensor.clone() for name, tensor in merged.state_dict().items()} if whole else None
    merged.save_pretrained(str(directory), state_dict=copies)


def check_same(merged: nn.Module, loaded: nn.Module) -> None:
    """Whether transformers gave back what was written, by weights and by what a few tokens make of them.

    Raises:
        AdapterError: a weight is lost or another.
    """
    found = loaded.state_dict()
    for name, tensor in merged.state_dict().items():
        if name not in found or not torch.equal(found[name], tensor):
            raise AdapterError(
                f"a model of this family cannot hold {name} as the adapter trained it: transformers does not give it "
                "back; export a LoRA adapter instead (--format lora)"
            )
    tokens = torch.tensor([[1, 2, 3, 1]])
    with torch.no_grad():
        ours, theirs = (model(input_ids=tokens, decoder_input_ids=tokens[:, :2]).logits for model in (merged, loaded))
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max())):
        raise AdapterError(
            "transformers loads the merged model with other outputs, so that it was not written; export a LoRA adapter "
            "instead (--format lora)"
        )
