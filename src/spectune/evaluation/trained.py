"""A finished adapter on its base, ready to evaluate and predict: plain PEFT, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spectune.data.examples import Example
from spectune.data.languages import set_languages
from spectune.data.sources import STARTER
from spectune.data.tokenization import TokenizedSet, longest_reference, position_limit, tokenize_examples
from spectune.errors import AdapterError, first_line
from spectune.evaluation.bases import load_base, without_peft_chatter
from spectune.evaluation.boundary_tokens import set_boundary_tokens
from spectune.evaluation.constrained import LabelOutputs
from spectune.evaluation.decoding import base_of
from spectune.evaluation.evaluate import Evaluation, Outputs, Sharing, Whole, evaluate_examples, write_outputs
from spectune.evaluation.generation import GenerationSettings, resolve_settings
from spectune.evaluation.global_attention import set_global_attention
from spectune.evaluation.label_trie import LabelTrie, label_trie
from spectune.evaluation.metrics import check_rows, resolve_metrics
from spectune.formats.adapter_files import WEIGHTS
from spectune.formats.adapter_settings import AdapterSettings
from spectune.formats.adapter_tensors import check_fit, check_loaded
from spectune.formats.digests import check_base
from spectune.formats.saved_adapter import SavedAdapter
from spectune.starter.bundle import model_directory

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_RAISED_BY_LIBRARIES = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
)


def alone() -> AbstractContextManager[Sharing]:
    """One process for all rows."""
    return nullcontext(Whole())


@dataclass(frozen=True)
class TrainedAdapter:
    """Model and tokenizer, and how this adapter's run turned rows into texts and scored them."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    settings: AdapterSettings
    shared: Callable[[], AbstractContextManager[Sharing]] = alone
    """The processes that share the rows, of all of which each makes the same calls."""

    def evaluate(self, examples: Sequence[Example]) -> Evaluation:
        """Score examples, with the run's metrics and decoding.

        Raises:
            ConfigError: a metric that these rows cannot have.
        """
        settings, verbalizer = self.settings, self.settings.verbalizer
        trie = self._trie() if settings.evaluation.constrain_labels else None
        names = resolve_metrics(settings.evaluation.metrics, settings.task, trie is not None)
        labels = None if verbalizer is None else verbalizer.words
        check_rows(names, (example.target for example in examples), labels)
        tokenized = self._tokenize(examples)
        right = max(tokenized.truncation.longest_target, longest_reference(examples, self.tokenizer))
        longest = min(right, self._most("target"))
        with self.shared() as sharing:
            return evaluate_examples(
                self.model,
                self.tokenizer,
                examples,
                tokenized,
                settings=self._decoding(longest),
                metric_names=names,
                labels=labels,
                task=settings.task,
                trie=trie,
                sharing=sharing,
            )

    def predict(self, examples: Sequence[Example]) -> list[str]:
        """One output per example, in order."""
        return self._write(examples, None).predictions

    def classify(self, examples: Sequence[Example]) -> tuple[list[str], LabelOutputs]:
        """The outputs of `predict`, and what is decoded under the labels alone.

        Raises:
            AdapterError: the adapter knows no labels.
            ConfigError: two labels are the same tokens.
        """
        written = self._write(examples, self._trie())
        assert written.constrained is not None
        return written.predictions, written.constrained

    def _write(self, examples: Sequence[Example], trie: LabelTrie | None) -> Outputs:
        settings, tokenized = self._decoding(self._most("target")), self._tokenize(examples)
        with self.shared() as sharing:
            return write_outputs(
                self.model, self.tokenizer, tokenized, settings=settings, with_loss=False, trie=trie, sharing=sharing
            )

    def _decoding(self, longest_target: int) -> GenerationSettings:
        return resolve_settings(self.settings.evaluation, longest_target, self._positions("target"))

    def _positions(self, side: str) -> int | None:
        return position_limit(base_of(self.model).config, side)

    def _most(self, side: str) -> int:
        """Tokens that are kept: a run's lengths fit its base, the defaults for somebody else's adapter may not."""
        data = self.settings.data
        length = data.max_source_length if side == "source" else data.max_target_length
        return min(length, self._positions(side) or length)

    def _trie(self) -> LabelTrie:
        words = self.settings.label_words()
        return label_trie(words, self.tokenizer, self._most("target"))

    def _tokenize(self, examples: Sequence[Example]) -> TokenizedSet:
        return tokenize_examples(
            examples,
            self.tokenizer,
            max_source_length=self._most("source"),
            max_target_length=self._most("target"),
        )


def load_adapter(
    path: Path, settings: AdapterSettings, device: torch.device, *, trust_remote_code: bool = False
) -> TrainedAdapter:
    """Put an adapter on its base.

    Args:
        path: its directory, from `locate_adapter`.
        settings: what is in there.
        device: where both go.
        trust_remote_code: let the base bring code of its own. Only the caller can say so, never the adapter.

    Raises:
        AdapterError: weights that do not fit, or a base that cannot be resolved.
    """
    source, weights = str(path), path / WEIGHTS
    saved = SavedAdapter.read(path)
    name = _base_of(source, saved.config["base_model_name_or_path"], settings)
    with _one_line_of(source):
        config = PeftConfig.from_pretrained(source)
        base = load_base(
            name,
            revision=config.revision,
            dtype=_DTYPES[settings.dtype],
            device=str(device),
            quantization=settings.quantization,
            trust_remote_code=trust_remote_code,
        )
    check_base(base, settings.base, source)
    check_fit(weights, saved.config, saved.tensors, base)
    with _one_line_of(source), without_peft_chatter():
        model: PeftModel = PeftModel.from_pretrained(base, source)
    check_loaded(weights, saved.tensors, model, "default")
    tokenizer = _load_tokenizer(source, name)
    set_languages(tokenizer, settings.data, required=False)
    set_boundary_tokens(base, tokenizer)
    set_global_attention(base, settings.global_attention)
    return TrainedAdapter(model.eval(), tokenizer, settings)


@contextmanager
def _one_line_of(source: str) -> Iterator[None]:
    """What PEFT and transformers raise over a stranger's files, as an AdapterError."""
    try:
        yield
    except _RAISED_BY_LIBRARIES as error:
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "its base brings code of its own; load it with trust_remote_code if you trust that"
        raise AdapterError(f"{source} cannot be loaded as an adapter: {reason}") from None


def _base_of(source: str, named: str | None, settings: AdapterSettings) -> str:
    """Where the base lies; that of an adapter trained by another installation of spectune may be our own starter."""
    if named is None:  # PEFT knows no name of a base that was made from a configuration
        raise AdapterError(
            f"{source} names no base; write its directory or hub id into adapter_config.json: base_model_name_or_path"
        )
    return str(model_directory()) if settings.base_name == STARTER and not Path(named).is_dir() else named


def _load_tokenizer(source: str, base: str) -> PreTrainedTokenizerBase:
    for place in (source, base):
        try:  # without the word, transformers would ask at the terminal whether to run a tokenizer's code
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
        return tokenizer
    raise AdapterError(f"neither {source} nor its base {base} holds a tokenizer")
