"""Metrics over texts: strings in, numbers out, and with every number its signature.

A signature says all that the number depends on besides the texts (library and version, options, references). Two
numbers whose signatures differ are not compared; the idea is sacrebleu's (`sacrebleu/metrics/base.py`).

`exact_match`, `accuracy`, `macro_f1`, `non_label_share` and the `constrained_` ones are in 0–1; `rouge1`, `rouge2`,
`rougeL`, `bleu` and `chrf` in 0–100. Importing this module is cheap: a metric imports its library itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from spectune.errors import ConfigError


@dataclass(frozen=True)
class Metric:
    """A number and what it depends on."""

    value: float
    signature: str


@dataclass(frozen=True)
class _Texts:
    """What every metric reads: one stripped prediction, its references and, for classification, the label words."""

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    labels: Sequence[str]


LOSS = "eval_loss"
"""Computed from logits, not from texts (`evaluation.loss`), but chosen and compared like any other metric."""

CONSTRAINED: Mapping[str, str] = {"constrained_accuracy": "accuracy", "constrained_macro_f1": "macro_f1"}
"""The metric of free texts that each is, over what was decoded under the labels (`evaluation.constrained`)."""

LOSS_SIGNATURE = "unit:nats/target token|penalty:no|softmax:float32"

_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "classification": ("exact_match", "accuracy", "macro_f1", "non_label_share"),
    "summarization": ("rouge1", "rouge2", "rougeL"),
    "translation": ("bleu", "chrf"),
    "text2text": ("exact_match", "rougeL", "bleu", "chrf"),
}
_LABEL_METRICS = frozenset({"accuracy", "macro_f1", "non_label_share"})
_LOWER_IS_BETTER = frozenset({LOSS, "non_label_share"})


def default_metrics(task: str) -> tuple[str, ...]:
    """Names of the task's metrics; the first one chooses the best checkpoint unless another is named."""
    return _DEFAULTS[task]


def resolve_metrics(names: Sequence[str] | str, task: str, constrained: bool = False) -> tuple[str, ...]:
    """The metrics to compute: the task's own for `"auto"`, else `names`, checked and without repetitions.

    With `constrained` (`evaluation.constrain_labels`) those of the constrained decoding are always among them.

    Raises:
        ConfigError: a name is unknown, needs labels and the task has none, or needs `constrained`.
    """
    if isinstance(names, str):
        names = default_metrics(task) if names == "auto" else [names]
    names = [*names, *CONSTRAINED] if constrained else names
    check_metrics(names, task, constrained)
    return tuple(dict.fromkeys(names))


def choose_metrics(
    names: Sequence[str] | str, best: str | None, task: str, constrained: bool = False
) -> tuple[tuple[str, ...], str]:
    """The metrics of a run, and the one that chooses the best checkpoint: the task's first unless `best` names one.

    Raises:
        ConfigError: as `resolve_metrics`, or a `best` that this run does not compute.
    """
    chosen = resolve_metrics(names, task, constrained)
    computed = dict.fromkeys((*chosen, LOSS))
    if best in CONSTRAINED and not constrained:
        raise ConfigError(f"evaluation.metric_for_best_model {best} needs evaluation.constrain_labels: true")
    if best is not None and best not in computed:
        raise ConfigError(f"evaluation.metric_for_best_model {best} is not among this run's: {', '.join(computed)}")
    return chosen, best or chosen[0]


def check_metrics(names: Sequence[str], task: str, constrained: bool = False) -> None:
    """Refuse names that cannot be computed for this task; `eval_loss` is a name like the others.

    Raises:
        ConfigError: a name is unknown, needs labels and the task has none, or needs `constrained`.
    """
    known = [*_METRICS, *CONSTRAINED, LOSS]
    for name in names:
        if name not in known:
            # Compared in lower case, so that `ROUGE-L` and `BLEU` find their names.
            by_folded = {candidate.lower(): candidate for candidate in known}
            nearest = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.5)
            hint = f"did you mean {by_folded[nearest[0]]}?" if nearest else f"choose from {', '.join(known)}"
            raise ConfigError(f"unknown metric {name!r}: {hint}")
        if CONSTRAINED.get(name, name) in _LABEL_METRICS and task != "classification":
            raise ConfigError(
                f"metric {name} counts labels, which task {task} has none of; set data.task: classification"
            )
        if name in CONSTRAINED and not constrained:
            raise ConfigError(f"metric {name} needs evaluation.constrain_labels: true")


def text_metrics(names: Sequence[str]) -> list[str]:
    """Those of `names` that `compute_metrics` computes: from free texts, neither logits nor constrained labels."""
    return [name for name in names if name in _METRICS]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of this metric is the better one."""
    return name not in _LOWER_IS_BETTER


def compute_metrics(
    names: Sequence[str],
    *,
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    labels: Sequence[str] | None = None,
) -> dict[str, Metric]:
    """Score `predictions[i]` against `references[i]`, one or more right texts; their number may differ by row.

    Args:
        names: metrics in the order in which they are wanted back; `eval_loss` is not one of the text metrics.
        predictions: n texts.
        references: n sequences of at least one text.
        labels: the label words; needed by `accuracy`, `macro_f1` and `non_label_share`.

    Raises:
        ValueError: no rows, rows that do not match, a row without reference, or label metrics without labels.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions against {len(references)} rows of references")
    if not all(references):
        raise ValueError("every row needs at least one reference")
    if labels is None and not _LABEL_METRICS.isdisjoint(names):
        raise ValueError("accuracy, macro_f1 and non_label_share need the label words")
    texts = _Texts(
        [text.strip() for text in predictions],
        [[text.strip() for text in row] for row in references],
        [label.strip() for label in labels or ()],
    )
    return {name: _METRICS[name](name, texts) for name in names}


