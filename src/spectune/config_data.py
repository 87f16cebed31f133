"""The run file's section `data`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spectune.config_values import Name, PositiveInt, Section, Task


class DataConfig(Section):
    """Where the text pairs come from and how they become tokens."""

    train_file: Name | None = None
    """One file: CSV (commas), TSV, JSON, JSON lines or Parquet; `starter` names the bundled data."""
    validation_file: Name | None = None
    """Rows to evaluate on while training; goes with train_file."""
    test_file: Name | None = None
    """Rows that are scored once, at the end; goes with train_file."""
    dataset_name: Name | None = None
    """A directory written by `datasets`, a hub id, or `starter` (the bundled data)."""
    dataset_config_name: Name | None = None
    """Configuration (subset) of a data set on the hub."""
    dataset_revision: Name | None = None
    """Branch, tag or commit of a data set on the hub."""
    text_column: Name | None = None
    """Column of the source text; `text` unless given. Excludes `source_template`."""
    target_column: Name | None = None
    """Column of the target text or label; `target`, else `label`, unless given."""
    references_column: Name | None = None
    """Column with a list of right outputs; `references` is used when the data has it. Without a target column the
    first of each list is learnt. Of a column of mappings, `answers.text`."""
    source_template: str | None = None
    """Several columns in one source, as in `"premise: {premise} hypothesis: {hypothesis}"`. A row in which
    one of them is empty counts as a row without a text."""
    task: Task | None = None
    """Decides the default metrics; classification if labels are named or the target column is `label`."""
    label_names: dict[bool | int | float | str, str] | list[str] | str | None = None
    """Label → word: a mapping, a list in label order, or the path of a `labels.json`."""
    source_prefix: str = ""
    """Put in front of every source, as T5 wants it: `"summarize: "`."""
    source_lang: Name | None = None
    """Language code of the sources, for multilingual tokenizers (mBART, M2M100, NLLB, PLBart), as `en_XX`."""
    target_lang: Name | None = None
    """Language code of the targets; what every output is made to start with."""
    max_source_length: PositiveInt = 256
    """Tokens, the end token included; longer sources are cut and counted."""
    max_target_length: PositiveInt = 128
    """Tokens, the end token included; longer targets are cut and counted."""
    padding: Literal["longest", "max_length"] = "longest"
    """To the batch's longest row, or always to the full lengths."""
    pad_to_multiple_of: PositiveInt | Literal["auto"] = "auto"
    """Lengths of a training batch above it are rounded up to a multiple; `auto` is 8 for bfloat16 on a CPU, whose
    kernels are made anew for every shape, and 1 elsewhere."""
    validation_split: float | None = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training rows held out when no validation data is given; null: no validation."""
    invalid_rows: Literal["drop", "error"] = "drop"
    """Rows with an empty or missing text: left out and reported, or refused."""
    max_train_samples: PositiveInt | None = None
    """Train on so many rows, drawn with the seed; all unless given."""
    max_validation_samples: PositiveInt | None = None
    """Likewise for validation."""
    max_test_samples: PositiveInt | None = None
    """Likewise for the test rows."""
    streaming: bool = False
    """Training rows are read when they are needed, for data larger than memory; needs `train.max_steps`."""
    shuffle_buffer_size: PositiveInt = 10_000
    """Rows that are held for shuffling while streaming."""
    cache_tokens: bool = True
    """Keep the token ids of large data on disk, for the next run over the same data."""
    cache_dir: Name | None = None
    """Where they are kept; `spectune/tokens` in the user's cache directory unless given."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.train_file is None) == (self.dataset_name is None):
            raise ValueError("give either train_file or dataset_name (on the command line: --data)")
        if self.text_column is not None and self.source_template is not None:
            raise ValueError("give either text_column or source_template, not both")
        if self.dataset_name is not None and (self.validation_file or self.test_file):
            raise ValueError("validation_file and test_file go with train_file; a dataset brings its own splits")
        if self.dataset_name is None and (self.dataset_config_name or self.dataset_revision):
            raise ValueError("dataset_config_name and dataset_revision go with dataset_name, not train_file")
        if (self.source_lang is None) != (self.target_lang is None):
            raise ValueError("give both source_lang and target_lang, or neither")
        if self.label_names is not None and self.task not in (None, "classification"):
            raise ValueError(f"label_names belong to task: classification, not {self.task}")
        if self.streaming and self.max_train_samples is not None:
            raise ValueError(
                "max_train_samples draws from all rows, which a stream does not know; set it to null, train.max_steps "
                "bounds the run"
            )
        return self
