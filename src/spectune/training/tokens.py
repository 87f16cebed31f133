"""From a run's examples to what training reads: token ids of each split, and the stream of windows."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from spectune.config import DataConfig
from spectune.data.assembly import Assembler, TrainingStream
from spectune.data.loader import BatchLoader
from spectune.data.stream_loader import StreamLoader
from spectune.data.token_cache import TokenCache
from spectune.data.tokenization import TokenizedSet, encode_targets, longest_reference, tokenize_examples
from spectune.evaluation.decoding import base_of, padding_id
from spectune.families import attention_block
from spectune.formats.digests import serialized_digest
from spectune.training.bfloat16 import cache_directory
from spectune.training.device import multiplied_in, padding_multiple
from spectune.training.session import Ready, Session


def tokenize_splits(session: Session, tokenizer: PreTrainedTokenizerBase) -> dict[str, TokenizedSet]:
    """Token ids of each split that has rows; of a streamed training set, of its first rows."""
    data, section = session.data, session.config.data
    named = {"train": data.train, "validation": data.validation, "test": data.test}
    lengths = {"max_source_length": section.max_source_length, "max_target_length": section.max_target_length}
    languages = {"source_lang": section.source_lang, "target_lang": section.target_lang}  # slow tokenizers hide them
    cache = _cache(section, tokenizer)
    sets = {}
    for name, examples in named.items():
        if not examples:
            continue
        with session.reporter.bar(f"tokenising {name}", 2 * len(examples)) as progress:
            make = partial(tokenize_examples, examples, tokenizer, **lengths, progress=progress)
            sets[name] = make() if cache is None else cache.take_or_make(examples, {**lengths, **languages}, make)
    _forget_last_call(tokenizer)
    for note in cache.notes if cache is not None else []:
        session.reporter.line(note)
    session.timings["tokenize"] = sum(one.seconds for one in sets.values())
    speed = sum(one.tokens for one in sets.values()) / max(session.timings["tokenize"], 1e-9)
    session.timings["tokens_per_second_tokenized"] = speed
    return sets


def _forget_last_call(tokenizer: PreTrainedTokenizerBase) -> None:
    """The saved tokenizer is the same whether the last call cut its texts, did not, or was spared by the cache."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        fast.no_truncation()
        fast.no_padding()


def _cache(section: DataConfig, tokenizer: PreTrainedTokenizerBase) -> TokenCache | None:
    if not section.cache_tokens:
        return None
    try:
        directory = Path(section.cache_dir) if section.cache_dir is not None else cache_directory() / "tokens"
        return TokenCache(directory.expanduser(), partial(serialized_digest, tokenizer))
    except RuntimeError:  # nobody's home
        return None


def make_loader(ready: Ready, *, seed: int) -> TrainingStream:
    """The training stream: over rows in memory, or over rows that are read as they are needed."""
    session = ready.session
    data, train = session.config.data, session.config.train
    limits = (data.max_source_length, data.max_target_length)
    base = base_of(ready.adapted.model)
    padding: dict[str, int] = {
        "pad_token_id": padding_id(base, ready.tokenizer),
        "pad_to_multiple_of": padding_multiple(data, session.device, multiplied_in(session.config, session.dtype)),
        **(dict(zip(("source_length", "target_length"), limits, strict=True)) if data.padding == "max_length" else {}),
    }
    share = {"rank": ready.session.processes.rank, "world_size": ready.session.processes.size}
    sizes: dict[str, int] = {
        "batch_size": train.per_device_train_batch_size,
        "accumulation_steps": train.gradient_accumulation_steps,
        "seed": seed,
        "source_block": attention_block(base.config),
    }
    first = ready.session.first_token_global
    if ready.session.data.stream is None:
        return BatchLoader(ready.sets["train"], **sizes, **padding, **share, limits=limits, first_token_global=first)
    return StreamLoader(
        ready.session.data.stream,
        ready.tokenizer,
        max_source_length=data.max_source_length,
        max_target_length=data.max_target_length,
        assembler=Assembler(**padding, **share, limits=limits, first_token_global=first),
        check=partial(ready.session.vocabulary.check, "train"),
        **sizes,
    )


def longest_target(session: Session, tokenizer: PreTrainedTokenizerBase, sets: dict[str, TokenizedSet]) -> int:
    """Tokens of the longest output that may have to be written, at most `max_target_length`.

    It is the longest target of the rows for training and validation, or another right output of the latter.

    A stream does not know its longest: there it is that of the label words, else `max_target_length`.
    """
    most, verbalizer = session.config.data.max_target_length, session.data.verbalizer
    if session.data.stream is None:
        targets = max(one.truncation.longest_target for name, one in sets.items() if name != "test")
        return min(most, max(targets, longest_reference(session.data.validation, tokenizer)))
    if verbalizer is None:
        return most
    return min(most, max(map(len, encode_targets(verbalizer.words, tokenizer))))


def stream_facts(loader: TrainingStream) -> dict[str, Any]:
    """What `summary.json` says of a streamed training set; nothing for rows in memory."""
    if not isinstance(loader, StreamLoader):
        return {}
    return {"stream": {**asdict(loader.tally), "epochs": loader.epochs_done}}
