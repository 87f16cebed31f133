"""What `spectune.json` of an adapter says: how its run turned rows into texts, and scored them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from spectune.config import DataConfig, EvaluationConfig
from spectune.data.verbalizer import Verbalizer
from spectune.errors import AdapterError, DataError, RunError, first_line
from spectune.files import read_json
from spectune.formats.adapter_files import SETTINGS

_PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class AdapterSettings:
    """What `spectune.json` says; the defaults stand for an adapter that plain PEFT made."""

    data: DataConfig = field(default_factory=lambda: DataConfig(train_file="-"))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    task: str = "text2text"
    verbalizer: Verbalizer | None = None
    dtype: str = "float32"
    quantization: str | None = None
    global_attention: Literal["auto", "none"] = "none"
    """LED: `none` is what plain transformers does unless it is given a mask."""
    base: str | None = None
    """SHA-256 of the base's weights in that precision."""
    base_name: str | None = None
    """The base as the run file named it."""

    def label_words(self) -> tuple[str, ...]:
        """The words of the labels. Raises AdapterError where the adapter knows none."""
        if self.verbalizer is None:
            raise AdapterError(
                f"the adapter's task is {self.task}, which has no labels to decode under (constrain_labels); "
                "only an adapter of a classification has"
            )
        return self.verbalizer.words

    def constrained(self, constrain_labels: bool | None) -> AdapterSettings:
        """With `evaluation.constrain_labels` as the caller wants it; None leaves it as the run had it.

        Raises:
            AdapterError: it is to be true, and the adapter knows no labels.
        """
        wanted = self.evaluation.constrain_labels if constrain_labels is None else constrain_labels
        if wanted:
            self.label_words()
        return replace(self, evaluation=self.evaluation.model_copy(update={"constrain_labels": wanted}))

    @classmethod
    def read(cls, path: Path) -> AdapterSettings:
        """The settings in an adapter's directory. Raises AdapterError where they are not what spectune writes."""
        if not (path / SETTINGS).is_file():
            return cls()
        try:
            found = read_json(path / SETTINGS)
            labels = found.get("labels")
            settings = cls(
                data=DataConfig(**found["data"]),
                evaluation=EvaluationConfig(**found["evaluation"]),
                task=str(found["task"]),
                verbalizer=None if labels is None else Verbalizer.from_dict(labels),
                dtype=str(found["dtype"]),
                quantization=found.get("quantization"),
                global_attention="auto" if found.get("global_attention") == "auto" else "none",
                base=found.get("base_sha256"),
                base_name=None if found.get("base_name") is None else str(found["base_name"]),
            )
        except (RunError, DataError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(f"{path / SETTINGS} is damaged: {first_line(error)}") from None
        if settings.dtype not in _PRECISIONS or settings.quantization not in (None, "int8", "nf4"):
            precision = f"{settings.dtype!r}, {settings.quantization!r}"
            raise AdapterError(f"{path / SETTINGS} is damaged: {precision} is no precision of a base")
        return settings
