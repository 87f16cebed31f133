"""Real rows for the benchmarks: texts of a task under SPECTUNE_DATA, as token ids of the bundled tokenizer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.shapes import build
from transformers import AutoTokenizer

from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet, tokenize_examples
from spectune.starter.bundle import model_directory

LENGTH = 128
"""The most tokens of a source or target; also what PEFT's example pads everything to."""


@dataclass(frozen=True)
class Rows:
    """Examples, and the same as token ids."""

    examples: list[Example]
    tokenized: TokenizedSet

    @property
    def longest_target(self) -> int:
        """Tokens, the end token included."""
        return max(map(len, self.tokenized.labels))

    def features(self) -> list[dict[str, Any]]:
        """What a collator of transformers takes."""
        pairs = zip(self.tokenized.input_ids, self.tokenized.labels, strict=True)
        return [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} for ids, labels in pairs]


def bundled_tokenizer() -> Any:
    """The starter's tokenizer."""
    return AutoTokenizer.from_pretrained(model_directory())


def file_of(task: str, split: str) -> Path:
    """TASK/SPLIT.jsonl under SPECTUNE_DATA; SystemExit where that is not set."""
    root = os.environ.get("SPECTUNE_DATA")
    if not root:
        raise SystemExit("set SPECTUNE_DATA to the directory that holds the data sets, or leave --task out")
    return Path(root, task, f"{split}.jsonl")


def read(task: str, split: str, limit: int, tokenizer: Any) -> Rows:
    """The first `limit` rows of a split."""
    lines = file_of(task, split).read_text(encoding="utf-8").splitlines()[:limit]
    records = [json.loads(line) for line in lines]
    return make([(record["text"], record["target"]) for record in records], tokenizer)


def make(pairs: list[tuple[str, str]], tokenizer: Any) -> Rows:
    """Pairs of source and target as rows."""
    examples = [
        Example(row=number, source=source, target=target, label=None, references=(target,))
        for number, (source, target) in enumerate(pairs, start=1)
    ]
    tokenized = tokenize_examples(examples, tokenizer, max_source_length=LENGTH, max_target_length=LENGTH)
    return Rows(examples, tokenized)


def write_base(shape: str, directory: Path, tokenizer: Any) -> Any:
    """A shape with random weights and the tokenizer's special tokens, written as a base that can be loaded.

    Two changes make its outputs differ from row to row, as equal outputs would prove nothing otherwise: what the
    decoder reads from the encoder counts more, and the output embeddings are drawn apart from the input's (tied random
    ones only repeat the start token). No cost depends on either.
    """
    base = build(shape)
    generator = torch.Generator().manual_seed(1)
    base.config.tie_word_embeddings = False
    drawn = torch.randn(base.lm_head.weight.shape, generator=generator) * 0.02
    base.lm_head.weight = torch.nn.Parameter(drawn, requires_grad=False)
    for stack in (base.get_encoder(), base.get_decoder()):  # untied altogether, or a load would draw these anew
        stack.embed_tokens.weight = torch.nn.Parameter(stack.embed_tokens.weight.clone(), requires_grad=False)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith(("encoder_attn.out_proj.weight", "EncDecAttention.o.weight")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 300 / len(parameter))
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "forced_eos_token_id": None,
    }
    for holder in (base.config, base.generation_config):
        for name, value in special.items():
            setattr(holder, name, value)
    base.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    base.name_or_path = str(directory)
    return base
