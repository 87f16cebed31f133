"""Metrics of classification: what is no label word is wrong. scikit-learn computes the scores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from spectune.evaluation.metric import Metric, Texts, mean

_NO_LABEL = "\0"  # the one class of all outputs that are no label


def accuracy(name: str, texts: Texts) -> Metric:
    """Share of rows whose output is a label and the right one."""
    words = set(texts.labels)
    hits = [
        prediction in words and prediction in row
        for prediction, row in zip(texts.predictions, texts.references, strict=True)
    ]
    return Metric(mean(hits), f"labels:{len(words)}|non-label:wrong")


def non_label_share(name: str, texts: Texts) -> Metric:
    """Share of outputs that are no label word."""
    words = set(texts.labels)
    return Metric(mean([text not in words for text in texts.predictions]), f"labels:{len(words)}")


def macro_f1(name: str, texts: Texts) -> Metric:
    """Mean F1 over the labels that occur as target or prediction.

    `zero_division=nan` leaves out labels that occur as neither (their F1 is undefined), as scikit-learn does when it
    collects the labels itself; `labels=` keeps outputs that are no label from becoming classes of their own.
    """
    import numpy as np
    from sklearn.metrics import f1_score

    targets = texts.targets()
    value = 0.0
    if not set(targets).union(texts.predictions).isdisjoint(texts.labels):
        value = f1_score(targets, texts.predictions, labels=texts.labels, average="macro", zero_division=np.nan)
    signature = f"labels:{len(texts.labels)}|average:macro over labels seen|non-label:wrong"
    return Metric(float(value), f"{signature}|{_version()}")


def f1(name: str, texts: Texts) -> Metric:
    """F1 of the second of two labels, the positive one: GLUE's F1 of QQP and MRPC. 0 where it never occurs."""
    from sklearn.metrics import f1_score

    positive = texts.labels[-1]
    value = f1_score(texts.targets(), texts.predictions, labels=[positive], average="macro", zero_division=0)
    return Metric(float(value), f"positive:{positive}|non-label:wrong|{_version()}")


def matthews_correlation(name: str, texts: Texts) -> Metric:
    """Matthews correlation coefficient, −1 to 1: GLUE's metric of CoLA. All outputs that are no label are one class."""
    from sklearn.metrics import matthews_corrcoef

    words = set(texts.labels)
    pairs = zip(texts.targets(), texts.predictions, strict=True)
    targets, predictions = zip(*((_known(a, words), _known(b, words)) for a, b in pairs), strict=True)
    signature = f"labels:{len(words)}|non-label:a class of its own|constant:0|{_version()}"
    with warnings.catch_warnings():  # of a single class, for which the signature says the value
        warnings.simplefilter("ignore", UserWarning)
        value = float(matthews_corrcoef(targets, predictions))
    return Metric(value, signature)


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


def _known(text: str, words: set[str]) -> str:
    return text if text in words else _NO_LABEL


def _version() -> str:
    import sklearn

    return f"version:scikit-learn {sklearn.__version__}"
