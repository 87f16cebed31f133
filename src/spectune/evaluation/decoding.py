"""Batched generation over token ids: the piece that the live run and the reload proof's child share.

It imports only the standard library, torch, transformers and peft, and nothing of spectune: the child
(`reload_child.py`) loads this file by its path, so that what proves the adapter is the same code and yet knows nothing
of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def base_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself; for a `PeftModel` the one with the adapter's layers inside."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise TypeError(f"expected a transformers model or a PeftModel, not {type(model).__name__}")
    return base


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; on leaving every module has the mode it had."""
    former = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # Through train() first: modules may act on a change of mode. Then the modules that differed from the root.
        model.train(former[0][1])
        for module, training in former:
            if module.training != training:
                module.training = training


@contextmanager
def _own_decoding_defaults(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Make `config` the model's own: `generate` fills every field that is None from the model's, not from neutral."""
    former = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = former


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches, longest rows first; rows of equal length keep their order.

    Longest first, so that too little memory shows at once. A union of whole batches, taken alone, gives the same
    batches again.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padding_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Token that fills up a batch; the attention mask hides it, so any will do where none is defined."""
    candidates = (tokenizer.pad_token_id, model.generation_config.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in candidates if isinstance(token, int)), 0)


def pad_right(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (rows, longest) int64."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=torch.long)
    return ids.to(device), mask.to(device)


@torch.inference_mode()
def generate_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """One text per row of token ids, in the order of the rows.

    Sorted by length, batched, padded, put back in order. The model's modes, decoding defaults and the random state are
    left as they were. Texts are decoded without special tokens and stripped of outer white space.

    Args:
        model: a transformers encoder-decoder model, or a `PeftModel` around one.
        input_ids: source tokens, unpadded, at least one each.
        config: the complete settings; nothing is taken from the model's own defaults.
        batch_size: rows generated together.
        on_batch: called with the number of rows after each batch.
    """
    base = base_of(model)
    padding = padding_id(base, tokenizer)
    texts = [""] * len(input_ids)
    with evaluation_mode(model), _own_decoding_defaults(base, config):
        for rows in batches_by_length([len(row) for row in input_ids], batch_size):
            ids, mask = pad_right([input_ids[row] for row in rows], padding, base.device)
            generated = model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, generation_config=config
            )
            for row, text in zip(rows, decode(tokenizer, generated), strict=True):
                texts[row] = text
            if on_batch is not None:
                on_batch(len(rows))
    return texts


def decode(tokenizer: PreTrainedTokenizerBase, generated: Tensor) -> list[str]:
    """Texts of generated ids (rows, length), without special tokens and outer white space."""
    texts = tokenizer.batch_decode(generated.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]
