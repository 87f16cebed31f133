"""Steps 5 and 6: the final evaluation, the saved adapter, and the proof that it reloads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spectune.adapter.roles import role_of
from spectune.data.examples import Example
from spectune.data.prepare import PreparedData
from spectune.data.tokenization import TokenizedSet
from spectune.errors import AdapterError, RunError
from spectune.evaluation.evaluate import Evaluation, write_predictions
from spectune.evaluation.generation import generation_config
from spectune.evaluation.reload import Conditions, ReloadProof, prove_reload
from spectune.files import directory_size, finite, write_json, write_text
from spectune.report.page import run_page
from spectune.report.tables import metrics_table, rank_table
from spectune.training import outputs
from spectune.training.checkpoint import load_checkpoint
from spectune.training.loop import Loop
from spectune.training.outputs import plain_metrics
from spectune.training.session import Ready, Session, name_of
from spectune.training.showing import show_evaluation, show_history
from spectune.training.tokens import stream_facts

PROOF_ROWS_WITHOUT_VALIDATION = 100


@dataclass(frozen=True)
class RunResult:
    """What a finished run is: the summary as written, and where things are."""

    directory: Path
    adapter: Path
    summary: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics by name."""
        return {name: metric["value"] for name, metric in self.summary["metrics"].items()}


@dataclass
class Final:
    """The last evaluation of the model that is saved."""

    examples: list[Example]
    evaluation: Evaluation
    test: Evaluation | None
    best_step: int
    allocator_calls: int
    """Of the whole run; the best checkpoint, once taken up, only counts its own."""


def final_evaluation(ready: Ready, loop: Loop) -> Final:
    """Take up the best checkpoint, score it on the validation rows (and the test rows), write the predictions."""
    session, sets = ready.session, ready.sets
    session.reporter.heading(5)
    best, step, calls = loop.progress.best, loop.progress.step, loop.trained.engine.allocator_calls
    if best is not None and session.config.evaluation.load_best_model_at_end and best["step"] != step:
        step = _take_up_best(ready, loop, best)
    show_history(session, loop.progress.evaluations)
    split = "validation" if session.data.validation else "train"
    examples, tokenized = _rows_to_prove(session.data, sets, split)
    if split == "validation" and loop.latest is not None and loop.latest[0] == step:
        evaluation = loop.latest[1]
    else:
        evaluation = ready.evaluate(examples, tokenized)
    session.timings["evaluate"] = evaluation.seconds
    if evaluation.constrained is not None:
        session.timings["constrain_labels"] = evaluation.constrained.seconds
    show_evaluation(session, split, examples, evaluation)
    _write_predictions(session, "predictions.jsonl", examples, evaluation)
    test = None
    if session.data.test:
        test = ready.evaluate(session.data.test, sets["test"])
        _write_predictions(session, "test_predictions.jsonl", session.data.test, test)
        session.reporter.line(f"test, {test.rows:,} rows")
        session.reporter.line(metrics_table(plain_metrics(test.metrics)))
    return Final(examples, evaluation, test, step, calls)


def _write_predictions(session: Session, name: str, examples: list[Example], evaluation: Evaluation) -> None:
    path = session.paths.root / name
    session.processes.first(lambda: write_predictions(path, examples, evaluation.predictions, evaluation.constrained))


def _take_up_best(ready: Ready, loop: Loop, best: dict[str, Any]) -> int:
    """Load the best checkpoint and return its step; a damaged one costs the best, not the run."""
    session = ready.session
    try:
        place = session.paths.checkpoints / f"step-{best['step']}"
        load_checkpoint(place, loop.trained, weights_only=True, processes=session.processes)
    except RunError as error:
        session.reporter.warning(f"the best checkpoint cannot be taken up ({error}); the last step is saved instead")
        return loop.progress.step
    session.reporter.line(f"took up the best checkpoint: step {best['step']:,}, {best['metric']} {best['value']:.4f}")
    step: int = best["step"]
    return step


def _rows_to_prove(data: PreparedData, sets: dict[str, TokenizedSet], split: str) -> tuple[list[Example], TokenizedSet]:
    if split == "validation":
        return data.validation, sets["validation"]
    rows = PROOF_ROWS_WITHOUT_VALIDATION
    return data.train[:rows], replace(
        sets["train"], input_ids=sets["train"].input_ids[:rows], labels=sets["train"].labels[:rows]
    )


