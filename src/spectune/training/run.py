"""The six steps of a run, in order: what `spectune train` and `spectune.train` do."""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from spectune.base_model import load_tokenizer, read_config, skeleton
from spectune.config import RunConfig
from spectune.data.languages import set_languages
from spectune.data.tokenization import TokenizedSet, check_lengths, position_limit
from spectune.evaluation.boundary_tokens import set_boundary_tokens
from spectune.evaluation.decoding import base_of
from spectune.evaluation.evaluate import Evaluation
from spectune.evaluation.generation import resolve_settings
from spectune.evaluation.global_attention import set_global_attention
from spectune.evaluation.label_trie import label_trie
from spectune.families import family_notes, vocabulary_of
from spectune.files import write_text
from spectune.formats.digests import weights_digest
from spectune.planning import Outline
from spectune.runfile import dump_run_config
from spectune.sizes import find_modules, parameters_of, with_room
from spectune.training.checkpoint import Trained, seed_all
from spectune.training.checkpointing import enable_checkpointing
from spectune.training.device import choose_device, choose_dtype, kind_of, precision_remark
from spectune.training.directory import RunDirectory, step_of
from spectune.training.facts import evaluation_facts, start_facts
from spectune.training.fingerprint import LOCAL, flatten, run_fingerprint
from spectune.training.finish import RunResult, final_evaluation, save_and_prove
from spectune.training.journal import Journal
from spectune.training.kernels import training_kernels
from spectune.training.loop import Loop
from spectune.training.meeting import own_device
from spectune.training.model import Adapted, adapt, load_base
from spectune.training.optimizer import make_optimizer
from spectune.training.parallel import ALONE, Processes
from spectune.training.progress import Reporter
from spectune.training.resume import find_checkpoint, resume_run
from spectune.training.session import Ready, Session, name_of
from spectune.training.sharding import shard_base, sharding_notes
from spectune.training.showing import show_adapted, show_row, show_schedule, show_tokens, show_training
from spectune.training.signals import Stop
from spectune.training.space import check_space
from spectune.training.starts import initialize
from spectune.training.step import StepOptions
from spectune.training.tokens import longest_target, make_loader, tokenize_splits
from spectune.training.trackers import tracked


def train_run(
    config: RunConfig,
    outline: Outline,
    *,
    resume: bool | str,
    overwrite: bool,
    reporter: Reporter,
    stop: Stop,
    processes: Processes = ALONE,
) -> RunResult:
    """Run the six steps; the outline has been checked already. Process 0 writes and prints, the others are quiet.

    Raises:
        UserError: what a person can mend; the directory keeps its last whole checkpoint.
        Interrupted: a signal asked to stop.
    """
    assert outline.data is not None
    session = Session(config, outline, outline.data, RunDirectory(Path(config.train.output_dir)), reporter)
    session.processes = processes
    # what the first collectives depend on; the rest is compared before the first step
    processes.check_equal({"--resume": bool(resume)} | _settings(config))
    processes.together(partial(_fit_budget, session))
    with ExitStack() as stack:
        taken = session.paths.taken(resume=bool(resume), overwrite=overwrite)
        locked = processes.first(partial(stack.enter_context, taken))
        if not locked:
            reporter.warning("this file system has no locks: nothing keeps a second run out of the directory")
        checkpoint = processes.first(partial(find_checkpoint, session, resume)) if resume else None
        return _six_steps(session, checkpoint, stop)


def _six_steps(session: Session, checkpoint: Path | None, stop: Stop) -> RunResult:
    config, processes = session.config, session.processes
    tokenizer, sets = processes.together(partial(_prepare_data, session))
    session.reporter.heading(2)
    show_schedule(session)
    adapted = processes.together(partial(_load_and_adapt, session, tokenizer))
    if config.train.fsdp:
        _shard(session, adapted)
    limit = position_limit(base_of(adapted.model).config, "target")
    settings = resolve_settings(config.evaluation, longest_target(session, tokenizer, sets), limit)
    ready = Ready(session, tokenizer, sets, adapted, settings)
    loop = _make_loop(ready, stop)
    with closing(loop.journal):
        processes.check_equal(_facts(session, sets, loop.fingerprint))
        processes.first(partial(check_space, session, adapted.engine, replaces=checkpoint is None))
        if checkpoint is None:
            initialize(ready, loop)
            processes.first(session.paths.clear)  # nothing is left that could refuse this run
            loop.journal.clear()
        with _trackers(session, loop, checkpoint):
            _start(ready, loop, checkpoint)
            final = final_evaluation(ready, loop)
            return processes.first(partial(save_and_prove, ready, loop, final))


def _trackers(session: Session, loop: Loop, checkpoint: Path | None) -> AbstractContextManager[Any]:
    """What follows the journal of process 0."""
    if not session.processes.is_first:
        return nullcontext()
    resumed_at, warn = None if checkpoint is None else step_of(checkpoint), session.reporter.warning
    return tracked(session.config, session.paths.root, loop.journal, resumed_at=resumed_at, warn=warn)


def _prepare_data(session: Session) -> tuple[PreTrainedTokenizerBase, dict[str, TokenizedSet]]:
    session.reporter.heading(1)
    for line in session.data.report.lines():
        session.reporter.line(line)
    config = session.config
    tokenizer = load_tokenizer(session.outline.base, config.model)
    set_languages(tokenizer, config.data)
    sets = tokenize_splits(session, tokenizer)
    for name, one in sets.items():
        session.vocabulary.check(name, one.input_ids, one.labels)
    if config.evaluation.constrain_labels:
        session.trie = label_trie(session.labels or (), tokenizer, config.data.max_target_length)
    show_tokens(session, sets)
    show_row(session, session.data.train[0], sets["train"])
    return tokenizer, sets


