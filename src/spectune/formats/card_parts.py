"""What the cards of an adapter and of its exports have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from spectune.formats.markdown import code, escape, fenced, table

_LOAD = """\
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

adapter = "PATH_OR_HUB_ID"
base = AutoModelForSeq2SeqLM.from_pretrained(PeftConfig.from_pretrained(adapter).base_model_name_or_path{revision})
model, tokenizer = PeftModel.from_pretrained(base, adapter), AutoTokenizer.from_pretrained(adapter)"""
_LOAD_MERGED = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

adapter = "PATH_OR_HUB_ID"  # the whole model
model = AutoModelForSeq2SeqLM.from_pretrained(adapter, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(adapter)"""
_GENERATE = """\
from transformers import GenerationConfig

inputs = tokenizer(texts, return_tensors="pt", padding=True)
outputs = model.generate(**inputs, generation_config=GenerationConfig.from_pretrained(adapter))"""
_GENERATE_GLOBAL = """\
import torch
from transformers import GenerationConfig

inputs = tokenizer(texts, return_tensors="pt", padding=True)
inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
inputs["global_attention_mask"][:, 0] = 1
outputs = model.generate(**inputs, generation_config=GenerationConfig.from_pretrained(adapter))"""


def front_matter(base_model: str | None, **entries: Any) -> str:
    """The YAML that the hub reads; without `base_model` where the base is a directory."""
    base = {} if base_model is None else {"base_model": base_model}
    return f"---\n{yaml.safe_dump({**base, **entries}, sort_keys=False, allow_unicode=True).rstrip()}\n---"


def loading(
    *,
    merged: bool = False,
    base_revision: str | None = None,
    languages: tuple[str, str] | None = None,
    first_token_global: bool = False,
) -> str:
    """How to load, and how to generate where a plain `generate` would give something else.

    Args:
        merged: a whole model, which needs no PEFT.
        base_revision: of an adapter's base on the hub.
        languages: codes of source and target.
        first_token_global: LED: the first token has global attention, which a caller of `generate` has to ask for.
    """
    revision = f", revision={base_revision!r}" if base_revision else ""
    lines = _LOAD_MERGED if merged else _LOAD.format(revision=revision)
    parts = [f"With {'transformers' if merged else 'PEFT'} alone:", fenced(lines, "python")]
    if languages is not None:
        source, target = map(code, languages)
        parts.append(
            f"The tokenizer is set to {source} for sources and {target} for targets; "
            "`generation_config.json` makes every output start with the latter:"
        )
    elif first_token_global:
        parts.append("Trained with global attention on the first token, so generate with it:")
    if languages is not None or first_token_global:
        parts.append(fenced(_GENERATE_GLOBAL if first_token_global else _GENERATE, "python"))
    return "\n\n".join(parts)


def rank_rows(summary: Sequence[Mapping[str, Any]]) -> str:
    """Records of `report.tables.role_summary` as a table."""
    rows = [
        [
            escape(str(row["group"])),
            str(row["matrices"]),
            str(row["total"]),
            f"{row['mean']:.1f}",
            f"{row['min']} to {row['max']}",
        ]
        for row in summary
    ]
    return table(["matrices of", "count", "total rank", "mean", "range"], rows)
