"""What a run leaves behind: the adapter's directory and the summary."""

from __future__ import annotations

import math
import platform
import warnings
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.roles import role_of
from spectune.config import RunConfig
from spectune.data.prepare import PreparedData
from spectune.errors import RunError
from spectune.files import write_json, write_text
from spectune.formats.adapter_files import IMPORTANCE, SETTINGS, WEIGHTS
from spectune.formats.adapter_writing import in_order, readable
from spectune.formats.model_card import CardFacts, model_card
from spectune.manifest import whole_directory
from spectune.report.tables import role_summary
from spectune.runfile import dump_run_config

_PACKAGES = ("spectune", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "sacrebleu")


def save_adapter(
    directory: Path,
    *,
    model: PeftModel,
    engine: AdaLoraEngine,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig,
    settings: dict[str, Any],
    card: CardFacts,
    adapter_name: str,
) -> int:
    """Replace `adapter/` as a whole; returns the bytes of the weights.

    PEFT's files at the top whatever the adapter's name, the tokenizer, the effective generation config, the card, the
    scores at the freeze, what `evaluate` and `predict` need (`spectune.json`), and the manifest.

    Raises:
        RunError: the weights are not finite; the adapter of before stays.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in engine.parameters()):
        raise RunError(
            "the adapter's weights are not finite, so it was not saved; lower train.learning_rate and start anew"
        )
    with whole_directory(directory) as partial:
        model.save_pretrained(str(partial), selected_adapters=[adapter_name])
        if adapter_name != "default":  # PEFT puts other names into a directory of their own
            for path in list((partial / adapter_name).iterdir()):
                path.rename(partial / path.name)
            (partial / adapter_name).rmdir()
        in_order(partial)
        tokenizer.save_pretrained(str(partial))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generation.save_pretrained(str(partial))
        scores = {name: values.detach().cpu().contiguous() for name, values in engine.final_scores.items()}
        save_file(scores, partial / IMPORTANCE)
        write_json(partial / SETTINGS, settings)
        size = (partial / WEIGHTS).stat().st_size
        write_text(partial / "README.md", model_card(_with_size(card, size)))
        readable(partial)
    return size


def adapter_settings(
    config: RunConfig, data: PreparedData, dtype: str, max_new_tokens: int | None, base_digest: str
) -> dict[str, Any]:
    """What `spectune.json` holds: how texts become sources and labels words, how outputs are scored, and which base."""
    return {
        "version": 1,
        "task": data.task,
        "data": config.data.model_dump(mode="json"),
        "labels": None if data.verbalizer is None else data.verbalizer.as_dict(),
        "evaluation": config.evaluation.model_dump(mode="json") | {"max_new_tokens": max_new_tokens or "auto"},
        "dtype": dtype,
        "quantization": config.model.quantization,
        "global_attention": config.model.global_attention,
        "base_name": config.model.model_name_or_path,
        # what quantisation makes of weights differs between devices, so that its hash says nothing elsewhere
        "base_sha256": base_digest if config.model.quantization is None else None,
    }


def card_facts(
    config: RunConfig,
    data: PreparedData,
    engine: AdaLoraEngine,
    metrics: dict[str, Any],
    parameters: dict[str, int],
    base: str,
    first_token_global: bool = False,
) -> CardFacts:
    """The card's facts, from a finished run."""
    ranks = engine.ranks()
    section = config.data
    files = {"train": section.train_file or section.dataset_name or ""}
    files |= {"validation": section.validation_file} if section.validation_file else {}
    return CardFacts(
        base_model=config.model.model_name_or_path,
        base_is_local=Path(base).is_dir(),
        base_revision=config.model.revision,
        task=data.task,
        data_files=files,
        rows=({} if data.train_rows is None else {"train": data.train_rows}) | {"validation": len(data.validation)},
        label_words=() if data.verbalizer is None else data.verbalizer.words,
        languages=(section.source_lang, section.target_lang) if section.source_lang and section.target_lang else None,
        first_token_global=first_token_global,
        metrics=metrics,
        rank_summary=role_summary(ranks, {name: role_of(name) for name in ranks}),
        budget=sum(ranks.values()),
        init_r=engine.schedule.init_r,
        target_r=sum(ranks.values()) / len(ranks),
        trainable_parameters=parameters["trainable"],
        total_parameters=parameters["total"],
        total_steps=engine.schedule.total_step,
        run_yaml=dump_run_config(config),
        versions=versions(),
    )


def saved_numbers(directory: Path) -> int:
    """Parameters in the saved weights."""
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a result."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def _with_size(card: CardFacts, size: int) -> CardFacts:
    return replace(card, adapter_bytes=size)


def plain_metrics(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{name: {"value", "signature"}}."""
    return {name: asdict(metric) for name, metric in metrics.items()}
