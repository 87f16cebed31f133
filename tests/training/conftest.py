"""A tiny real base on disk, a small table, and a run over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import spectune
from spectune.data.examples import Example
from spectune.evaluation.bases import load_base
from spectune.evaluation.generation import generate_texts
from spectune.evaluation.reload import Conditions, ReloadProof
from spectune.training.finish import RunResult
from spectune.training.progress import Reporter

Run = Callable[..., RunResult]


def tiny_model(kind: str, vocabulary: int, dropout: float = 0.1, layers: int = 1) -> PreTrainedModel:
    """Random T5 (gated) or BART of width 32 with dropout, so that random states matter."""
    torch.manual_seed(0)
    if kind == "t5":
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocabulary,
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=layers,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=dropout,
            )
        )
        model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 0
        return model
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocabulary,
            d_model=32,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            dropout=dropout,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            decoder_start_token_id=1,
            forced_eos_token_id=1,
        )
    )


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Directories of a T5 and a BART with their tokenizer."""
    made = {}
    for kind in ("t5", "bart"):
        made[kind] = tmp_path_factory.mktemp(kind)
        tiny_model(kind, len(tiny_tokenizer)).save_pretrained(made[kind])
        tiny_tokenizer.save_pretrained(made[kind])
    return made


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """46 rows: text, and label 0 or 1 that a word decides."""
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    words = ("profit", "sales", "outlook", "demand", "the order book")
    rows = [f"{words[n % 5]} number {n} {'rose' if n % 2 else 'fell'},{n % 2}" for n in range(46)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(bases: dict[str, Path], table: Path, tmp_path: Path) -> Run:
    """Trains with small defaults; keywords are sections, the others are passed on. Quiet unless `screen` is given."""

    def train(
        *,
        base: str = "t5",
        resume: bool | str = False,
        overwrite: bool = False,
        screen: StringIO | None = None,
        **sections: Any,
    ) -> RunResult:
        config: dict[str, dict[str, Any]] = {
            "model": {"model_name_or_path": str(bases[base]), "dtype": "float32"},  # on every machine alike
            "data": {
                "train_file": str(table),
                "label_names": {0: "negative", 1: "positive"},
                "validation_split": 0.2,
                "max_target_length": 8,
            },
            "adapter": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 6, "deltaT": 2},
            "train": {
                "output_dir": str(tmp_path / "run"),
                "max_steps": 14,
                "per_device_train_batch_size": 4,
                "learning_rate": 5e-3,
                "logging_steps": 3,
                "use_cpu": True,
            },
            "evaluation": {"eval_strategy": "no", "eval_on_start": False},
        }
        for name, values in sections.items():
            config[name] |= values
        reporter = Reporter(quiet=screen is None, stream=screen)
        return spectune.train(config, resume=resume, overwrite=overwrite, reporter=reporter)

    return train


def proof_in_this_process(
    adapter_dir: Path,
    *,
    examples: Sequence[Example],
    live_predictions: Sequence[str],
    conditions: Conditions,
    **_: Any,
) -> ReloadProof:
    """The reload proof without the child process, whose imports take seconds: plain PEFT on a fresh base too."""
    place = str(adapter_dir)
    config = PeftConfig.from_pretrained(place)
    base = load_base(
        str(config.base_model_name_or_path),
        dtype=getattr(torch, conditions.dtype),
        device=conditions.device,
        quantization=conditions.quantization,
    )
    tokenizer = AutoTokenizer.from_pretrained(place)
    encoded = tokenizer([e.source for e in examples], truncation=True, max_length=conditions.max_source_length)
    texts = generate_texts(
        PeftModel.from_pretrained(base, place),
        tokenizer,
        encoded["input_ids"],
        GenerationConfig.from_pretrained(place),
        batch_size=conditions.batch_size,
    )
    wrong = sum(ours != theirs for ours, theirs in zip(live_predictions, texts, strict=True))
    return ReloadProof(wrong == 0, len(texts), wrong, None, {}, {}, 0.0)


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose subject is another."""
    monkeypatch.setattr("spectune.training.finish.prove_reload", proof_in_this_process)


def journal(result: RunResult) -> list[dict[str, Any]]:
    """The run's journal."""
    return [json.loads(line) for line in (result.directory / "journal.jsonl").read_text("utf-8").splitlines()]
