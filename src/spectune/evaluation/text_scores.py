"""Metrics of texts that may be right in several ways: exact match, ROUGE, BLEU and chrF, from their own libraries."""

from __future__ import annotations

from typing import cast

from spectune.evaluation.metric import Metric, Texts, mean
from spectune.evaluation.scripts import AnyScript, bleu_tokenizer, is_latin


def exact_match(name: str, texts: Texts) -> Metric:
    """Share of rows whose output is one of the references, to the character."""
    hits = [prediction in row for prediction, row in zip(texts.predictions, texts.references, strict=True)]
    return Metric(mean(hits), f"nrefs:{texts.reference_count()}|strip:outer|case:mixed")


def rouge(name: str, texts: Texts) -> Metric:
    """Mean F1 with Porter stemming, as in transformers' `run_summarization`; the best of several references.

    rouge-score drops all but a-z and 0-9: where that is most of the references, words of any script, unstemmed.
    """
    from importlib.metadata import version

    from rouge_score.rouge_scorer import RougeScorer

    latin = is_latin(text for row in texts.references for text in row)
    scorer = RougeScorer([name], use_stemmer=True) if latin else RougeScorer([name], tokenizer=AnyScript())
    rows = zip(texts.predictions, texts.references, strict=True)
    scores = [float(scorer.score_multi(row, prediction)[name].fmeasure) for prediction, row in rows]
    words = "stemmer:porter|tok:a-z0-9" if latin else "stemmer:none|tok:any script"
    signature = f"nrefs:{texts.reference_count()}|refs:max|score:f1|{words}"
    return Metric(100.0 * mean(scores), f"{signature}|version:rouge-score {version('rouge-score')}")


def sacrebleu(name: str, texts: Texts) -> Metric:
    """Corpus BLEU or chrF; the signature is sacrebleu's own, with the tokenizer that the references' script needs."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # force: whether the texts look tokenised is the data's business; it changes no number, only a warning.
    scorer: BLEU | CHRF = CHRF()
    if name == "bleu":
        scorer = BLEU(force=True, tokenize=bleu_tokenizer(text for row in texts.references for text in row))
    # sacrebleu's annotation leaves out the None that its documentation asks for where a row has fewer references.
    streams = cast("list[list[str]]", _reference_streams(texts))
    score = scorer.corpus_score(list(texts.predictions), streams)
    return Metric(float(score.score), str(scorer.get_signature()))


def _reference_streams(texts: Texts) -> list[list[str | None]]:
    """sacrebleu's streams: stream k holds the k-th reference of every row, None where a row has fewer."""
    width = max(len(row) for row in texts.references)
    return [[row[stream] if stream < len(row) else None for row in texts.references] for stream in range(width)]
