"""The report's tables and facts, as plain values for the templates."""

from __future__ import annotations

import json
from typing import Any

from spectune.data.wording import count
from spectune.report.plots import metric_names
from spectune.report.ranks import RankHistory
from spectune.report.run_files import Prediction, RunFiles
from spectune.report.tables import shorten
from spectune.report.values import (
    duration,
    entries,
    mapping,
    number,
    numbers,
    shown,
    thinned,
    whole,
    whole_list,
    wholes,
)

MOST_LABELS = 40
MOST_ROWS = 200
TEXT_LENGTH = 1_000
TEXT_BUDGET = 450_000
"""Characters of predictions that a page holds."""


def facts(files: RunFiles, history: RankHistory) -> list[tuple[str, str, str]]:
    """The numbers at the top: name, value, what goes with it."""
    found = []
    values = final_metrics(files.summary.get("metrics"))
    rows = whole(mapping(files.summary.get("reload")).get("rows"))
    for entry in values[:1]:
        found.append((entry["name"], entry["value"], f"last evaluation, {rows:,} rows" if rows else "last evaluation"))
    if not values:
        latest = files.of("evaluation")[-1:]
        for name, value in list(numbers(mapping(latest[0]).get("metrics")).items())[:1] if latest else []:
            found.append((name, shown(value), f"at step {latest[0]['step']:,}"))
    losses = [(entry["step"], number(entry.get("loss"))) for entry in files.of("step")]
    if losses:
        found.append(("training loss", shown(losses[-1][1]), f"from {shown(losses[0][1])} at step {losses[0][0]:,}"))
    if history.frames:
        first, last = sum(history.frames[0]), sum(history.frames[-1])
        found.append(("live rank", f"{last:,}", f"of {first:,}, over {len(history.modules)} matrices"))
    parameters = parameters_of(files)
    if "trainable" in parameters:
        after = parameters.get("trainable_after_freeze")
        value = parameters["trainable"] if after is None else after
        remark = "before the freeze" if after is None else f"from {parameters['trainable']:,} before the freeze"
        found.append(("trainable", f"{value:,}", f"parameters, {remark}"))
    seconds = numbers(files.summary.get("timings")).get("train")
    if seconds is not None:
        found.append(("training", duration(seconds), f"{files.last_step:,} steps, evaluations included"))
    return found


def parameters_of(files: RunFiles) -> dict[str, int]:
    """Counts of parameters by the summary's names; of an unfinished run those at the start."""
    return wholes(files.start.get("parameters")) | wholes(files.summary.get("parameters"))


def parameter_rows(files: RunFiles) -> list[tuple[str, str, str]]:
    """Parameters before and after: what, how many, share of the base with its adapter."""
    counts, names = (
        parameters_of(files),
        {
            "total": "base model with its adapter",
            "trainable": "trainable at the start",
            "trainable_after_freeze": "trainable after the freeze",
            "saved": "in the saved adapter",
        },
    )
    total = counts.get("total") or 0
    return [
        (words, f"{counts[name]:,}", f"{100 * counts[name] / total:.2f} %" if total else "–")
        for name, words in names.items()
        if name in counts
    ]


def final_metrics(value: Any) -> list[dict[str, str]]:
    """Name, value and signature of every metric of a summary's entry."""
    found = []
    for name, entry in list(mapping(value).items())[:MOST_ROWS]:
        score = number(mapping(entry).get("value"))
        found.append({"name": name, "value": shown(score), "signature": str(mapping(entry).get("signature", "–"))})
    return found


def evaluation_table(files: RunFiles) -> dict[str, Any]:
    """Every evaluation: step, epoch, metrics, seconds, and which one was saved."""
    names = metric_names(files)[:12]
    per_epoch = whole(files.start.get("steps_per_epoch"))
    best = whole(files.summary.get("best_step"))
    rows = []
    found = files.of("evaluation")
    for entry in [found[i] for i in thinned(len(found), MOST_ROWS)]:
        values, seconds = numbers(entry.get("metrics")), number(entry.get("seconds"))
        marks = ["saved"] if entry["step"] == best else []
        if entry.get("candidate") is False and entry["step"]:
            marks.append("over budget")
        rows.append(
            {
                "step": f"{entry['step']:,}",
                "epoch": shown(entry["step"] / per_epoch, 3) if per_epoch else "–",
                "values": [shown(values.get(name)) for name in names],
                "seconds": "–" if seconds is None else duration(seconds),
                "mark": ", ".join(marks) if entry["step"] else "untrained",
            }
        )
    return {"names": names, "rows": rows, "signatures": _signatures(files, names)}


def _signatures(files: RunFiles, names: list[str]) -> list[tuple[str, str]]:
    """A metric's signature, from its last evaluation or the summary."""
    said: dict[str, str] = {}
    for entry in files.of("evaluation"):
        said |= {name: text for name, text in mapping(entry.get("signatures")).items() if isinstance(text, str)}
    said |= {entry["name"]: entry["signature"] for entry in final_metrics(files.summary.get("metrics"))}
    return [(name, said[name]) for name in names if name in said]


def confusion(files: RunFiles) -> dict[str, Any] | None:
    """Counts of target against prediction with the row's share in percent; None where there is none to show."""
    value = mapping(files.summary.get("confusion"))
    rows, columns = ([str(name) for name in entries(value.get(side))] for side in ("rows", "columns"))
    counts = [whole_list(row) for row in entries(value.get("counts"))]
    if not rows or len(counts) != len(rows) or any(len(row) != len(columns) for row in counts):
        return None
    if len(rows) > MOST_LABELS:
        return {"pairs": _confused(rows, columns, counts), "labels": len(rows)}
    table = [
        (shorten(name, 40), [(count, 100 * count / max(sum(row), 1)) for count in row], sum(row))
        for name, row in zip(rows, counts, strict=True)
    ]
    return {"columns": [shorten(name, 40) for name in columns], "rows": table}