def _fit_budget(session: Session) -> None:
    """Names that match nothing and a budget that cannot be met are found on the skeleton, before weights are read."""
    config, outline = session.config, session.outline
    model = skeleton(config.model)
    session.vocabulary = vocabulary_of(model)
    outline = replace(outline, notes=(*outline.notes, *family_notes(config, model), *sharding_notes(config, model)))
    parameters = parameters_of(config, model, find_modules(config, model))
    session.room = parameters.room
    schedule = with_room(outline.schedule, parameters.room, parameters.triplets_at_start)
    session.outline = replace(outline, schedule=schedule)


def _load_and_adapt(session: Session, tokenizer: PreTrainedTokenizerBase) -> Adapted:
    session.reporter.heading(3)
    config, started = session.config, time.monotonic()
    device, fallback = choose_device(config.train.use_cpu)
    session.device = own_device(device)
    if fallback:
        session.reporter.warning(fallback)
    base_config = read_config(config.model)
    for line in check_lengths(config.data, base_config, evaluation=config.evaluation):
        session.reporter.warning(line)
    session.dtype, reason = choose_dtype(config, kind_of(base_config), session.device)
    if (remark := precision_remark(config, session.dtype)) is not None:
        session.reporter.warning(remark)
    place = torch.device("cpu") if config.train.fsdp else session.device  # it may not fit one device
    base = load_base(session.outline.base, config.model, session.dtype, place)
    session.base_digest = weights_digest(base)
    set_boundary_tokens(base, tokenizer)
    session.first_token_global = set_global_attention(base, config.model.global_attention)
    seed_all(config.train.seed)
    adapted = adapt(base, config.adapter, session.outline.schedule, config.model.revision, session.room)
    if config.train.gradient_checkpointing:
        enable_checkpointing(adapted.model.get_base_model(), use_reentrant=config.train.use_reentrant)
    session.timings["load"] = time.monotonic() - started
    show_adapted(session, adapted, reason)
    return adapted


def _shard(session: Session, adapted: Adapted) -> None:
    session.sharded = shard_base(adapted.model, session.device)
    session.reporter.line(session.sharded.line(session.processes.size))


def _make_loop(ready: Ready, stop: Stop) -> Loop:
    session, adapted = ready.session, ready.adapted
    config, train = session.config, session.config.train
    options = StepOptions(
        device=session.device,
        autocast=partial(torch.autocast, session.device.type, torch.bfloat16, enabled=train.mixed_precision == "bf16"),
        kernels=training_kernels(session.device),
        label_smoothing=train.label_smoothing_factor,
        max_grad_norm=train.max_grad_norm,
        penalty_in_scores=config.adapter.penalty_in_scores,
        call_order=config.adapter.call_order,
        reduce=session.processes.reduce if session.processes.several else None,
    )

    def evaluate() -> Evaluation:
        return ready.evaluate(session.data.validation, ready.sets["validation"])

    return Loop(
        config=config,
        model=adapted.model,
        trained=Trained(adapted.engine, make_optimizer(adapted.engine.parameters(), train)),
        loader=make_loader(ready, seed=train.seed),
        rate=session.outline.rate,
        options=options,
        checkpoints=session.paths.checkpoints,
        journal=_journal(session),
        reporter=session.reporter,
        stop=stop,
        evaluate=evaluate if session.data.validation else None,
        metric=session.best_metric,
        fingerprint=_fingerprint(ready),
        processes=session.processes,
        streamed=config.data.streaming,
    )


def _journal(session: Session) -> Journal:
    """The run's journal; the other processes write theirs into a file that nobody sees."""
    if session.processes.is_first:
        return Journal(session.paths.root / "journal.jsonl")
    with tempfile.TemporaryDirectory() as directory:
        return Journal(Path(directory) / "journal.jsonl")


def _facts(session: Session, sets: dict[str, TokenizedSet], fingerprint: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in all processes, by name; the machine may be another, and files may lie elsewhere."""
    rows = {f"the rows of {name}": one.fingerprint for name, one in sets.items()}
    return {name: value for name, value in (flatten(fingerprint) | rows).items() if name not in LOCAL}


def _settings(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in flatten(config.model_dump(mode="json")).items() if name not in LOCAL}


def _fingerprint(ready: Ready) -> dict[str, Any]:
    session = ready.session
    return run_fingerprint(
        session.config,
        session.outline.schedule,
        ready.sets,
        ready.tokenizer,
        session.base_digest,
        name_of(session.dtype),
        session.device,
    )


def _start(ready: Ready, loop: Loop, checkpoint: Path | None) -> None:
    """Take up a checkpoint or score the untrained model, write the run file, and train."""
    session = ready.session
    if checkpoint is not None:
        resume_run(session, loop, checkpoint)
    session.processes.first(partial(write_text, session.paths.root / "run.yaml", dump_run_config(session.config)))
    if checkpoint is None:
        loop.journal.write("start", 0, **start_facts(ready))
    if checkpoint is None and loop.evaluate is not None and session.config.evaluation.eval_on_start:
        result = loop.evaluate()
        values = {name: metric.value for name, metric in result.metrics.items()}
        loop.progress.evaluations.append({"step": 0, **values})
        loop.journal.write("evaluation", 0, **evaluation_facts(result), candidate=False)
    session.reporter.heading(4)
    started = time.monotonic()
    try:
        loop.train()
    finally:
        session.reporter.close()
    session.timings["train"] = time.monotonic() - started
    session.timings["save"] = sum(loop.save_seconds)
    show_training(session, loop)
