"""`spectune train`: the whole run, from rows to a reloaded adapter."""

from __future__ import annotations

from typing import Annotated

import typer

from spectune.cli.arguments import RESUME_NEWEST, config_from, data_option
from spectune.launch import said_once


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN.yaml] [section.key=value]...", help="The run file; values that override it."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model: directory, hub id or `starter`.")] = None,
    data: Annotated[str | None, typer.Option(help="Training data: table, data set directory, hub id.")] = None,
    validation: Annotated[str | None, typer.Option(help="Validation table; drawn from the data if left out.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the source text.")] = None,
    target_column: Annotated[str | None, typer.Option(help="Column of the target text or label.")] = None,
    task: Annotated[str | None, typer.Option(help="classification, summarization, translation or text2text.")] = None,
    source_prefix: Annotated[str | None, typer.Option(help="Text put before every source, as T5 expects.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="The run directory.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of epochs.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a batch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="[DIR]", help="Continue from the newest whole checkpoint, or from the one named."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in the run directory.")] = False,
) -> None:
    """Fine-tune an adapter as a run file says, or as the options say."""
    options = {
        "model.model_name_or_path": model,
        **data_option(data),
        "data.validation_file": validation,
        "data.text_column": text_column,
        "data.target_column": target_column,
        "data.task": task,
        "data.source_prefix": source_prefix,
        "train.output_dir": output_dir,
        "train.num_train_epochs": epochs,
        "train.max_steps": max_steps,
        "train.learning_rate": learning_rate,
        "train.per_device_train_batch_size": batch_size,
        "train.seed": seed,
    }
    with said_once():
        config = config_from(words or [], options)
    from spectune import api  # heavy: only once the run file is known to be right

    api.train(config, resume=True if resume == RESUME_NEWEST else resume or False, overwrite=overwrite)