def save_and_prove(ready: Ready, loop: Loop, final: Final) -> RunResult:
    """Write `adapter/` and `summary.json`, and prove that plain PEFT reloads the same predictions.

    Raises:
        AdapterError: a prediction differs, or the adapter does not load.
    """
    session, adapted = ready.session, ready.adapted
    session.reporter.heading(6)
    metrics = outputs.plain_metrics(final.evaluation.metrics)
    trainable, _ = adapted.model.get_nb_trainable_parameters()
    parameters = {"trainable": adapted.trainable, "trainable_after_freeze": trainable, "total": adapted.total}
    _save(ready, metrics, parameters)
    proof = _prove(ready, final)
    session.timings["reload"] = proof.seconds
    parameters |= {"saved": outputs.saved_numbers(session.paths.adapter)}
    summary = _summary(session, loop, adapted.engine, metrics, parameters, proof, final)
    write_json(session.paths.root / "summary.json", finite(summary))
    _write_page(session)
    session.reporter.line(rank_table(summary["ranks"], {name: role_of(name) for name in summary["ranks"]}))
    if not proof.identical:
        raise AdapterError(
            f"the reloaded adapter differs in {proof.difference()} "
            f"({session.paths.root / 'summary.json'} has its source under reload)"
        )
    session.reporter.line(
        f"reloaded with plain PEFT in a new process: {proof.rows:,} of {proof.rows:,} predictions identical"
    )
    session.reporter.line(f"done: {session.paths.adapter}")
    return RunResult(session.paths.root, session.paths.adapter, summary)


def _write_page(session: Session) -> None:
    """`report.html`; a disk without room for it costs the page, not the run."""
    root = session.paths.root
    try:
        write_text(root / "report.html", run_page(root))
    except OSError as error:
        session.reporter.warning(f"report.html cannot be written ({error}); make room, then: spectune report {root}")


def _save(ready: Ready, metrics: dict[str, Any], parameters: dict[str, int]) -> None:
    """Write `adapter/` and say how large it and its base are."""
    session, adapted, settings = ready.session, ready.adapted, ready.settings
    config, place = session.config, session.paths.adapter
    size = outputs.save_adapter(
        place,
        model=adapted.model,
        engine=adapted.engine,
        tokenizer=ready.tokenizer,
        generation=generation_config(adapted.model, settings),
        settings=outputs.adapter_settings(
            config, session.data, name_of(session.dtype), settings.max_new_tokens, session.base_digest
        ),
        card=outputs.card_facts(
            config,
            session.data,
            adapted.engine,
            metrics,
            parameters,
            session.outline.base,
            session.first_token_global,
        ),
        adapter_name=config.adapter.adapter_name,
    )
    session.reporter.line(
        f"adapter {size / 1e3:,.0f} kB ({directory_size(place) / 1e3:,.0f} kB with its tokenizer), "
        f"base {adapted.base_bytes / 1e3:,.0f} kB"
    )


def _prove(ready: Ready, final: Final) -> ReloadProof:
    session = ready.session
    return prove_reload(
        session.paths.adapter,
        examples=final.examples,
        live_predictions=final.evaluation.predictions,
        conditions=Conditions(
            batch_size=ready.settings.batch_size,
            max_source_length=session.config.data.max_source_length,
            dtype=name_of(session.dtype),
            device=str(session.device),
            threads=torch.get_num_threads(),
            trust_remote_code=session.config.model.trust_remote_code,
            quantization=session.config.model.quantization,
            spread=session.config.train.fsdp,
        ),
        metric_names=session.metric_names,
        labels=session.labels,
    )


def _summary(
    session: Session,
    loop: Loop,
    engine: Any,
    metrics: dict[str, Any],
    parameters: dict[str, int],
    proof: ReloadProof,
    final: Final,
) -> dict[str, Any]:
    test = (
        {}
        if final.test is None
        else {"test": {"rows": final.test.rows, "metrics": outputs.plain_metrics(final.test.metrics)}}
    )
    return {
        "metrics": metrics,
        "reload_identical": proof.identical,
        "reload": asdict(proof),
        "ranks": engine.ranks(),
        "budget": {
            "target": engine.target_budget,
            "unit": "parameters" if engine.spending.by_parameters else "triplets",
            "spent": engine.spending.of(engine.keep),
        },
        "parameters": parameters,
        "phases": loop.losses.summary(),
        "timings": {name: round(seconds, 3) for name, seconds in session.timings.items()},
        "versions": outputs.versions(),
        "best_step": final.best_step,
        "total_steps": engine.schedule.total_step,
        "freeze_step": engine.schedule.freeze_step,
        "allocator_calls": final.allocator_calls,
        "skipped_steps": loop.progress.skipped,
        "evaluations": loop.progress.evaluations,
        "confusion": final.evaluation.confusion,
    } | (test | stream_facts(loop.loader))
