"""The Python interface beside `attach`: train, load, evaluate, predict. torch is imported when it is needed.

Where a launcher has started several processes, all of them make the same calls and get the same results.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from spectune.config import RunConfig
from spectune.data.examples import is_unicode
from spectune.data.prepare import load_evaluation_examples, read_texts, texts_to_examples
from spectune.errors import ConfigError, DataError, Interrupted
from spectune.formats.adapter_files import check_start, locate_adapter
from spectune.formats.adapter_settings import AdapterSettings
from spectune.launch import check_launch, said_once, world_size
from spectune.planning import Outline, outline_run
from spectune.runfile import load_run_config
from spectune.sharing import first, meeting, shared, together

if TYPE_CHECKING:
    from spectune.data.examples import Example
    from spectune.data.report import DataReport
    from spectune.evaluation.evaluate import Evaluation
    from spectune.evaluation.trained import TrainedAdapter
    from spectune.training.finish import RunResult
    from spectune.training.parallel import Processes
    from spectune.training.progress import Reporter
    from spectune.training.signals import Stop


def train(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool | str | os.PathLike[str] = False,
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
    from spectune.training.directory import RunDirectory
    from spectune.training.signals import catch_signals

    if isinstance(resume, os.PathLike):
        resume = os.fspath(resume)
    if not isinstance(resume, bool | str):
        raise ConfigError(f"resume must be true, false, a checkpoint or a run directory, not {resume!r}")
    with said_once():
        if isinstance(config, str | Path):
            config = load_run_config(Path(config))
        elif isinstance(config, Mapping):
            config = load_run_config(None, base=config)
        elif not isinstance(config, RunConfig):
            raise ConfigError(f"train() takes a run file, its content as a mapping, or a RunConfig, not {config!r}")
        check_launch()
        if config.train.fsdp and world_size() == 1:
            raise ConfigError(
                "train.fsdp shares the base out among several processes, and this is one; start it with torchrun "
                "--nproc-per-node N -m spectune train …, or set train.fsdp: false"
            )
        paths = RunDirectory(Path(config.train.output_dir))
        paths.check(resume=bool(resume), overwrite=overwrite)
        hint = partial(paths.resume_hint, paths.stamp if overwrite else None)
    with catch_signals() as stop:
        try:
            if world_size() == 1:
                return _train(config, resume, overwrite, reporter, stop)
            from spectune.training.parallel import joined

            with joined(config.train.use_cpu, stop, hint) as processes:
                return _train(config, resume, overwrite, reporter, stop, processes)
        except Interrupted as interrupted:
            name = Signals(interrupted.signum).name
            raise Interrupted(interrupted.signum, f"stopped by {name}; {hint()}") from None


def _train(
    config: RunConfig,
    resume: bool | str,
    overwrite: bool,
    reporter: Reporter | None,
    stop: Stop,
    processes: Processes | None = None,
) -> RunResult:
    def outlined() -> Outline:
        if config.adapter.init_from is not None and not resume:
            check_start(config.adapter.init_from, config.adapter.resolved_init_r)
        return outline_run(config)

    outline = together(processes, outlined)
    from spectune.training.parallel import ALONE
    from spectune.training.progress import Reporter
    from spectune.training.run import train_run

    processes = processes or ALONE
    if reporter is None or not processes.is_first:
        reporter = Reporter(quiet=not processes.is_first)
    return train_run(
        config,
        outline,
        resume=resume,
        overwrite=overwrite,
        reporter=reporter,
        stop=stop,
        processes=processes,
    )


def load(adapter: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> TrainedAdapter:
    """Load an adapter and its base for evaluation and prediction. Nothing in an adapter's directory is trusted.

    Args:
        adapter: a directory or hub id; also an AdaLoRA adapter that plain PEFT made.
        revision: branch, tag or commit of an adapter on the hub.
        trust_remote_code: let the base model bring code of its own.

    Raises:
        AdapterError: there is none, it is damaged, or its base cannot be resolved.
    """
    path = locate_adapter(adapter, revision)
    loaded = _on_its_base(path, AdapterSettings.read(path), trust_remote_code)
    return loaded if world_size() == 1 else replace(loaded, shared=partial(shared, loaded))


def evaluate(
    adapter: str | Path | TrainedAdapter, data: str | Path, *, constrain_labels: bool | None = None
) -> Evaluation:
    """Generate for every row of `data` (a table, a data set, a hub id, `starter`) and score the outputs.

    Args:
        constrain_labels: also decode under the labels alone; unless given, as the adapter's run did.
    """
    return evaluate_data(adapter, data, constrain_labels=constrain_labels)[0]


def predict(adapter: str | Path | TrainedAdapter, texts: Iterable[str]) -> list[str]:
    """One output for each text, in order; prefix and lengths as in training."""
    with meeting() as processes:
        settings, loaded = _opened(processes, adapter)
        examples = _texts(processes, texts, settings)
        return loaded().predict(examples) if examples else []


def classify(adapter: str | Path | TrainedAdapter, texts: Iterable[str]) -> list[tuple[str, dict[str, float]]]:
    """A label for each text, decoded under the labels alone, and the probability of every label, likeliest first.

    The label is what the run's decoding writes (greedy or with beams), so that now and then another one is likelier.

    Raises:
        AdapterError: the adapter knows no labels.
    """
    with meeting() as processes:
        settings, loaded = _opened(processes, adapter, constrain_labels=True)
        examples = _texts(processes, texts, settings)
        if not examples:
            return []
        outputs = loaded().classify(examples)[1]
    return [(label, outputs.of_row(row)) for row, label in enumerate(outputs.predictions)]


def evaluate_data(
    adapter: str | Path | TrainedAdapter,
    data: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    constrain_labels: bool | None = None,
) -> tuple[Evaluation, DataReport]:
    """`evaluate`, and what was odd about the rows. One process reads them before torch is imported."""
    with meeting() as processes:
        settings, loaded = _opened(processes, adapter, revision, trust_remote_code, constrain_labels)
        read = partial(load_evaluation_examples, str(data), config=settings.data, verbalizer=settings.verbalizer)
        examples, report = first(processes, read)
        return loaded().evaluate(examples), report


def predict_file(
    adapter: str | Path | TrainedAdapter,
    named: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    constrain_labels: bool | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], DataReport]:
    """Records of each row of a table, each line of a text file, or of standard input (`-`); and what was odd.

    `{"text", "prediction"}`, and with `constrain_labels` (unless given, as the adapter's run had it) also
    `constrained_prediction` and `label_probabilities`, of the ten likeliest labels at most. Of several processes one
    reads the texts, after `check`, which raises what stands in the way of the result.
    """
    with meeting() as processes:
        first(processes, check)
        settings, loaded = _opened(processes, adapter, revision, trust_remote_code, constrain_labels)
        examples, report = first(processes, partial(read_texts, named, settings.data))
        prefix = settings.data.source_prefix
        texts = [example.source.removeprefix(prefix) for example in examples]
        if not settings.evaluation.constrain_labels:
            outputs = loaded().predict(examples)
            return [{"text": text, "prediction": output} for text, output in zip(texts, outputs, strict=True)], report
        outputs, under = loaded().classify(examples)
    return [
        {"text": text, "prediction": output} | under.record(row)
        for row, (text, output) in enumerate(zip(texts, outputs, strict=True))
    ], report


def _texts(processes: Processes | None, given: Iterable[str], settings: AdapterSettings) -> list[Example]:
    texts = None if isinstance(given, str | Mapping) or not isinstance(given, Iterable) else list(given)
    if texts is None:
        raise DataError("texts must be a list of texts; for one text give [text]")
    if others := [place for place, text in enumerate(texts) if not isinstance(text, str)]:
        raise DataError(f"texts[{others[0]}] must be a text, not {type(texts[others[0]]).__name__}")
    if blank := [place for place, text in enumerate(texts) if not text.strip()]:
        raise DataError(f"texts[{blank[0]}] is empty; leave it out")
    if broken := [place for place, text in enumerate(texts) if not is_unicode(text)]:
        raise DataError(f"texts[{broken[0]}] is not valid Unicode; mend it, or leave it out")
    if processes is not None:
        processes.check_equal({"the number of texts": len(texts)})
    return texts_to_examples(texts, settings.data)


def _opened(
    processes: Processes | None,
    adapter: str | Path | TrainedAdapter,
    revision: str | None = None,
    trust_remote_code: bool = False,
    constrain_labels: bool | None = None,
) -> tuple[AdapterSettings, Callable[[], TrainedAdapter]]:
    """An adapter's settings at once, and what loads it when the data has been found right."""

    def found() -> tuple[Path | None, AdapterSettings]:
        if not isinstance(adapter, str | Path):
            return None, adapter.settings.constrained(constrain_labels)
        path = locate_adapter(adapter, revision)
        return path, AdapterSettings.read(path).constrained(constrain_labels)

    path, settings = together(processes, found)

    def load_it() -> TrainedAdapter:
        if isinstance(adapter, str | Path):
            assert path is not None
            return _on_its_base(path, settings, trust_remote_code)
        return replace(adapter, settings=settings)

    def loaded() -> TrainedAdapter:
        trained = together(processes, load_it)
        if processes is None:
            return trained
        from spectune.training.spread import Spread, check_alike

        check_alike(processes, trained)
        return replace(trained, shared=lambda: nullcontext(Spread(processes)))

    return settings, loaded


def _on_its_base(path: Path, settings: AdapterSettings, trust_remote_code: bool) -> TrainedAdapter:
    from spectune.evaluation.trained import load_adapter
    from spectune.training.device import choose_device

    device, fallback = choose_device(use_cpu=False)
    if world_size() > 1:
        from spectune.training.meeting import own_device

        device = own_device(device)
    if fallback:
        warnings.warn(fallback, RuntimeWarning, stacklevel=3)
    return load_adapter(path, settings, device, trust_remote_code=trust_remote_code)
