"""Two families end to end through the command: a translation with language codes, and summaries by LED.

Random weights; the tokenizers are learnt from the training texts. What the run wrote is compared with what plain PEFT
and transformers write from the adapter's directory.
"""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from tests.families import read_rows, write_base
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import spectune
from spectune.cli import main

ROOT = Path(__file__).parents[1]
SMALL = (
    "train.max_steps=30",
    "adapter.init_r=4",
    "adapter.target_r=2",
    "train.learning_rate=1e-2",
    "train.use_cpu=true",
    "model.dtype=float32",
    "data.max_train_samples=200",
    "data.max_validation_samples=8",
    "data.test_file=null",
    "evaluation.eval_strategy=no",
    "evaluation.max_new_tokens=24",
)


@pytest.fixture(autouse=True)
def data_here(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTUNE_DATA", str(data_root))


def run(example: str, base: Path, output: Path, *overrides: str) -> dict[str, Any]:
    """`spectune train` of an example on another base; returns the summary."""
    place = (f"model.model_name_or_path={base}", f"train.output_dir={output}")
    assert main(["train", str(ROOT / "examples" / f"{example}.yaml"), *SMALL, *place, *overrides]) == 0
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text("utf-8"))
    assert summary["reload_identical"] is True
    assert summary["reload"]["rows"] == 8
    assert sum(summary["ranks"].values()) == 2 * len(summary["ranks"])
    assert summary["metrics"]["eval_loss"]["value"] < summary["evaluations"][0]["eval_loss"]
    return summary


def plainly(adapter: Path, texts: list[str], length: int, **mask: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """Tokenizer and tokens, as anybody gets them who follows the model card."""
    base = AutoModelForSeq2SeqLM.from_pretrained(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    model, tokenizer = PeftModel.from_pretrained(base, adapter), AutoTokenizer.from_pretrained(adapter)
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=length)
    if mask:
        mask = {"global_attention_mask": torch.zeros_like(inputs["input_ids"])}
        mask["global_attention_mask"][:, 0] = 1
    written = model.generate(**inputs, **mask, generation_config=GenerationConfig.from_pretrained(adapter))
    return tokenizer, written


def card(adapter: Path, form: str) -> str:
    """The model card of an adapter or of an export of it; what it says is to be run is code."""
    place = adapter.parent / form if form else adapter
    if form:
        spectune.export(adapter, place, format=form)
    text = (place / "README.md").read_text("utf-8")
    for code in text.split("```python\n")[1:]:
        ast.parse(code.split("```")[0])
    assert "from transformers import GenerationConfig" in text
    return text


def decoded(tokenizer: Any, written: torch.Tensor) -> list[str]:
    texts = tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]


def test_translation_with_language_codes(tmp_path: Path, data_root: Path) -> None:
    rows = read_rows(data_root / "tatoeba_en_es" / "train.jsonl", 2000)
    base = write_base("mbart50", tmp_path / "base", [text for row in rows for text in (row["text"], row["target"])])
    run("mbart-large-50/tatoeba_en_es", base, tmp_path / "run")
    adapter, said = tmp_path / "run" / "adapter", read_rows(tmp_path / "run" / "predictions.jsonl", 8)
    texts, outputs = [row["text"] for row in said], [row["prediction"] for row in said]
    tokenizer, written = plainly(adapter, texts, 64)
    code = tokenizer.convert_tokens_to_ids("es_XX")
    assert written[:, :2].tolist() == [[2, code]] * 8
    assert decoded(tokenizer, written) == outputs
    assert spectune.predict(adapter, texts) == outputs
    settings = json.loads((adapter / "generation_config.json").read_text("utf-8"))
    assert (settings["decoder_start_token_id"], settings["forced_bos_token_id"]) == (2, code)
    for form in ("", "lora", "adalora", "merged"):
        assert "`generation_config.json` makes every output start with" in card(adapter, form)


def test_summaries_by_led(tmp_path: Path, data_root: Path) -> None:
    rows = read_rows(data_root / "scitldr" / "train.jsonl", 300)
    base = write_base("led", tmp_path / "base", [text for row in rows for text in (row["text"], row["target"])])
    cut = ("data.max_source_length=240", "data.max_target_length=64", "train.gradient_accumulation_steps=1")
    summary = run("led-base-16384/scitldr", base, tmp_path / "run", *cut)
    adapter, said = tmp_path / "run" / "adapter", read_rows(tmp_path / "run" / "predictions.jsonl", 8)
    texts, outputs = [row["text"] for row in said], [row["prediction"] for row in said]
    logging.getLogger("transformers.models.led.modeling_led").setLevel(logging.ERROR)
    assert decoded(*plainly(adapter, texts, 240, global_attention_mask=torch.ones(1))) == outputs
    assert decoded(*plainly(adapter, texts, 240)) != outputs  # it is the mask that makes the difference
    assert spectune.predict(adapter, texts) == outputs
    assert sum(name.endswith("_global") for name in summary["ranks"]) == 2 * 3  # trained, whatever rank they keep
    assert json.loads((adapter / "generation_config.json").read_text("utf-8"))["global_attention"] == "first_token"
    for form in ("", "lora", "adalora", "merged"):
        assert "global_attention_mask" in card(adapter, form)
