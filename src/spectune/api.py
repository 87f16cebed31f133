"""The Python interface beside `attach`: train, load, evaluate, predict, ranks, export. torch comes when needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from spectune.config import RunConfig
from spectune.data.prepare import load_evaluation_examples, read_texts, texts_to_examples
from spectune.errors import Interrupted
from spectune.exporting import (
    Exported,
    check_form,
    check_limit,
    check_output,
    export_adapter,
)
from spectune.formats.adapter_files import check_start, locate_adapter
from spectune.formats.adapter_settings import AdapterSettings
from spectune.planning import outline_run
from spectune.runfile import load_run_config

if TYPE_CHECKING:
    from spectune.data.report import DataReport
    from spectune.evaluation.evaluate import Evaluation
    from spectune.evaluation.sweep import SweepPoint
    from spectune.evaluation.trained import TrainedAdapter
    from spectune.training.finish import RunResult
    from spectune.training.progress import Reporter
    from spectune.training.signals import Stop


def train(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool | str = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> RunResult:
    """Run the six steps: data, schedule, adapter, training, evaluation by generation, save and reload.

    Args:
        config: a run file's path, its content as a mapping of sections, or a `RunConfig`.
        resume: continue from the newest whole checkpoint of `train.output_dir`, or from the directory named.
        overwrite: delete an earlier run in `train.output_dir`.
        reporter: where progress is written; default: standard output.

    Returns:
        Metrics, summary, and the paths of the run and its adapter.

    Raises:
        UserError: a mistake a person can mend. Mistakes in settings, data columns or the model's name are found before
            torch is imported.
    """
    if isinstance(config, str | Path):
        config = load_run_config(Path(config))
    elif isinstance(config, Mapping):
        config = load_run_config(None, base=config)
    from spectune.training.directory import RunDirectory
    from spectune.training.signals import catch_signals

    paths = RunDirectory(Path(config.train.output_dir))
    paths.check(resume=bool(resume), overwrite=overwrite)
    with catch_signals() as stop:
        try:
            return _train(config, resume, overwrite, reporter, stop)
        except Interrupted as interrupted:
            name = Signals(interrupted.signum).name
            raise Interrupted(interrupted.signum, f"stopped by {name}; {paths.resume_hint()}") from None


def _train(config: RunConfig, resume: bool | str, overwrite: bool, reporter: Reporter | None, stop: Stop) -> RunResult:
    if config.adapter.init_from is not None and not resume:
        check_start(config.adapter.init_from, config.adapter.init_r)
    outline = outline_run(config)
    from spectune.training.progress import Reporter
    from spectune.training.run import train_run

    return train_run(config, outline, resume=resume, overwrite=overwrite, reporter=reporter or Reporter(), stop=stop)


def load(adapter: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> TrainedAdapter:
    """Load an adapter and its base for evaluation and prediction. Nothing in an adapter's directory is trusted.

    Args:
        adapter: a directory or hub id; also an AdaLoRA adapter that plain PEFT made.
        revision: branch, tag or commit of an adapter on the hub.
        trust_remote_code: let the base model bring code of its own.

    Raises:
        AdapterError: there is none, it is damaged, or its base cannot be resolved.
    """
    path = locate_adapter(str(adapter), revision)
    return _on_its_base(path, AdapterSettings.read(path), trust_remote_code)


def evaluate(adapter: str | Path | TrainedAdapter, data: str | Path) -> Evaluation:
    """Generate for every row of `data` (a table, a data set, a hub id, `starter`) and score the outputs."""
    return evaluate_data(adapter, data)[0]


def predict(adapter: str | Path | TrainedAdapter, texts: Sequence[str]) -> list[str]:
    """One output for each text, in order; prefix and lengths as in training."""
    settings, loaded = _opened(adapter)
    examples = texts_to_examples(list(texts), settings.data)
    return loaded().predict(examples) if texts else []


def ranks(adapter: str | Path, *, revision: str | None = None) -> dict[str, int]:
    """Rank of every adapted matrix by module name: its triplets with λ ≠ 0. Loads no model.

    Args:
        adapter: a directory or hub id of any AdaLoRA adapter, also one that plain PEFT made.
        revision: branch, tag or commit of an adapter on the hub.

    Raises:
        AdapterError: there is none, or it is damaged.
    """
    path = locate_adapter(str(adapter), revision)
    from spectune.formats.saved_adapter import SavedAdapter

    return SavedAdapter.read(path).ranks()


def export(
    adapter: str | Path,
    output: str | Path,
    *,
    format: str = "lora",
    target_rank: float | None = None,
    budget: str | int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Exported:
    """Write a finished adapter in another form, whole or cut down to a smaller budget.

    Args:
        adapter: a directory or hub id; also an AdaLoRA adapter that plain PEFT made.
        output: the directory to write; its parents are made.
        format: `lora`, a plain LoRA adapter with the same outputs; `merged`, the full model, which needs transformers
            alone; `adalora`, an AdaLoRA adapter again.
        target_rank: keep so many triplets for each matrix on average, those with the best scores.
        budget: keep what the file of weights has room for, by score per parameter (`400kB`, or a number of parameters).
        overwrite: replace an earlier export.
        revision: branch, tag or commit of an adapter on the hub.
        trust_remote_code: let the base model bring code of its own (`merged`).

    Returns:
        What was written: directory, ranks, bytes, and the scores by which triplets were kept.

    Raises:
        UserError: one line that says what to do; nothing is written then.
    """
    form, limit = check_form(format), check_limit(target_rank, budget)
    path = locate_adapter(str(adapter), revision)
    settings = AdapterSettings.read(path)
    check_output(Path(output), path, overwrite=overwrite)
    return export_adapter(path, settings, Path(output), form=form, limit=limit, trust_remote_code=trust_remote_code)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Metrics of one adapter under several budgets."""

    points: list[SweepPoint]
    rows: int
    """Rows that it was scored on."""
    ranked_by: str
    """Scores by which triplets were kept: `importance` or `size`."""
    report: DataReport
    """What was odd about the rows."""


