"""A finished adapter on its base, ready to evaluate and predict: plain PEFT, whoever made it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from spectune.errors import AdapterError, DataError, RunError
from spectune.evaluation.bases import load_base
from spectune.evaluation.evaluate import Evaluation, evaluate_examples
from spectune.evaluation.generation import generate_texts, generation_config, generation_model, resolve_settings
from spectune.evaluation.metrics import resolve_metrics
from spectune.files import read_json
from spectune.formats.adapter_files import SETTINGS, locate_adapter
from spectune.formats.digests import check_base

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def load_adapter(location: str, *, revision: str | None = None, trust_remote_code: bool = False) -> TrainedAdapter:
    """Load from a directory or the hub; a manifest, where there is one, is verified first.

    Args:
        location: a directory, a run directory, or a hub id.
        revision: of the hub's adapter; the base's revision is in the adapter's own configuration.
        trust_remote_code: let the base bring code of its own. Only the caller can say so, never the adapter.

    Raises:
        AdapterError: no adapter, a damaged one, or a base that cannot be resolved.
    """
    path = locate_adapter(location, revision)
    settings = _Settings.read(path)
    model = _load_model(path, settings, trust_remote_code)
    base = str(model.peft_config["default"].base_model_name_or_path)
    return TrainedAdapter(
        model=model,
        tokenizer=_load_tokenizer(str(path), base),
        data=settings.data,
        evaluation=settings.evaluation,
        task=settings.task,
        verbalizer=settings.verbalizer,
    )


@dataclass(frozen=True)
class _Settings:
    """What `spectune.json` says; the defaults stand for an adapter that plain PEFT made."""

    data: DataConfig = field(default_factory=lambda: DataConfig(train_file="-"))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    task: str = "text2text"
    verbalizer: Verbalizer | None = None
    dtype: str = "float32"
    quantization: str | None = None
    base: str | None = None
    """SHA-256 of the base's weights in that precision."""

    @classmethod
    def read(cls, path: Path) -> _Settings:
        if not (path / SETTINGS).is_file():
            return cls()
        try:
            found = read_json(path / SETTINGS)
            labels = found.get("labels")
            settings = cls(
                data=DataConfig(**found["data"]),
                evaluation=EvaluationConfig(**found["evaluation"]),
                task=str(found["task"]),
                verbalizer=None if labels is None else Verbalizer.from_dict(labels),
                dtype=str(found["dtype"]),
                quantization=found.get("quantization"),
                base=found.get("base_sha256"),
            )
        except (RunError, DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(f"{path / SETTINGS} is damaged: {_first_line(error)}") from None
        if settings.dtype not in _DTYPES or settings.quantization not in (None, "int8", "nf4"):
            precision = f"{settings.dtype!r}, {settings.quantization!r}"
            raise AdapterError(f"{path / SETTINGS} is damaged: {precision} is no precision of a base")
        return settings


def _load_model(path: Path, settings: _Settings, trust: bool) -> PeftModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = str(path)
    try:
        config = PeftConfig.from_pretrained(source)
        base = load_base(
            str(config.base_model_name_or_path),
            revision=config.revision,
            dtype=_DTYPES[settings.dtype],
            device=device,
            quantization=settings.quantization,
            trust_remote_code=trust,
        )
        check_base(base, settings.base, source)
        with warnings.catch_warnings():  # PEFT looks for LoRA's kind of rank_pattern in AdaLoRA's, and finds none
            warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match.*")
            model: PeftModel = PeftModel.from_pretrained(base, source)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        reason = _first_line(error)
        if "trust_remote_code" in str(error):
            reason = "its base brings code of its own; load it with trust_remote_code if you trust that"
        raise AdapterError(f"{source} cannot be loaded as an adapter: {reason}") from None
    return model.eval()


def _load_tokenizer(source: str, base: str) -> PreTrainedTokenizerBase:
    for place in (source, base):
        try:  # without the word, transformers would ask at the terminal whether to run a tokenizer's code
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
        return tokenizer
    raise AdapterError(f"neither {source} nor its base {base} holds a tokenizer")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