def constrained_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> dict[str, Metric]:
    """`CONSTRAINED` over labels that were decoded as nothing else could be; arguments as in `compute_metrics`."""
    found = compute_metrics(list(CONSTRAINED.values()), predictions=predictions, references=references, labels=labels)
    return {
        name: replace(found[free], signature=found[free].signature.replace("non-label:wrong", "decoding:label trie"))
        for name, free in CONSTRAINED.items()
    }


def confusion(predictions: Sequence[str], targets: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Counts of target label against prediction, for JSON.

    Returns:
        `{"rows": labels, "columns": labels + ["other"], "counts": [[…], …]}`; `counts[i][j]` rows have target i and
        prediction j, the last column counts predictions that are no label. A row "other" is added only if a target is
        no label.
    """
    position = {label.strip(): index for index, label in enumerate(labels)}
    other = len(labels)
    counts = [[0] * (other + 1) for _ in range(other + 1)]
    for prediction, target in zip(predictions, targets, strict=True):
        counts[position.get(target.strip(), other)][position.get(prediction.strip(), other)] += 1
    rows = [*labels, "other"] if any(counts[other]) else list(labels)
    return {"rows": rows, "columns": [*labels, "other"], "counts": counts[: len(rows)]}


def _reference_count(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's way to write it: the number of references per row, `var` when it varies."""
    counts = {len(row) for row in references}
    return str(counts.pop()) if len(counts) == 1 else "var"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _exact_match(name: str, texts: _Texts) -> Metric:
    hits = [prediction in row for prediction, row in zip(texts.predictions, texts.references, strict=True)]
    return Metric(_mean(hits), f"nrefs:{_reference_count(texts.references)}|strip:outer|case:mixed")


def _accuracy(name: str, texts: _Texts) -> Metric:
    words = set(texts.labels)
    hits = [
        prediction in words and prediction in row
        for prediction, row in zip(texts.predictions, texts.references, strict=True)
    ]
    return Metric(_mean(hits), f"labels:{len(words)}|non-label:wrong")


def _non_label_share(name: str, texts: _Texts) -> Metric:
    words = set(texts.labels)
    return Metric(_mean([text not in words for text in texts.predictions]), f"labels:{len(words)}")


def _macro_f1(name: str, texts: _Texts) -> Metric:
    """Mean F1 over the labels that occur as target or prediction.

    `zero_division=nan` leaves out labels that occur as neither (their F1 is undefined), as scikit-learn does when it
    collects the labels itself; `labels=` keeps outputs that are no label from becoming classes of their own.
    """
    import numpy as np
    import sklearn
    from sklearn.metrics import f1_score

    pairs = zip(texts.predictions, texts.references, strict=True)
    targets = [prediction if prediction in row else row[0] for prediction, row in pairs]
    seen = set(targets).union(texts.predictions)
    value = 0.0
    if not seen.isdisjoint(texts.labels):
        value = f1_score(targets, texts.predictions, labels=texts.labels, average="macro", zero_division=np.nan)
    signature = f"labels:{len(texts.labels)}|average:macro over labels seen|non-label:wrong"
    return Metric(float(value), f"{signature}|version:scikit-learn {sklearn.__version__}")


def _rouge(name: str, texts: _Texts) -> Metric:
    """Mean F1 with Porter stemming, as in transformers' `run_summarization`; the best of several references."""
    from importlib.metadata import version

    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], use_stemmer=True)
    rows = zip(texts.predictions, texts.references, strict=True)
    scores = [float(scorer.score_multi(row, prediction)[name].fmeasure) for prediction, row in rows]
    signature = f"nrefs:{_reference_count(texts.references)}|refs:max|score:f1|stemmer:porter|tok:a-z0-9"
    return Metric(100.0 * _mean(scores), f"{signature}|version:rouge-score {version('rouge-score')}")


def _sacrebleu(name: str, texts: _Texts) -> Metric:
    """Corpus BLEU or chrF; the signature is sacrebleu's own."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # force: whether the texts look tokenised is the data's business; it changes no number, only a warning.
    scorer = BLEU(force=True) if name == "bleu" else CHRF()
    # sacrebleu's annotation leaves out the None that its documentation asks for where a row has fewer references.
    streams = cast("list[list[str]]", _reference_streams(texts.references))
    score = scorer.corpus_score(list(texts.predictions), streams)
    return Metric(float(score.score), str(scorer.get_signature()))


def _reference_streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """sacrebleu's streams: stream k holds the k-th reference of every row, None where a row has fewer."""
    width = max(len(row) for row in references)
    return [[row[stream] if stream < len(row) else None for row in references] for stream in range(width)]


_METRICS: Mapping[str, Callable[[str, _Texts], Metric]] = {
    "exact_match": _exact_match,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "non_label_share": _non_label_share,
    "rouge1": _rouge,
    "rouge2": _rouge,
    "rougeL": _rouge,
    "bleu": _sacrebleu,
    "chrf": _sacrebleu,
}
