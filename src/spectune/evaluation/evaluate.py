"""One evaluation: generate for every example, score the texts, and write them down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from spectune.data.collation import padded_labels
from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config, generation_model
from spectune.evaluation.loss import CrossEntropySum
from spectune.evaluation.metrics import LOSS, LOSS_SIGNATURE, Metric, compute_metrics, confusion
from spectune.files import write_text


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
    on_batch: Callable[[int], None] | None = None,
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
        on_batch: called with the number of rows after each generated batch.
    """
    started = time.monotonic()
    if not examples or len(examples) != len(tokenized.input_ids):
        raise ValueError(f"{len(examples)} examples against {len(tokenized.input_ids)} tokenised rows")
    loss = CrossEntropySum(model) if with_loss or LOSS in metric_names else None
    with generation_model(model) as generator:
        predictions = generate_texts(
            generator,
            tokenizer,
            tokenized.input_ids,
            generation_config(model, settings),
            batch_size=settings.batch_size,
            on_batch=on_batch,
            after_batch=None if loss is None else partial(_add_loss, loss, tokenized),
        )
    return _scored(examples, predictions, metric_names, labels, task, loss, started)


def _scored(
    examples: Sequence[Example],
    predictions: list[str],
    metric_names: Sequence[str],
    labels: Sequence[str] | None,
    task: str,
    loss: CrossEntropySum | None,
    started: float,
) -> Evaluation:
    metrics = compute_metrics(
        [name for name in metric_names if name != LOSS],
        predictions=predictions,
        references=[accepted_texts(example) for example in examples],
        labels=labels,
    )
    if loss is not None:
        metrics[LOSS] = Metric(loss.mean(), LOSS_SIGNATURE)
    targets = [example.target for example in examples]
    counts = confusion(predictions, targets, labels) if labels is not None and task == "classification" else None
    return Evaluation(metrics, predictions, counts, len(examples), time.monotonic() - started)


def _add_loss(loss: CrossEntropySum, tokenized: TokenizedSet, rows: list[int], encoded: Any, mask: Tensor) -> None:
    """A batch's cross entropy, over the encoder's output that its texts were generated from."""
    labels = padded_labels([tokenized.labels[row] for row in rows])
    loss.add(labels, encoder_outputs=encoded, attention_mask=mask)


def accepted_texts(example: Example) -> Sequence[str]:
    """The right outputs of a row; those of `Example.references`, which holds the target first."""
    return example.references or (example.target,)


def write_predictions(path: str | Path, examples: Sequence[Example], predictions: Sequence[str]) -> None:
    """JSON lines `{"text", "target", "prediction"}`, with `references` where a row has several; whole or not at all."""
    records = []
    for example, prediction in zip(examples, predictions, strict=True):
        record: dict[str, Any] = {"text": example.source, "target": example.target, "prediction": prediction}
        if len(accepted_texts(example)) > 1:
            record["references"] = list(accepted_texts(example))
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(records))
