"""Metrics over texts: strings in, numbers out, and with every number its signature.

A signature says all that the number depends on besides the texts (library and version, options, references). Two
numbers whose signatures differ are not compared; the idea is sacrebleu's (`sacrebleu/metrics/base.py`).

docs/metrics.md has them all, with their units. Importing this module is cheap: a metric imports its library itself.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from spectune.errors import ConfigError
from spectune.evaluation import answer_scores, label_scores, text_scores
from spectune.evaluation.metric import Metric, Texts

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
_LABEL_METRICS = frozenset({"accuracy", "macro_f1", "f1", "matthews_correlation", "non_label_share"})
_NUMBER_METRICS = frozenset({"pearson", "spearmanr"})
_SHOWN = 60  # characters of a text in a message
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


def check_rows(names: Sequence[str], targets: Iterable[str], labels: Sequence[str] | None = None) -> None:
    """Refuse metrics that these rows cannot have, before anything is generated for them.

    Args:
        names: checked by `check_metrics`.
        targets: the first reference of every row that will be scored.
        labels: the label words.

    Raises:
        ConfigError: `f1` without exactly two labels, or a correlation of targets that are no numbers.
    """
    if "f1" in names and labels is not None and len(labels) != 2:
        raise ConfigError(f"metric f1 is that of the positive label of two, and there are {len(labels)}; use macro_f1")
    wanted = [name for name in names if name in _NUMBER_METRICS]
    odd = next((text for text in targets if answer_scores.number_in(text) is None), None) if wanted else None
    if odd is not None:
        raise ConfigError(f"metric {wanted[0]} compares numbers, and the target {odd[:_SHOWN]!r} is none")


def text_metrics(names: Sequence[str]) -> list[str]:
    """Those of `names` that `compute_metrics` computes: from free texts, neither logits nor constrained labels."""
    return [name for name in names if name in _METRICS]


def higher_is_better(name: str) -> bool:
    """Whether a larger value of this metric is the better one."""
    return name not in _LOWER_IS_BETTER


def ranking(name: str, value: float, loss: float) -> tuple[float, float]:
    """To compare two evaluations by this metric; of equal values, which labels bring about, the lower loss is better.

    What is not finite (a base that overflows) is the least: nothing compares with NaN.
    """
    sign = 1 if higher_is_better(name) else -1
    first, second = (number if math.isfinite(number) else -math.inf for number in (sign * value, -loss))
    return first, second


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
        labels: the label words; needed by the metrics of classification.

    Raises:
        ValueError: no rows, rows that do not match, a row without reference, or label metrics without labels.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions against {len(references)} rows of references")
    if not all(references):
        raise ValueError("every row needs at least one reference")
    if labels is None and not _LABEL_METRICS.isdisjoint(names):
        raise ValueError("metrics of classification need the label words")
    texts = Texts(
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


_METRICS: Mapping[str, Callable[[str, Texts], Metric]] = {
    "exact_match": text_scores.exact_match,
    "accuracy": label_scores.accuracy,
    "macro_f1": label_scores.macro_f1,
    "f1": label_scores.f1,
    "matthews_correlation": label_scores.matthews_correlation,
    "non_label_share": label_scores.non_label_share,
    "rouge1": text_scores.rouge,
    "rouge2": text_scores.rouge,
    "rougeL": text_scores.rouge,
    "bleu": text_scores.sacrebleu,
    "chrf": text_scores.sacrebleu,
    "squad_exact_match": answer_scores.squad_exact_match,
    "squad_f1": answer_scores.squad_f1,
    "pearson": answer_scores.correlation,
    "spearmanr": answer_scores.correlation,
}
