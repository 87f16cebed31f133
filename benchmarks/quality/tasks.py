"""The tasks: a run file of `examples/starter`, how long a run is, and how many rows are generated for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spectune.base_model import load_tokenizer
from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet, tokenize_examples
from spectune.evaluation.decoding import padding_id
from spectune.evaluation.evaluate import evaluate_examples
from spectune.evaluation.generation import resolve_settings
from spectune.planning import outline_run
from spectune.runfile import load_run_config
from spectune.training.model import load_base

EXAMPLES = Path(__file__).parents[2] / "examples" / "starter"


@dataclass(frozen=True)
class Task:
    """One data set as this benchmark uses it; the rest is in its run file."""

    name: str
    metric: str
    """Of the texts; higher is better, in its own unit."""
    steps: int
    batch_size: int
    validation_rows: int
    test_rows: int
    words: Mapping[str, str] = field(default_factory=dict)
    """Word of a target → the word it is asked for as: a target of long code words takes many tokens for little."""

    by_loss: bool = False
    """Decided by minus the cross entropy, where what the base can write is hardly better than the same text for all."""

    file: str = ""
    """Its run file, where it is not called like the task."""

    rates_of: str = ""
    """The task whose search chooses its rates, where a search of its own would take too long."""

    cut_from: str = ""
    """The task of which it is a shorter run, at its rates: whether fewer examples do for the same score."""

    @property
    def searched(self) -> str:
        """The task whose search chooses the rates."""
        return self.cut_from or self.rates_of or self.name

    @property
    def unit(self) -> str:
        """What `value` is."""
        return "minus loss" if self.by_loss else self.metric

    def value(self, scores: Mapping[str, float]) -> float:
        """Chooses the learning rate on validation and is reported on test; higher is better."""
        return -scores["eval_loss"] if self.by_loss else scores[self.metric]

    def reworded(self, example: Example) -> Example:
        """The example with its targets in these words."""
        if not self.words:
            return example
        target, *others = (" ".join(map(self.words.__getitem__, text.split())) for text in example.references)
        return replace(example, target=target, references=(target, *others))


_ACTIONS = {"I_TURN_LEFT": "left", "I_TURN_RIGHT": "right"} | {
    f"I_{word.upper()}": word for word in ("walk", "look", "run", "jump")
}

TASKS = {
    task.name: task
    for task in (
        Task("clinc150", "exact_match", 400, 16, 750, 1000),
        Task("clinc150_1200", "exact_match", 1200, 16, 750, 1000, file="clinc150"),
        Task("clinc150_3600", "exact_match", 3600, 16, 750, 1000, file="clinc150", rates_of="clinc150_1200"),
        Task("mr_sentiment", "exact_match", 250, 16, 300, 1000),
        Task("mr_sentiment_175", "exact_match", 175, 16, 300, 1000, file="mr_sentiment", cut_from="mr_sentiment"),
        Task("e2e_nlg", "bleu", 200, 8, 60, 315),
        Task("e2e_nlg_140", "bleu", 140, 8, 60, 315, file="e2e_nlg", cut_from="e2e_nlg"),
        Task("e2e_nlg_600", "bleu", 600, 8, 120, 315, file="e2e_nlg"),
        Task("scan", "exact_match", 800, 16, 300, 600, _ACTIONS),
        Task("scan_560", "exact_match", 560, 16, 300, 600, _ACTIONS, file="scan", cut_from="scan"),
        Task("scan_2400", "exact_match", 2400, 16, 300, 600, _ACTIONS, file="scan"),
        Task("tatoeba_en_es", "chrf", 300, 16, 150, 400, by_loss=True),
    )
}
"""Steps and rows are what two cores can do for all methods and seeds; every method gets the same."""


@dataclass(frozen=True)
class Rows:
    """Examples and their token ids."""

    examples: list[Example]
    tokenized: TokenizedSet


class Ground:
    """What all runs on one task share: the base's weights, the tokenizer, the rows. Final."""

    def __init__(self, task: Task, base: str) -> None:
        """Read and tokenise the task's rows; `base` is `starter` or a directory."""
        file = EXAMPLES / f"{task.file or task.name}.yaml"
        overrides = [f"model.model_name_or_path={base}", f"train.max_steps={task.steps}"]
        self.task, self.config = task, load_run_config(file, overrides)
        outline = outline_run(self.config)
        assert outline.data is not None
        self._location, self._data = outline.base, outline.data
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(outline.base, self.config.model)
        self.train = self._rows(self._data.train, None)
        self.validation = self._rows(self._data.validation, task.validation_rows)
        self.test = self._rows(self._data.test, task.test_rows)
        self.settings = resolve_settings(self.config.evaluation, self._longest_target())

    def fresh_base(self) -> PreTrainedModel:
        """The base model, in float32."""
        return load_base(self._location, self.config.model, torch.float32, torch.device("cpu"))

    def padding_id(self, model: PreTrainedModel) -> int:
        """What batches are filled with."""
        return padding_id(model, self.tokenizer)

    def score(self, model: Any, rows: Rows) -> dict[str, float]:
        """The task's metrics and the loss of what the model writes for these rows."""
        found = evaluate_examples(
            model,
            self.tokenizer,
            rows.examples,
            rows.tokenized,
            settings=self.settings,
            metric_names=[self.task.metric],
            labels=None if self._data.verbalizer is None else self._data.verbalizer.words,
            task=self._data.task,
        )
        return {name: metric.value for name, metric in found.metrics.items()}

    def _rows(self, examples: Sequence[Example], most: int | None) -> Rows:
        """The rows, or `most` of them spread evenly over the file, which may be sorted."""
        chosen = list(examples)
        if most is not None and most < len(chosen):
            chosen = [chosen[number * len(chosen) // most] for number in range(most)]
        chosen = [self.task.reworded(example) for example in chosen]
        data = self.config.data
        source, target = data.max_source_length, data.max_target_length
        tokenized = tokenize_examples(chosen, self.tokenizer, max_source_length=source, max_target_length=target)
        return Rows(chosen, tokenized)

    def _longest_target(self) -> int:
        return max(rows.tokenized.truncation.longest_target for rows in (self.train, self.validation))


@cache
def ground(task: str, base: str) -> Ground:
    """Made once a process."""
    return Ground(TASKS[task], base)
