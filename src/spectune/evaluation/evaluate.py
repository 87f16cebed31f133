"""One evaluation: generate for every example, score the texts, and write them down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from spectune.data.collation import padded_labels
from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet
from spectune.evaluation.constrained import LabelDecoder, LabelOutputs
from spectune.evaluation.decoding import AfterBatch
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config, generation_model
from spectune.evaluation.label_scores import confusion
from spectune.evaluation.label_trie import LabelTrie
from spectune.evaluation.loss import CrossEntropySum, mean_loss
from spectune.evaluation.metric import Metric
from spectune.evaluation.metrics import LOSS, LOSS_SIGNATURE, compute_metrics, constrained_metrics, text_metrics
from spectune.files import write_text

T = TypeVar("T")
OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found."""

    metrics: dict[str, Metric]
    predictions: list[str]
    """One text per example, in the order of the examples."""
    confusion: dict[str, Any] | None
    """Counts of label against prediction (`metrics.confusion`), for classification."""
    rows: int
    seconds: float
    constrained: LabelOutputs | None = None
    """What was decoded under the labels alone, where that was asked for; its seconds are among `seconds`."""


@dataclass(frozen=True)
class Outputs:
    """What the model made of some rows, in their order."""

    predictions: list[str]
    losses: list[tuple[float, float]] | None
    """Cross entropy and target tokens of each batch, where the loss is asked for."""
    constrained: LabelOutputs | None


class Sharing(Protocol):
    """How the rows of an evaluation are shared out among processes, each of which has all rows."""

    def write(
        self, tokenized: TokenizedSet, batch_size: int, write: Callable[[TokenizedSet, OnBatch | None], Outputs]
    ) -> Outputs:
        """The outputs of all rows, made by `write` in batches of `batch_size`; the same in every process."""

    def once(self, work: Callable[[], T]) -> T:
        """What `work`, which one process does, comes to; the same in every process."""


class Whole:
    """All rows in this process. Final."""

    def __init__(self, on_batch: OnBatch | None = None) -> None:
        """`on_batch` is called with the number of rows after each generated batch."""
        self._on_batch = on_batch

    def write(
        self, tokenized: TokenizedSet, batch_size: int, write: Callable[[TokenizedSet, OnBatch | None], Outputs]
    ) -> Outputs:
        """What `write` makes of all rows."""
        return write(tokenized, self._on_batch)

    def once(self, work: Callable[[], T]) -> T:
        """What `work` comes to."""
        return work()


def evaluate_examples(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    tokenized: TokenizedSet,
    *,
    settings: GenerationSettings,
    metric_names: Sequence[str],
    labels: Sequence[str] | None = None,
    task: str,
    with_loss: bool = True,
    trie: LabelTrie | None = None,
    on_batch: OnBatch | None = None,
    sharing: Sharing | None = None,
) -> Evaluation:
    """Generate for every example and score it.

    Args:
        model: an encoder-decoder model or a `PeftModel` around one; left in the mode it had.
        tokenizer: decodes the output.
        examples: rows with their right outputs.
        tokenized: the same rows as token ids.
        settings: decoding settings, `auto` resolved.
        metric_names: checked names (`metrics.resolve_metrics`).
        labels: the label words, for classification.
        task: the run's task; classification also gets a confusion table.
        with_loss: also compute `eval_loss`; naming it in `metric_names` does the same.
        trie: of the labels; also decodes under them alone and computes `metrics.CONSTRAINED`.
        on_batch: called with the number of rows after each generated batch.
        sharing: among several processes, in place of `on_batch`; every one of them gets the same evaluation.
    """
    started = time.monotonic()
    if not examples or len(examples) != len(tokenized.input_ids):
        raise ValueError(f"{len(examples)} examples against {len(tokenized.input_ids)} tokenised rows")
    written = write_outputs(
        model,
        tokenizer,
        tokenized,
        settings=settings,
        with_loss=with_loss or LOSS in metric_names,
        trie=trie,
        sharing=sharing or Whole(on_batch),
    )
    score = partial(_score_outputs, examples, written, metric_names, labels, task, started)
    return score() if sharing is None else sharing.once(score)


