"""A finished adapter on its base, ready to evaluate and predict: plain PEFT, whoever made it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectune.config import DataConfig, EvaluationConfig
from spectune.data.examples import Example
from spectune.data.prepare import load_evaluation_examples
from spectune.data.tokenization import tokenize_examples
from spectune.data.verbalizer import Verbalizer
from spectune.errors import AdapterError
from spectune.evaluation.bases import load_base
from spectune.evaluation.evaluate import Evaluation, evaluate_examples
from spectune.evaluation.generation import generate_texts, generation_config, generation_model, resolve_settings
from spectune.evaluation.metrics import resolve_metrics
from spectune.files import MANIFEST, read_json, verify_manifest

_SETTINGS = "spectune.json"


@dataclass(frozen=True)
class TrainedAdapter:
    """Model, tokenizer, and how this adapter's run turned rows into texts and scored them."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    data: DataConfig
    evaluation: EvaluationConfig
    task: str
    verbalizer: Verbalizer | None

    def evaluate(self, named: str) -> Evaluation:
        """Score the rows of a table or data set, with the run's metrics and decoding."""
        examples, _ = load_evaluation_examples(named, config=self.data, verbalizer=self.verbalizer)
        tokenized = self._tokenize(examples)
        longest = min(tokenized.truncation.longest_target, self.data.max_target_length)
        return evaluate_examples(
            self.model,
            self.tokenizer,
            examples,
            tokenized,
            settings=resolve_settings(self.evaluation, longest),
            metric_names=resolve_metrics(self.evaluation.metrics, self.task),
            labels=None if self.verbalizer is None else self.verbalizer.words,
            task=self.task,
        )

    def predict(self, examples: Sequence[Example]) -> list[str]:
        """One output per example, in order."""
        settings = resolve_settings(self.evaluation, self.data.max_target_length)
        with generation_model(self.model) as generator:
            return generate_texts(
                generator,
                self.tokenizer,
                self._tokenize(examples).input_ids,
                generation_config(self.model, settings),
                batch_size=settings.batch_size,
            )

    def _tokenize(self, examples: Sequence[Example]) -> Any:
        return tokenize_examples(
            examples,
            self.tokenizer,
            max_source_length=self.data.max_source_length,
            max_target_length=self.data.max_target_length,
        )


def load_adapter(location: str) -> TrainedAdapter:
    """Load from a directory or the hub; a manifest, where there is one, is verified first.

    Raises:
        AdapterError: no adapter, a damaged one, or a base that cannot be resolved.
    """
    path = Path(location)
    if path.is_dir() and (path / "adapter" / "adapter_config.json").is_file():
        path = path / "adapter"  # a run directory stands for its adapter
    if path.is_dir():
        _check_directory(path)
    elif path.exists():
        raise AdapterError(f"{location} is a file; name an adapter's directory or hub id")
    settings = read_json(path / _SETTINGS) if (path / _SETTINGS).is_file() else {}
    source = str(path) if path.is_dir() else location
    model = _load_model(source, settings)
    labels = settings.get("labels")
    return TrainedAdapter(
        model=model,
        tokenizer=_load_tokenizer(source, str(model.peft_config["default"].base_model_name_or_path)),
        data=DataConfig(**settings["data"]) if settings else DataConfig(train_file="-"),
        evaluation=EvaluationConfig(**settings["evaluation"]) if settings else EvaluationConfig(),
        task=settings.get("task", "text2text"),
        verbalizer=None if labels is None else Verbalizer.from_dict(labels),
    )


def _check_directory(path: Path) -> None:
    if not (path / "adapter_config.json").is_file():
        raise AdapterError(f"{path} is not an adapter's directory: it holds no adapter_config.json")
    if (path / MANIFEST).is_file():
        verify_manifest(path)


def _load_model(source: str, settings: dict[str, Any]) -> PeftModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, settings.get("dtype", "float32"))
    trust = bool(settings.get("trust_remote_code", False))
    try:
        config = PeftConfig.from_pretrained(source)
        base = load_base(
            str(config.base_model_name_or_path),
            revision=config.revision,
            dtype=dtype,
            device=device,
            quantization=settings.get("quantization"),
            trust_remote_code=trust,
        )
        with warnings.catch_warnings():  # PEFT looks for LoRA's kind of rank_pattern in AdaLoRA's, and finds none
            warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match.*")
            model: PeftModel = PeftModel.from_pretrained(base, source)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise AdapterError(f"{source} cannot be loaded as an adapter: {reason}") from None
    return model.eval()


def _load_tokenizer(source: str, base: str) -> PreTrainedTokenizerBase:
    for place in (source, base):
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
        return tokenizer
    raise AdapterError(f"neither {source} nor its base {base} holds a tokenizer")
