"""The labels as token sequences in a trie: what may be written next, which label was written, where labels part.

Pure Python over token ids; `constrained` decodes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectune.data.tokenization import tokenize_targets
from spectune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Path = tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A beginning that several labels share."""

    tokens: Path
    """What may follow; one token where all of these labels go on with it."""
    below: tuple[Branch | int, ...]
    """For each token the next branch, or the label (its number) that is certain from there on."""


class LabelTrie:
    """Labels with their token ids, each ending with the end token, so that no label is the beginning of another."""

    def __init__(self, words: Sequence[str], paths: Sequence[Path], end: int) -> None:
        """Labels in order, their token ids, and the token that ends each of them.

        Raises:
            ValueError: no labels, a path that does not end with its only `end`, or two equal paths.
        """
        if not paths or len(words) != len(paths) or len(set(paths)) != len(paths):
            raise ValueError("a label trie needs labels, each with token ids of its own")
        if any(path.index(end) != len(path) - 1 if end in path else True for path in paths):
            raise ValueError("token ids of a label end with the end token, and hold it once")
        self.words, self.paths, self.end = tuple(words), tuple(paths), end
        self._labels = {path: label for label, path in enumerate(paths)}
        choices: dict[Path, dict[int, None]] = {}  # a dictionary as an ordered set
        for path in paths:
            for length, token in enumerate(path):
                choices.setdefault(path[:length], {})[token] = None
        self._allowed = {prefix: list(tokens) for prefix, tokens in choices.items()}

    @property
    def depth(self) -> int:
        """Tokens of the longest label, the end token included."""
        return max(map(len, self.paths))

    def allowed(self, written: Sequence[int]) -> list[int]:
        """Tokens that may follow `written`; the end token after a whole label, or after what begins none."""
        return self._allowed.get(tuple(written), [self.end])

    def label(self, written: Sequence[int]) -> int:
        """The number of the label that `written` spells; what follows a label does not count.

        Where `written` leaves the trie, as it may when logits are not numbers, the first choice is taken.
        """
        prefix: Path = ()
        while (choices := self._allowed.get(prefix)) is not None:
            token = written[len(prefix)] if len(prefix) < len(written) else None
            prefix += (token if token in choices else choices[0],)
        return self._labels[prefix]

    def after(self, forced: int | None) -> LabelTrie:
        """The trie behind a first token that generation forces: the labels without it where all begin with it."""
        if forced is None or any(path[0] != forced or len(path) == 1 for path in self.paths):
            return self
        return LabelTrie(self.words, [path[1:] for path in self.paths], self.end)

    def root(self) -> Branch | int:
        """The branches as a tree; of a single label its number, 0."""
        return _branch(list(enumerate(self.paths)), 0)


def _branch(labels: list[tuple[int, Path]], depth: int) -> Branch | int:
    """The tree over labels that agree in their first `depth` tokens."""
    if len(labels) == 1:
        return labels[0][0]
    groups: dict[int, list[tuple[int, Path]]] = {}
    for label, path in labels:
        groups.setdefault(path[depth], []).append((label, path))
    return Branch(tuple(groups), tuple(_branch(group, depth + 1) for group in groups.values()))


def label_trie(words: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_target_length: int) -> LabelTrie:
    """The trie of label words, encoded as targets are: cut to `max_target_length` tokens, up to the end token.

    Raises:
        ConfigError: a tokenizer without end token, or two labels with the same tokens.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ConfigError(
            "evaluation.constrain_labels needs a tokenizer with an end token, and this one has none; set it to false"
        )
    ids = tokenize_targets(words, tokenizer, max_target_length=max_target_length)
    # legacy mBART's targets have a language code behind the end token, where generation has stopped
    paths = [tuple(row[: row.index(end) + 1]) for row in ids]
    first: dict[Path, str] = {}
    for word, path in zip(words, paths, strict=True):
        if path in first:
            raise ConfigError(
                f"labels {first[path]!r} and {word!r} are the same {len(path)} tokens for this tokenizer within "
                f"data.max_target_length {max_target_length}, so that evaluation.constrain_labels cannot tell them "
                "apart; raise the length or choose other words in data.label_names"
            )
        first[path] = word
    return LabelTrie(words, paths, end)
