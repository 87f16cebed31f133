"""The reload proof: the saved adapter, loaded by plain PEFT in another process, writes the very same texts.

A child process that never imports spectune (`reload_child.py`) loads a *copy* of the adapter directory on a fresh base
and generates for the evaluation rows; its texts are compared with those of the live model, one by one.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from spectune.data.examples import Example
from spectune.errors import AdapterError
from spectune.evaluation.decoding import batches_by_length
from spectune.evaluation.evaluate import accepted_texts
from spectune.evaluation.metrics import compute_metrics, text_metrics

MAX_ROWS = 1000
_SHOWN_CHARACTERS = 80
_KILL = 9
_CHILD = Path(__file__).with_name("reload_child.py")


@dataclass(frozen=True)
class ReloadProof:
    """What the live model and the reloaded adapter said of the same rows."""

    identical: bool
    """Every text is the same."""
    rows: int
    mismatches: int
    first_mismatch: dict[str, Any] | None
    """`{"row", "text", "live", "reloaded"}`; `row` is the number in the data."""
    live: dict[str, float]
    """Metrics of the compared rows, by the live model."""
    reloaded: dict[str, float]
    seconds: float

    def difference(self) -> str:
        """Half a line about the rows whose texts differ; the whole of the first is in `first_mismatch`."""
        first = self.first_mismatch or {}
        live, reloaded = (repr(first.get(key, ""))[:_SHOWN_CHARACTERS] for key in ("live", "reloaded"))
        return f"{self.mismatches} of {self.rows} predictions; row {first.get('row')} was {live} and is {reloaded}"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How the live run generated; the child does likewise."""

    batch_size: int
    """Rows generated together."""
    max_source_length: int
    """Tokens, the end token included."""
    dtype: str
    """Precision of the base's weights, as torch names it (`float32`)."""
    device: str
    """As torch names it; the child loads a base of its own there."""
    threads: int
    """On the CPU."""
    trust_remote_code: bool = False
    quantization: str | None = None
    """Of the base."""
    spread: bool = False
    """The base may not fit the device; the child spreads it over all that the machine has."""


def prove_reload(
    adapter_dir: str | Path,
    *,
    examples: Sequence[Example],
    live_predictions: Sequence[str],
    conditions: Conditions,
    metric_names: Sequence[str] = (),
    labels: Sequence[str] | None = None,
) -> ReloadProof:
    """Load `adapter_dir` with plain PEFT in a child process and compare its predictions with the live ones.

    Args:
        adapter_dir: the saved adapter, with tokenizer and `generation_config.json`; it is copied, never opened in
            place.
        examples: rows the live model generated for, in that order; at most 1,000 of them are compared.
        live_predictions: one text per example.
        conditions: of the live run.
        metric_names: metrics to report of both sides; those of free texts; the others are left out.
        labels: label words, for the metrics that need them.

    Raises:
        AdapterError: the adapter or its base cannot be loaded by plain PEFT; one line says why.
    """
    started = time.monotonic()
    if not examples or len(examples) != len(live_predictions):
        raise ValueError(f"{len(examples)} examples against {len(live_predictions)} live predictions")
    adapter = Path(adapter_dir)
    generated = _generated_rows(adapter, examples, conditions)
    texts = _generate_in_child(adapter, {"texts": [examples[row].source for row in generated], **asdict(conditions)})
    compared = generated[:MAX_ROWS]
    return _compare(
        [examples[row] for row in compared],
        [live_predictions[row] for row in compared],
        texts[:MAX_ROWS],
        metric_names=metric_names,
        labels=labels,
        started=started,
    )


def _compare(
    rows: Sequence[Example],
    live: Sequence[str],
    reloaded: Sequence[str],
    *,
    metric_names: Sequence[str],
    labels: Sequence[str] | None,
    started: float,
) -> ReloadProof:
    different = [index for index, (ours, theirs) in enumerate(zip(live, reloaded, strict=True)) if ours != theirs]
    first = different[0] if different else None
    return ReloadProof(
        identical=not different,
        rows=len(rows),
        mismatches=len(different),
        first_mismatch=None if first is None else _mismatch(rows[first], live[first], reloaded[first]),
        live=_values(metric_names, live, rows, labels),
        reloaded=_values(metric_names, reloaded, rows, labels),
        seconds=time.monotonic() - started,
    )


def _generated_rows(adapter: Path, examples: Sequence[Example], conditions: Conditions) -> list[int]:
    """All rows; of more than 1,000, whole batches of the live run that hold at least 1,000, spread over all lengths.

    In the data's order. Whole batches, because a row's last bits depend on how far its batch is padded: so the child
    repeats the live run's batches exactly.
    """
    if len(examples) <= MAX_ROWS:
        return list(range(len(examples)))
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    texts = [example.source for example in examples]
    encoded = tokenizer(texts, truncation=True, max_length=conditions.max_source_length)
    batches = batches_by_length([len(ids) for ids in encoded["input_ids"]], conditions.batch_size)
    count = -(-MAX_ROWS // conditions.batch_size)
    rows: list[int] = []
    while len(rows) < MAX_ROWS:  # a second time if the short last batch was among them
        spread = [batches[index * len(batches) // count] for index in range(count)]
        rows, count = sorted(row for batch in spread for row in batch), count + 1
    return rows


def _generate_in_child(adapter: Path, request: dict[str, Any]) -> list[str]:
    """Run the child on a copy of `adapter` and return its predictions.

    Raises:
        AdapterError: the child failed; the message ends with the last line it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="spectune-reload-") as scratch:
        copy, answer, request_file = (
            Path(scratch, "adapter"),
            Path(scratch, "answer.json"),
            Path(scratch, "request.json"),
        )
        shutil.copytree(adapter, copy)
        request |= {
            "adapter": str(copy),
            "answer": str(answer),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }
        request_file.write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
        # -P keeps the child's own directory off its path, so that it finds nothing of spectune by accident. Not -I:
        # that would also hide a torch installed for this user only.
        finished = subprocess.run(
            [sys.executable, "-P", str(_CHILD), str(request_file)],
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,  # a signal to all of a launcher's processes is for the run to answer
        )
        if finished.returncode < 0:
            raise AdapterError(
                f"the proof that {adapter} reloads was broken off: {_signal(-finished.returncode)} ended its process; "
                "the adapter is whole, and a resumed run proves it"
            )
        if finished.returncode != 0 or not answer.is_file():
            lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
            reason = lines[-1] if lines else f"the child ended with status {finished.returncode}"
            raise AdapterError(f"the saved adapter {adapter} does not load with plain PEFT: {reason}")
        predictions: list[str] = json.loads(answer.read_text(encoding="utf-8"))["predictions"]
        return predictions


def _signal(number: int) -> str:
    known = {one.value: one.name for one in signal.Signals}
    return known.get(number, f"signal {number}") + (", as where memory is full" if number == _KILL else "")


def _mismatch(example: Example, live: str, reloaded: str) -> dict[str, Any]:
    return {"row": example.row, "text": example.source, "live": live, "reloaded": reloaded}


def _values(
    names: Sequence[str], predictions: Sequence[str], rows: Sequence[Example], labels: Sequence[str] | None
) -> dict[str, float]:
    metrics = compute_metrics(
        text_metrics(names),
        predictions=predictions,
        references=[accepted_texts(example) for example in rows],
        labels=labels,
    )
    return {name: metric.value for name, metric in metrics.items()}
