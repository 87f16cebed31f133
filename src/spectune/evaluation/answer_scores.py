"""Metrics of answers: SQuAD's exact match and F1 for short texts, correlations for numbers.

SQuAD's two are those of its official script (Rajpurkar et al. 2016, arXiv 1606.05250, `evaluate-v1.1.py`): texts are
compared in lower case, without punctuation, articles and repeated spaces, with the best of several references.
Pearson's and Spearman's correlations are GLUE's for STS-B, whose scores a seq2seq model writes as texts.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from spectune.evaluation.metric import Metric, Texts, mean

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_exact_match(name: str, texts: Texts) -> Metric:
    """Share of rows, in per cent, whose normalised output is a normalised reference."""
    return _best_reference(texts, lambda output, reference: float(output == reference))


def squad_f1(name: str, texts: Texts) -> Metric:
    """Mean F1, in per cent, of the words that the normalised output and a reference share."""
    return _best_reference(texts, _overlap)


def _best_reference(texts: Texts, score: Callable[[str, str], float]) -> Metric:
    scores = []
    for output, row in zip(texts.predictions, texts.references, strict=True):
        words = normalized_answer(output)
        scores.append(max(score(words, normalized_answer(reference)) for reference in row))
    signature = f"nrefs:{texts.reference_count()}|refs:max|normalized:squad|case:lower"
    return Metric(100.0 * mean(scores), signature)


def normalized_answer(text: str) -> str:
    """Lower case, without punctuation, articles and repeated spaces, in the order of SQuAD's script."""
    plain = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _overlap(output: str, reference: str) -> float:
    ours, theirs = output.split(), reference.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs)  # an answer that is nothing but articles: the script of SQuAD 2.0
    return 2.0 * shared / (len(ours) + len(theirs))


def number_in(text: str) -> float | None:
    """The finite number that a text is; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def correlation(name: str, texts: Texts) -> Metric:
    """Pearson's or Spearman's correlation, −1 to 1, of the numbers that are written with the first references.

    An output that is no number counts as the mean of the targets: it says nothing. 0 where either side is constant.

    Raises:
        ValueError: a reference is no number.
    """
    import scipy
    from scipy.stats import pearsonr, spearmanr

    targets = _numbers([row[0] for row in texts.references])
    middle = mean(targets)
    written = [middle if value is None else value for value in map(number_in, texts.predictions)]
    value = 0.0
    if len(set(targets)) > 1 and len(set(written)) > 1:
        value = float((pearsonr if name == "pearson" else spearmanr)(written, targets).statistic)
    return Metric(value, f"no number:mean of targets|constant:0|version:scipy {scipy.__version__}")


def _numbers(texts: Sequence[str]) -> list[float]:
    values = [number_in(text) for text in texts]
    for text, value in zip(texts, values, strict=True):
        if value is None:
            raise ValueError(f"{text!r} is no number")
    return [value for value in values if value is not None]
