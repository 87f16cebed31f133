"""Decoding under the label words alone, and a probability for each label; both are `generate`.

The prediction is what the run's decoding, greedy or with beams, writes when each step may only go on along a label
(`prefix_allowed_tokens_fn`). The probability of a label is the product of its steps' probabilities, each step a softmax
over the tokens that the trie allows there: over all labels they sum to 1. They are found by a search of our own inside
`generate` that follows every branch, and stops where one label is left.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from spectune.evaluation.decoding import (
    base_of,
    can_select,
    copy_of_output,
    greedy,
    own_decoding_defaults,
    select_rows,
)
from spectune.evaluation.generation import GenerationSettings, generation_config
from spectune.evaluation.label_trie import Branch, LabelTrie

MOST_WRITTEN = 10
"""Labels whose probabilities are written down for a row: all, or the likeliest of more."""
BRANCHES_AT_ONCE = 4
"""Branches of the trie that one forward takes: the memory of four beams."""


@dataclass(frozen=True)
class LabelOutputs:
    """Labels and their probabilities, row by row in the order of the rows."""

    words: tuple[str, ...]
    """The labels."""
    predictions: list[str]
    """One of the labels for each row."""
    probabilities: Tensor
    """(rows, labels) float64; each row sums to 1."""
    seconds: float

    def of_row(self, row: int, most: int | None = None) -> dict[str, float]:
        """Probabilities of a row by label, likeliest first; of the `most` likeliest alone where that is given.

        Among equals, which are not rare with bfloat16 logits, the prediction comes first.
        """
        values, predicted = self.probabilities[row].tolist(), self.predictions[row]
        order = sorted(range(len(values)), key=lambda label: (-values[label], self.words[label] != predicted))
        return {self.words[label]: values[label] for label in order[:most]}

    def record(self, row: int) -> dict[str, Any]:
        """What is written of a row: `constrained_prediction`, and `label_probabilities` of at most `MOST_WRITTEN`.

        Six digits are written, so that ten numbers sum to 1 within 5e-6 at the most.
        """
        likeliest = {word: float(f"{value:.6g}") for word, value in self.of_row(row, MOST_WRITTEN).items()}
        return {"constrained_prediction": self.predictions[row], "label_probabilities": likeliest}


class LabelDecoder:
    """Labels of batches as they come, from the encoder's outputs that their free texts were generated from."""

    def __init__(self, model: nn.Module, trie: LabelTrie, settings: GenerationSettings, rows: int) -> None:
        """For `rows` rows of `model`, an encoder-decoder model or a `PeftModel` around one, in evaluation mode."""
        self._model, self._seconds = model, 0.0
        self._predictions = [0] * rows
        self._probabilities = torch.empty(rows, len(trie.words), dtype=torch.float64)
        self._config = constrained_config(model, trie, settings)
        self._one_beam = constrained_config(model, trie, replace(settings, num_beams=1))
        forced = self._config.forced_bos_token_id
        self._forced = () if forced is None else (int(forced),)
        self._trie = trie.after(forced)

    @torch.inference_mode()
    def add(self, rows: list[int], encoded: Any, mask: Tensor) -> None:
        """Decode a batch (an `AfterBatch`): its row numbers, its encoder's output, its mask (rows, longest)."""
        started = time.monotonic()
        search = {"custom_generate": greedy} if self._config.num_beams == 1 else {}
        written = self._generate(
            self._config, encoded, mask, prefix_allowed_tokens_fn=allowed_tokens(self._trie, self._forced), **search
        )
        for row, ids in zip(rows, written.tolist(), strict=True):
            self._predictions[row] = self._trie.label(ids[1 + len(self._forced) :])
        every_branch = partial(branch_search, self._trie.root(), len(self._trie.words), self._forced)
        found = self._generate(self._one_beam, encoded, mask, custom_generate=every_branch)
        self._probabilities[rows] = found.cpu()
        self._seconds += time.monotonic() - started

    def _generate(self, config: GenerationConfig, encoded: Any, mask: Tensor, **search: Any) -> Tensor:
        model: Any = self._model
        with own_decoding_defaults(base_of(model), config):
            # a copy: beams repeat the rows of what they are given in place
            inputs = {"encoder_outputs": copy_of_output(encoded), "attention_mask": mask}
            result: Tensor = model.generate(**inputs, generation_config=config, **search)
        return result

    def outputs(self) -> LabelOutputs:
        """What all batches gave."""
        words = self._trie.words
        predictions = [words[label] for label in self._predictions]
        return LabelOutputs(words, predictions, self._probabilities, self._seconds)


