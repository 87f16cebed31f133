"""What each step prints under its heading."""

from __future__ import annotations

from typing import Any

from spectune.data.examples import Example
from spectune.data.stream_loader import StreamLoader
from spectune.data.tokenization import TokenizedSet
from spectune.data.wording import count
from spectune.evaluation.evaluate import Evaluation
from spectune.planning import count_roles
from spectune.report.tables import MOST_LABELS_SHOWN, confusion_table, metrics_table, predictions_table
from spectune.training.loop import Loop
from spectune.training.model import Adapted
from spectune.training.outputs import plain_metrics
from spectune.training.session import Session, name_of


def show_tokens(session: Session, sets: dict[str, TokenizedSet]) -> None:
    """What was cut in each split, targets that cannot be written exactly, and the tokenizer's speed."""
    for split, one in sets.items():
        name = f"train, first {len(one):,} rows," if split == "train" and session.data.stream is not None else split
        session.reporter.line(f"{name} {one.truncation.line()}")
        if one.unfaithful_targets:
            session.reporter.warning(
                f"{name}: {count(one.unfaithful_targets, 'distinct target')} that the tokenizer itself does not give "
                "back; no output can match them exactly"
            )
    speed = session.timings["tokens_per_second_tokenized"]
    session.reporter.line(f"tokenised {speed:,.0f} tokens a second")


def show_row(session: Session, example: Example, tokenized: TokenizedSet) -> None:
    """One row: text, label and its words, token ids."""
    target = example.target if example.label in (None, example.target) else f"{example.label} → {example.target}"
    session.reporter.line(f"row {example.row}: {example.source[:160]!r} : {target[:160]!r}")
    session.reporter.line(f"input_ids {_head(tokenized.input_ids[0])}  labels {_head(tokenized.labels[0])}")


def _head(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 16 else f"[{', '.join(map(str, ids[:16]))}, …] ({len(ids)})"


def show_schedule(session: Session) -> None:
    """The resolved schedule, its phases in steps, the learning rate at their boundaries, and what may disappoint."""
    schedule, rate, train = session.outline.schedule, session.outline.rate, session.config.train
    adapter = session.config.adapter
    shared = f" in each of {session.processes.size} processes" if session.processes.several else ""
    session.reporter.line(
        f"{schedule.total_step:,} optimizer steps of {train.per_device_train_batch_size} × "
        f"{train.gradient_accumulation_steps} rows{shared}; init_r {schedule.init_r}, {adapter.target}, "
        f"lora_alpha {adapter.resolved_lora_alpha}, an allocation every {schedule.deltaT} steps (deltaT)"
    )
    for phase, (first, last) in schedule.phases().items():
        session.reporter.line(
            f"{phase:9} steps {first:>6,} to {last:>6,}   learning rate {rate.at(first):.2e} to {rate.at(last):.2e}"
        )
    for note in session.outline.notes:
        session.reporter.warning(note)


def show_adapted(session: Session, adapted: Adapted, reason: str) -> None:
    """Device, precision and why; parameters; matrices by role."""
    kind = type(adapted.model.get_base_model()).__name__
    share = adapted.trainable / adapted.total
    names = [matrix.name for matrix in adapted.engine.store.matrices]
    quantized = session.config.model.quantization
    held = name_of(session.dtype) if quantized is None else f"{quantized}, the rest in {name_of(session.dtype)}"
    session.reporter.line(f"{kind} on {session.device.type}, weights in {held} ({reason})")
    session.reporter.line(f"trainable {adapted.trainable:,} of {adapted.total:,} parameters ({share:.2%})")
    session.reporter.line(f"{len(names)} matrices adapted, {adapted.engine.initial_triplets:,} triplets to start with")
    for block, roles in count_roles(names).items():
        session.reporter.line(f"   {block}: {', '.join(f'{role} × {count}' for role, count in roles.items())}")


def show_training(session: Session, loop: Loop) -> None:
    """First and last mean loss of each phase, and warnings."""
    for phase, means in loop.losses.summary().items():
        session.reporter.line(f"{phase:9} mean loss first {means['first']:.4f}, last {means['last']:.4f}")
    if isinstance(loop.loader, StreamLoader):
        for line in loop.loader.tally.lines(whole=loop.loader.epochs_done > 0):
            session.reporter.line(line)
    warning = loop.losses.warning()
    if warning:
        session.reporter.warning(warning)
    if loop.progress.skipped:
        session.reporter.warning(f"{loop.progress.skipped:,} steps were skipped, their gradients were not finite")


def show_history(session: Session, evaluations: list[dict[str, Any]]) -> None:
    """The task's first metric, and the one that chooses, before training and at each evaluation."""
    names = dict.fromkeys((session.metric_names[0], session.best_metric))
    for row in evaluations:
        when = "before training" if row["step"] == 0 else f"step {row['step']:,}"
        shown = [f"{name} {row[name]:.4f}" for name in names if name in row]  # a resumed run may compute others
        session.reporter.line(f"{when}: {', '.join(shown)}")


def show_evaluation(session: Session, split: str, examples: list[Example], evaluation: Evaluation) -> None:
    """Metrics with signatures, who was taken for whom, and five predictions."""
    under = evaluation.constrained
    share = "" if under is None else f", {under.seconds:.1f} s of them under the labels alone"
    session.reporter.line(f"{split}, {evaluation.rows:,} rows, {evaluation.seconds:.1f} s{share}")
    session.reporter.line(metrics_table(plain_metrics(evaluation.metrics)))
    if evaluation.confusion is not None and len(evaluation.confusion["rows"]) <= MOST_LABELS_SHOWN:
        session.reporter.line(confusion_table(evaluation.confusion))
    rows = [
        {"text": example.source, "target": example.target, "prediction": prediction}
        for example, prediction in zip(examples[:5], evaluation.predictions, strict=False)
    ]
    session.reporter.line(predictions_table(rows))
