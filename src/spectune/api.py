"""The Python interface beside `attach`: train, load, evaluate, predict. torch is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from spectune.config import RunConfig
from spectune.data.prepare import read_texts, texts_to_examples
from spectune.errors import Interrupted
from spectune.formats.adapter_files import check_start
from spectune.planning import outline_run
from spectune.runfile import load_run_config

if TYPE_CHECKING:
    from spectune.evaluation.evaluate import Evaluation
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
    from spectune.evaluation.trained import load_adapter

    return load_adapter(str(adapter), revision=revision, trust_remote_code=trust_remote_code)


def evaluate(adapter: str | Path | TrainedAdapter, data: str | Path) -> Evaluation:
    """Generate for every row of `data` (a table, a data set, a hub id, `starter`) and score the outputs."""
    return _loaded(adapter).evaluate(str(data))


def predict(adapter: str | Path | TrainedAdapter, texts: Sequence[str]) -> list[str]:
    """One output for each text, in order; prefix and lengths as in training."""
    loaded = _loaded(adapter)
    return loaded.predict(texts_to_examples(list(texts), loaded.data)) if texts else []


def predict_file(adapter: str | Path | TrainedAdapter, named: str) -> list[tuple[str, str]]:
    """(text, output) for each row of a table, each line of a text file, or of standard input (`-`)."""
    loaded = _loaded(adapter)
    examples, _ = read_texts(named, loaded.data)
    outputs = loaded.predict(examples)
    prefix = loaded.data.source_prefix
    return [(example.source.removeprefix(prefix), output) for example, output in zip(examples, outputs, strict=True)]


def _loaded(adapter: str | Path | TrainedAdapter) -> TrainedAdapter:
    return load(adapter) if isinstance(adapter, str | Path) else adapter
