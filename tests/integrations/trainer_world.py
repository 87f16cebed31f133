"""transformers' own `Seq2SeqTrainer` over tiny models and a fixed order of rows of unequal lengths."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from tests.adapter.tiny import VOCABULARY, adapted, base
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from spectune import AdaLoraCallback

STEPS = 14
PHASES: dict[str, Any] = {"tinit": 2, "tfinal": 5, "deltaT": 2}
FREEZE = 9


def row(number: int) -> dict[str, list[int]]:
    """Random tokens, the same for the same number; 4 to 8 in, 2 to 6 out."""
    generator = torch.Generator().manual_seed(number)

    def tokens(least: int) -> list[int]:
        length = int(torch.randint(least, least + 5, (), generator=generator))
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    return {"input_ids": tokens(4), "labels": tokens(2)}


ROWS = [row(number) for number in range(64)]


def collate(rows: list[dict[str, list[int]]], model: Any = None) -> dict[str, Tensor]:
    """Padded to the longest; with a model also the decoder's input, which label smoothing needs."""

    def padded(name: str, filler: int) -> Tensor:
        width = max(len(one[name]) for one in rows)
        return torch.tensor([one[name] + [filler] * (width - len(one[name])) for one in rows])

    ids, labels = padded("input_ids", 1), padded("labels", -100)
    batch = {"input_ids": ids, "attention_mask": ids.ne(1).long(), "labels": labels}
    if model is not None:
        batch["decoder_input_ids"] = model.get_base_model().prepare_decoder_input_ids_from_labels(labels)
    return batch


def peft_model(family: str, name: str = "default", **changes: Any) -> Any:
    """Plain PEFT's AdaLoRA whose ΔW is not 0, with a total_step that is not the Trainer's."""
    dropout = {"t5": "dropout_rate", "bart": "dropout"}[family]
    tiny = base(family, **{dropout: changes.pop("dropout", 0.0)})
    return adapted(tiny, name, **{"spread": 0.2, **PHASES, "total_step": 1000, **changes})


def arguments(directory: Path, **changes: Any) -> Seq2SeqTrainingArguments:
    """Two micro-batches of four rows a step, in the order of the rows."""
    plain: dict[str, Any] = {
        "output_dir": str(directory),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return Seq2SeqTrainingArguments(**{**plain, **changes})


def trainer(
    model: Any, args: Seq2SeqTrainingArguments, *callbacks: TrainerCallback, smoothed: bool = False, **parts: Any
) -> Seq2SeqTrainer:
    """The Trainer with these callbacks, `AdaLoraCallback` if none are given."""
    return Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=ROWS,
        data_collator=lambda rows: collate(rows, model if smoothed else None),
        callbacks=list(callbacks) or [AdaLoraCallback()],
        **parts,
    )


def train(run: Seq2SeqTrainer, **how: Any) -> Any:
    """`train()`, without what torch and transformers say about pinned memory on a machine without GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        return run.train(**how)
