"""What the six steps of one run share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from spectune.config import RunConfig
from spectune.data.examples import Example
from spectune.data.prepare import PreparedData
from spectune.data.tokenization import TokenizedSet
from spectune.evaluation.evaluate import Evaluation, evaluate_examples
from spectune.evaluation.generation import GenerationSettings
from spectune.evaluation.label_trie import LabelTrie
from spectune.evaluation.metrics import choose_metrics
from spectune.families import Vocabulary
from spectune.planning import Outline
from spectune.training.directory import RunDirectory
from spectune.training.faults import memory_explained
from spectune.training.heap import release_freed_memory
from spectune.training.lockstep import Lockstep
from spectune.training.model import Adapted
from spectune.training.parallel import ALONE, Processes
from spectune.training.progress import Reporter
from spectune.training.sharding import Sharded
from spectune.training.spread import Spread


@dataclass
class Session:
    """A run on its way; each step adds what the next ones need."""

    config: RunConfig
    outline: Outline
    data: PreparedData
    paths: RunDirectory
    reporter: Reporter
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    room: int | None = None
    """Parameters that the triplets may have after the freeze, where `adapter.budget` says so."""
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(0, 0))
    """Of the base."""
    first_token_global: bool = False
    """LED: the first token of every source has global attention."""
    trie: LabelTrie | None = None
    """Of the labels, where `evaluation.constrain_labels` asks for decoding under them."""
    base_digest: str = ""
    """SHA-256 of the base's weights as loaded."""
    processes: Processes = ALONE
    sharded: Sharded | None = None
    """The layers of the base, where they are shared out among the processes (`train.fsdp`)."""
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Label words, for classification."""
        return None if self.data.verbalizer is None else self.data.verbalizer.words

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The run's metrics."""
        return self._metrics()[0]

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint."""
        return self._metrics()[1]

    def _metrics(self) -> tuple[tuple[str, ...], str]:
        evaluation = self.config.evaluation
        return choose_metrics(
            evaluation.metrics, evaluation.metric_for_best_model, self.data.task, evaluation.constrain_labels
        )


@dataclass(frozen=True)
class Ready:
    """Data as tokens, and the model with its adapter: what training and evaluation work on."""

    session: Session
    tokenizer: PreTrainedTokenizerBase
    sets: dict[str, TokenizedSet]
    adapted: Adapted
    settings: GenerationSettings

    def evaluate(self, examples: list[Example], tokenized: TokenizedSet) -> Evaluation:
        """Generate and score, with the run's settings."""
        release_freed_memory()
        sharded = self.session.sharded
        lockstep = None if sharded is None else Lockstep(self.session.processes, sharded.stacks)
        with memory_explained(self.session.config, "evaluation"):
            return evaluate_examples(
                self.adapted.model,
                self.tokenizer,
                examples,
                tokenized,
                settings=self.settings,
                metric_names=self.session.metric_names,
                labels=self.session.labels,
                task=self.session.data.task,
                trie=self.session.trie,
                sharing=Spread(self.session.processes, lockstep),
            )


def name_of(dtype: torch.dtype) -> str:
    """`torch.float32` → `float32`."""
    return str(dtype).removeprefix("torch.")