def write_outputs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tokenized: TokenizedSet,
    *,
    settings: GenerationSettings,
    with_loss: bool,
    trie: LabelTrie | None,
    sharing: Sharing,
) -> Outputs:
    """What the model makes of some rows; arguments as in `evaluate_examples`."""
    write = partial(_write, model, tokenizer, settings, with_loss, trie)
    return sharing.write(tokenized, settings.batch_size, write)


def _write(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    settings: GenerationSettings,
    with_loss: bool,
    trie: LabelTrie | None,
    tokenized: TokenizedSet,
    on_batch: OnBatch | None,
) -> Outputs:
    loss = CrossEntropySum(model) if with_loss else None
    decoder = None if trie is None else LabelDecoder(model, trie, settings, len(tokenized.input_ids))
    after: list[AfterBatch] = [] if loss is None else [partial(_add_loss, loss, tokenized)]
    after += [] if decoder is None else [decoder.add]
    with generation_model(model) as generator:
        predictions = generate_texts(
            generator,
            tokenizer,
            tokenized.input_ids,
            generation_config(model, settings),
            batch_size=settings.batch_size,
            on_batch=on_batch,
            after_batch=partial(_each, after),
        )
    return Outputs(
        predictions,
        None if loss is None else loss.batches(),
        None if decoder is None else decoder.outputs(),
    )


def _each(after: Sequence[AfterBatch], rows: list[int], encoded: Any, mask: Tensor) -> None:
    for one in after:
        one(rows, encoded, mask)


def _score_outputs(
    examples: Sequence[Example],
    written: Outputs,
    metric_names: Sequence[str],
    labels: Sequence[str] | None,
    task: str,
    started: float,
) -> Evaluation:
    """Metrics of the outputs of all rows; arguments as in `evaluate_examples`, `started` by `time.monotonic`."""
    predictions, constrained = written.predictions, written.constrained
    references = [accepted_texts(example) for example in examples]
    metrics = compute_metrics(
        text_metrics(metric_names),
        predictions=predictions,
        references=references,
        labels=labels,
    )
    if constrained is not None:
        metrics |= constrained_metrics(constrained.predictions, references, constrained.words)
    if written.losses is not None:
        metrics[LOSS] = Metric(mean_loss(written.losses), LOSS_SIGNATURE)
    targets = [example.target for example in examples]
    counts = confusion(predictions, targets, labels) if labels is not None and task == "classification" else None
    return Evaluation(metrics, predictions, counts, len(examples), time.monotonic() - started, constrained)


def _add_loss(loss: CrossEntropySum, tokenized: TokenizedSet, rows: list[int], encoded: Any, mask: Tensor) -> None:
    """A batch's cross entropy, over the encoder's output that its texts were generated from."""
    labels = padded_labels([tokenized.labels[row] for row in rows])
    loss.add(labels, encoder_outputs=encoded, attention_mask=mask)


def accepted_texts(example: Example) -> Sequence[str]:
    """The right outputs of a row; those of `Example.references`, which holds the target first."""
    return example.references or (example.target,)


def write_predictions(
    path: str | Path,
    examples: Sequence[Example],
    predictions: Sequence[str],
    constrained: LabelOutputs | None = None,
) -> None:
    """JSON lines `{"text", "target", "prediction"}`, with `references` where a row has several; whole or not at all.

    With `constrained` also what `LabelOutputs.record` says of a row.
    """
    records = []
    for row, (example, prediction) in enumerate(zip(examples, predictions, strict=True)):
        record: dict[str, Any] = {"text": example.source, "target": example.target, "prediction": prediction}
        if len(accepted_texts(example)) > 1:
            record["references"] = list(accepted_texts(example))
        if constrained is not None:
            record |= constrained.record(row)
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(records))