def export_sweep(
    adapter: str | Path,
    data: str | Path,
    *,
    format: str = "lora",
    target_ranks: Sequence[float] | None = None,
    budgets: Sequence[str | int] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_point: Callable[[SweepPoint], None] = lambda point: None,
) -> Sweep:
    """What `export` would give at several budgets: metrics by generation on `data`, and bytes.

    Without target ranks or budgets: the whole adapter, then four times half of its parameters. `on_point` is called
    with each result as soon as it is known; the other arguments and the errors are those of `export` and `evaluate`.
    """
    form, limits = check_form(format), [check_limit(rank, None) for rank in target_ranks or ()]
    limits += [check_limit(None, budget) for budget in budgets or ()]
    path = locate_adapter(str(adapter), revision)
    settings = AdapterSettings.read(path)
    examples, report = load_evaluation_examples(str(data), config=settings.data, verbalizer=settings.verbalizer)
    from spectune.evaluation.sweep import sweep
    from spectune.formats.saved_adapter import SavedAdapter
    from spectune.sweeping import candidates

    found, ranked_by = candidates(SavedAdapter.read(path), [limit for limit in limits if limit] or None, form)
    points = sweep(_on_its_base(path, settings, trust_remote_code), examples, found, on_point)
    return Sweep(points=points, rows=len(examples), ranked_by=ranked_by, report=report)


def evaluate_data(
    adapter: str | Path | TrainedAdapter,
    data: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Evaluation, DataReport]:
    """`evaluate`, and what was odd about the rows. They are read before torch is imported."""
    settings, loaded = _opened(adapter, revision, trust_remote_code)
    examples, report = load_evaluation_examples(str(data), config=settings.data, verbalizer=settings.verbalizer)
    return loaded().evaluate(examples), report


def predict_file(
    adapter: str | Path | TrainedAdapter,
    named: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[list[tuple[str, str]], DataReport]:
    """(text, output) of each row of a table, each line of a text file, or of standard input (`-`); what was odd."""
    settings, loaded = _opened(adapter, revision, trust_remote_code)
    examples, report = read_texts(named, settings.data)
    outputs = loaded().predict(examples)
    prefix = settings.data.source_prefix
    return [(e.source.removeprefix(prefix), output) for e, output in zip(examples, outputs, strict=True)], report


def _opened(
    adapter: str | Path | TrainedAdapter, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[AdapterSettings, Callable[[], TrainedAdapter]]:
    """An adapter's settings at once, and what loads it when the data has been found right."""
    if not isinstance(adapter, str | Path):
        return adapter.settings, lambda: adapter
    path = locate_adapter(str(adapter), revision)
    settings = AdapterSettings.read(path)
    return settings, lambda: _on_its_base(path, settings, trust_remote_code)


def _on_its_base(path: Path, settings: AdapterSettings, trust_remote_code: bool) -> TrainedAdapter:
    from spectune.evaluation.trained import load_adapter
    from spectune.training.device import choose_device

    device, fallback = choose_device(use_cpu=False)
    if fallback:
        warnings.warn(fallback, RuntimeWarning, stacklevel=3)
    return load_adapter(path, settings, device, trust_remote_code=trust_remote_code)
