"""Batched generation over token ids: the piece that the live run and the reload proof's child share.

It imports only the standard library, torch, transformers and peft, and nothing of spectune: the child
(`reload_child.py`) loads this file by its path, so that what proves the adapter is the same code and yet knows nothing
of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

AfterBatch = Callable[[list[int], Any, Tensor], None]
"""Called with a batch's row numbers, its encoder's output and its attention mask (rows, longest)."""
GLOBAL_ATTENTION = "global_attention"
FIRST_TOKEN = "first_token"
"""Value of this entry of a generation config: LED's first token attends to all tokens, and all to it."""
_LEAVE_SHARE = 8  # finished rows leave a batch once they are an eighth of it: before, copying the caches costs more


def base_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself; for a `PeftModel` the one with the adapter's layers inside."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise TypeError(f"expected a transformers model or a PeftModel, not {type(model).__name__}")
    return base


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; on leaving every module has the mode it had.

    NLLB-MoE's routers write the capacity of an evaluated batch over the one that they train with; they get it back.
    """
    former = [(module, module.training) for module in model.modules()]
    routers: list[Any] = [module for module, _ in former if hasattr(module, "expert_capacity")]
    capacities = [router.expert_capacity for router in routers]
    model.eval()
    try:
        yield
    finally:
        for router, capacity in zip(routers, capacities, strict=True):
            router.expert_capacity = capacity
        # Through train() first: modules may act on a change of mode. Then the modules that differed from the root.
        model.train(former[0][1])
        for module, training in former:
            if module.training != training:
                module.training = training


def copy_of_output(output: Any) -> Any:
    """A module's output with the same tensors, whose entries may be replaced without harm to `output`."""
    return type(output)(**output) if isinstance(output, dict) else output


@contextmanager
def _encoder_output(model: PreTrainedModel) -> Iterator[list[Any]]:
    """A list that holds the encoder's latest output, so that more can be made of it than one generation."""
    latest: list[Any] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        latest[:] = [copy_of_output(output)]  # beams repeat its rows in place

    hook = model.get_encoder().register_forward_hook(keep)
    try:
        yield latest
    finally:
        hook.remove()


@contextmanager
def own_decoding_defaults(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
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


def first_token_mask(mask: Tensor) -> Tensor:
    """LED's `global_attention_mask`, for an attention mask (rows, length): 1 at the first token, else 0."""
    chosen = torch.zeros_like(mask)
    chosen[:, 0] = 1
    return chosen


@torch.inference_mode()
def generate_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    after_batch: AfterBatch | None = None,
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
        after_batch: gets the encoder's output of each batch, which need not be computed twice.
    """
    base = base_of(model)
    padding = padding_id(base, tokenizer)
    texts = [""] * len(input_ids)
    search = {"custom_generate": greedy} if config.num_beams == 1 and not config.do_sample else {}
    first_is_global = getattr(config, GLOBAL_ATTENTION, None) == FIRST_TOKEN
    with evaluation_mode(model), own_decoding_defaults(base, config), _encoder_output(base) as encoded:
        for rows in batches_by_length([len(row) for row in input_ids], batch_size):
            ids, mask = pad_right([input_ids[row] for row in rows], padding, base.device)
            chosen = {"global_attention_mask": first_token_mask(mask)} if first_is_global else {}
            generated = model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, generation_config=config, **chosen, **search
            )
            for row, text in zip(rows, decode(tokenizer, generated), strict=True):
                texts[row] = text
            if after_batch is not None:
                after_batch(rows, encoded[0], mask)
            if on_batch is not None:
                on_batch(len(rows))
    return texts


def greedy(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **inputs: Any,
) -> Tensor:
    """`generate`'s greedy search, but rows that have ended leave the batch; same tokens, padded as there.

    Called by `generate` itself (`custom_generate`), with everything prepared: what is special about a family of models
    stays with transformers.

    Args:
        input_ids: (rows, 1) start tokens.
        inputs: what the model's forward takes beside the decoder's tokens; encoder output and attention mask of
            `rows` rows, the cache.

    Returns:
        (rows, length) tokens, the start token included.
    """
    ended = generation_config.pad_token_id or 0
    sequences = input_ids.new_full((len(input_ids), generation_config.max_length), ended)
    sequences[:, : input_ids.shape[1]] = input_ids
    rows = torch.arange(len(input_ids), device=input_ids.device)
    done = torch.zeros_like(rows, dtype=torch.bool)
    while True:
        cached = inputs.get("past_key_values") is not None and input_ids.shape[1] > 1
        outputs = model(decoder_input_ids=input_ids[:, -1:] if cached else input_ids, return_dict=True, **inputs)
        if "past_key_values" in outputs:
            inputs["past_key_values"] = outputs.past_key_values
        scores = logits_processor(input_ids, outputs.logits[:, -1].to(copy=True, dtype=torch.float32))
        tokens = scores.argmax(-1).masked_fill_(done, ended)
        sequences[rows, input_ids.shape[1]] = tokens
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        done = done | stopping_criteria(input_ids, None)
        going = (~done).nonzero().flatten()
        if not len(going):
            return sequences[:, : input_ids.shape[1]]
        if _LEAVE_SHARE * (len(rows) - len(going)) >= len(rows) and can_select(inputs.get("past_key_values")):
            inputs = select_rows(inputs, going, len(rows))
            rows, done, input_ids = rows[going], done[going], input_ids[going]


def can_select(cache: Any) -> bool:
    """Whether rows of this cache may be chosen; of no cache nothing needs to be."""
    if not isinstance(cache, EncoderDecoderCache):
        return cache is None
    return all(type(part) is DynamicCache for part in (cache.self_attention_cache, cache.cross_attention_cache))


def select_rows(inputs: dict[str, Any], going: Tensor, rows: int) -> dict[str, Any]:
    """The inputs of the rows `going`, of `rows` rows; the cache is cut in place."""

    def chosen(value: Any) -> Any:
        if isinstance(value, EncoderDecoderCache):
            value.batch_select_indices(going)
        elif isinstance(value, Tensor) and value.dim() and len(value) == rows:
            return value[going]
        elif isinstance(value, dict):  # the encoder's output, one of transformers' own kinds of dictionary
            return type(value)(**{name: chosen(part) for name, part in value.items()})
        elif isinstance(value, tuple):
            return tuple(chosen(part) for part in value)
        return value

    return {name: chosen(value) for name, value in inputs.items()}


def decode(tokenizer: PreTrainedTokenizerBase, generated: Tensor) -> list[str]:
    """Texts of generated ids (rows, length), without special tokens and outer white space."""
    texts = tokenizer.batch_decode(generated.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]
