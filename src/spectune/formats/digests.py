"""SHA-256 of what a run stands on: base weights as loaded, and the tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from spectune.errors import AdapterError


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over vocabulary and special tokens. What it makes of texts is in the rows' token ids."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content = [sorted(tokenizer.get_vocab().items()), sorted(special.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def serialized_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over all that a tokenizer saves: vocabulary, special tokens, normaliser, languages, sides; not its path.

    The truncation and padding that its last call left behind do not count, each call has its own. Two tokenizers of one
    digest, in the same versions of their libraries, give the same ids for any text.
    """
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        for path in sorted(Path(directory).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if path.name == "tokenizer.json":
                    content = json.dumps(json.loads(content) | {"truncation": None, "padding": None}).encode()
                digest.update(f"{path.relative_to(directory)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's parameters and buffers, shared ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        parts = list(pool.map(lambda pair: f"{pair[0]} {_digest(pair[1])}", named))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest(tensor: Tensor) -> str:
    own = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{own.dtype} {tuple(own.shape)}".encode())
    content: Any = own.reshape(-1).view(torch.uint8).numpy()
    digest.update(content)
    return digest.hexdigest()


def check_base(base: nn.Module, expected: str | None, adapter: str) -> None:
    """Refuse an adapter on another base than it was trained on; `expected` is its `weights_digest`, None if unknown.

    Raises:
        AdapterError: the weights differ.
    """
    if expected is not None and weights_digest(base) != expected:
        raise AdapterError(
            f"{adapter} was trained on a base with other weights than those found under its base_model_name_or_path; "
            "mend that name in adapter_config.json, or pin the base's revision"
        )