def constrained_config(model: nn.Module, trie: LabelTrie, settings: GenerationSettings) -> GenerationConfig:
    """The run's settings under a trie: the length of its longest label, and no rule beside it.

    A rule of the free decoding (a length, a forbidden repetition) could forbid every way to end a label, and a length
    penalty would prefer some labels for their length: beams look for the likeliest. More beams than labels would find
    nothing more.
    """
    forced = 0 if base_of(model).generation_config.forced_bos_token_id is None else 1
    settings = replace(
        settings,
        num_beams=min(settings.num_beams, len(trie.words)),
        max_new_tokens=forced + trie.depth,
        max_length=None,
        length_penalty=0.0,
        no_repeat_ngram_size=0,
    )
    config = generation_config(model, settings)
    config.eos_token_id, config.forced_eos_token_id, config.bad_words_ids = trie.end, None, None
    return config


def allowed_tokens(trie: LabelTrie, forced: tuple[int, ...]) -> Callable[[int, Tensor], list[int]]:
    """A `prefix_allowed_tokens_fn`; the trie begins behind the start token and the token that generation forces."""

    def allowed(batch: int, written: Tensor) -> list[int]:
        tokens = written.tolist()[1:]
        if len(tokens) < len(forced):
            return [forced[len(tokens)]]
        return trie.allowed(tokens[len(forced) :])

    return allowed


def branch_search(
    root: Branch | int,
    labels: int,
    forced: tuple[int, ...],
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **inputs: Any,
) -> Tensor:
    """A search for `generate` that follows every branch of a trie and returns what each label got.

    Args:
        root: the branches, from `LabelTrie.root`.
        labels: their number.
        forced: tokens that generation forces before a label.
        input_ids: (rows, 1) start tokens.
        inputs: what the model's forward takes beside the decoder's tokens.

    Returns:
        (rows, labels) float64 probabilities; logits that are not numbers count as equal.
    """
    logarithms = torch.zeros(len(input_ids), labels, dtype=torch.float64, device=input_ids.device)
    if isinstance(root, Branch):
        start = torch.cat([input_ids, input_ids.new_tensor(forced).expand(len(input_ids), -1)], dim=1)
        if not can_select(inputs.get("past_key_values")):
            inputs |= {"past_key_values": None, "use_cache": False}
        _visit([root], start, logarithms[:, :1], logarithms, model, inputs)
    return logarithms.exp()


def _visit(
    front: list[Branch], written: Tensor, before: Tensor, logarithms: Tensor, model: Any, inputs: dict[str, Any]
) -> None:
    """Take branches of one depth together, then what is below them, a few at a time.

    Args:
        written: (branches · rows, length) tokens so far, branch by branch.
        before: (rows, branches) log probabilities of getting to each of them.
        logarithms: (rows, labels), filled in.
        inputs: of the forward, with a cache of all tokens but those written last, or without one.
    """
    rows, cache = len(logarithms), inputs.get("past_key_values")
    seen = 0 if cache is None else cache.get_seq_length()
    outputs = model(decoder_input_ids=written[:, seen:], return_dict=True, **inputs)
    below = _share_out(front, outputs.logits[:, -1].view(len(front), rows, -1), before, logarithms)
    every = torch.arange(rows, device=written.device)
    for start in range(0, len(below), BRANCHES_AT_ONCE):
        chunk = below[start : start + BRANCHES_AT_ONCE]
        going = torch.cat([every + one.place * rows for one in chunk])
        tokens = written.new_tensor([one.token for one in chunk]).repeat_interleave(rows)
        last = start + len(chunk) == len(below)  # nothing else needs the cache
        theirs = inputs if cache is None or last else inputs | {"past_key_values": copy.deepcopy(cache)}
        _visit(
            [one.branch for one in chunk],
            torch.cat([written[going], tokens[:, None]], dim=1),
            torch.stack([one.chances for one in chunk], dim=1),
            logarithms,
            model,
            select_rows(theirs, going, len(written)),
        )


@dataclass(frozen=True)
class _Below:
    """A branch below one of the front."""

    place: int
    """Of the branch above, in the front."""
    token: int
    """The choice there that leads here."""
    branch: Branch
    chances: Tensor
    """(rows,) log probabilities of getting here."""


def _share_out(front: list[Branch], logits: Tensor, before: Tensor, logarithms: Tensor) -> list[_Below]:
    """Divide each branch's probability among its choices: to labels that are certain now, and to branches below.

    Args:
        logits: (branches, rows, vocabulary).
        before: (rows, branches).
        logarithms: (rows, labels), filled in for the labels that are certain now.
    """
    below: list[_Below] = []
    for place, branch in enumerate(front):
        choices = logits[place][:, list(branch.tokens)].double().nan_to_num()
        chosen = before[:, place, None] + choices.log_softmax(-1)
        for index, (token, one) in enumerate(zip(branch.tokens, branch.below, strict=True)):
            if isinstance(one, int):
                logarithms[:, one] = chosen[:, index]
            else:
                below.append(_Below(place, token, one, chosen[:, index]))
    return below