def _confused(rows: list[str], columns: list[str], counts: list[list[int]]) -> list[tuple[str, str, int]]:
    pairs = [
        (target, found, count)
        for target, row in zip(rows, counts, strict=True)
        for found, count in zip(columns, row, strict=True)
        if count and target != found
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:30]


def predictions(files: RunFiles) -> dict[str, Any]:
    """Rows for the table: `{"rows": [[split, row, text, targets, prediction, right]], "total", "right"}`.

    A page holds so many characters of them; wrong ones come first into it, in at most two thirds of the room.
    """
    chosen: list[tuple[int, list[Any]]] = []
    room = TEXT_BUDGET
    for right, least in ((False, TEXT_BUDGET // 3), (True, 0)):
        for position, prediction in enumerate(files.predictions):
            if prediction.right is not right:
                continue
            row = _row(prediction)
            written = json.dumps(row)
            size = len(written) + 5 * sum(written.count(char) for char in "<>&'")  # tojson writes \u003c …
            if room - size < least:
                break
            room -= size
            chosen.append((position, row))
    total, hits = len(files.predictions), sum(prediction.right for prediction in files.predictions)
    splits = list(dict.fromkeys(prediction.split for prediction in files.predictions))
    return {"rows": [row for _, row in sorted(chosen)], "total": total, "right": hits, "splits": splits}


def _row(prediction: Prediction) -> list[Any]:
    texts = [shorten(text, TEXT_LENGTH) for text in (prediction.text, prediction.prediction)]
    targets = " | ".join(shorten(target, TEXT_LENGTH) for target in prediction.targets[:8])
    return [prediction.split, prediction.row, texts[0], targets, texts[1], int(prediction.right)]


def data_rows(files: RunFiles) -> list[dict[str, Any]]:
    """Every split: rows, what was left out, lengths, what was cut."""
    found = []
    for name, split in mapping(mapping(files.start.get("data")).get("splits")).items():
        counts = wholes(split)
        rows = counts.get("rows") or counts.get("examples") or 0
        found.append(
            {
                "name": name,
                "examples": shown(counts.get("examples")),
                "read": shown(counts.get("rows_read")),
                "longest": " / ".join(shown(counts.get(f"longest_{side}")) for side in ("source", "target")),
                "cut": " / ".join(_share(counts.get(f"{side}s_cut"), rows) for side in ("source", "target")),
                "tokens": shown(counts.get("tokens")),
                "labels": ", ".join(
                    f"{label} {many:,}" for label, many in wholes(mapping(split).get("labels")).items()
                ),
            }
        )
    return found


def _share(part: int | None, rows: int) -> str:
    return "–" if part is None or not rows else f"{part:,} ({100 * part / rows:.1f}\N{NO-BREAK SPACE}%)"


def data_oddities(files: RunFiles) -> list[str]:
    """What was left out, repeated or shared between splits, and remarks; a line each."""
    data = mapping(files.start.get("data"))
    lines = []
    for name, split in mapping(data.get("splits")).items():
        counts = wholes(split)
        dropped = wholes(mapping(split).get("dropped"))
        lines += [f"{name}: {count(many, 'row')} left out, {reason}" for reason, many in dropped.items()]
        for key, words in (
            ("repeated", "with the source of an earlier row"),
            ("conflicting", "of them with another target"),
            ("unfaithful_targets", "distinct targets that the tokenizer itself does not give back"),
        ):
            if counts.get(key):
                lines.append(f"{name}: {counts[key]:,} {words}")
    lines += [f"{where}: {many:,} sources" for where, many in wholes(data.get("overlaps")).items()]
    return [*lines, *(str(note) for note in entries(data.get("notes")))][:MOST_ROWS]


def settings(files: RunFiles) -> list[tuple[str, list[tuple[str, str]]]]:
    """Section → keys and values, as the run file has them."""
    return [(name, [(key, value_text(v)) for key, v in section.items()]) for name, section in files.config.items()]


def value_text(value: Any) -> str:
    """A setting's value as a person would write it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return shorten(value, 300)
    return shorten(json.dumps(value, ensure_ascii=False), 300)


def timings(files: RunFiles) -> list[tuple[str, str]]:
    """What each part of the run took; the one entry that is a speed is told as such."""
    found = []
    for name, value in numbers(files.summary.get("timings")).items():
        speed = name == "tokens_per_second_tokenized"
        found.append(("tokenised tokens per second", shown(round(value))) if speed else (name, duration(value)))
    rates = [number(entry.get("tokens_per_second")) for entry in files.of("step")]
    if rates and rates[-1] is not None:
        found.append(("trained tokens per second", shown(round(rates[-1]))))
    return found


def versions(files: RunFiles) -> list[tuple[str, str]]:
    """Versions of what shaped the result, and the machine's side of it."""
    said = mapping(files.summary.get("versions")) or mapping(files.start.get("versions"))
    machine = {key: files.start[key] for key in ("device", "dtype") if key in files.start}
    return [(str(name), str(value)) for name, value in [*machine.items(), *said.items()]][:MOST_ROWS]


def proof(files: RunFiles) -> str | None:
    """The reload proof in a sentence."""
    reload, identical = mapping(files.summary.get("reload")), files.summary.get("reload_identical")
    rows, mismatches = whole(reload.get("rows")), whole(reload.get("mismatches"))
    if rows is None or mismatches is None:
        return None
    verdict = "the same texts" if identical is True else f"{mismatches:,} other texts"
    return f"Plain PEFT, in a new process, loaded the saved adapter and wrote {verdict} for {rows:,} rows."
