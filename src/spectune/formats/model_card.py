"""The model card: `README.md` of an adapter, what a person who is handed one needs to know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spectune.formats.card_parts import front_matter, loading, rank_rows
from spectune.formats.markdown import code, escape, fenced, file_name, section, table

_PIPELINE_TAGS: Mapping[str, str] = {
    "classification": "text-classification",
    "summarization": "summarization",
    "translation": "translation",
    "text2text": "text-generation",
}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card says, as plain values."""

    base_model: str
    """Hub id, or the name of a directory."""
    base_is_local: bool = False
    """The base is a directory: only its last part is named, and nothing of it in the machine-read header."""
    base_revision: str | None = None
    task: str = "text2text"
    data_files: Mapping[str, str] = field(default_factory=dict)
    """Split → file name or data set id; directories are left out of the card."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Split → rows used."""
    label_words: Sequence[str] = ()
    languages: tuple[str, str] | None = None
    """Codes of source and target."""
    first_token_global: bool = False
    """LED: the first token has global attention, which a caller of `generate` has to ask for."""
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name → {"value", "signature"}, as in `summary.json`."""
    rank_summary: Sequence[Mapping[str, Any]] = ()
    """Records of `report.tables.role_summary`: group, matrices, total, mean, min, max."""
    budget: int | None = None
    """Triplets that survive."""
    init_r: int | None = None
    target_r: float | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    total_steps: int | None = None
    run_yaml: str = ""
    """The resolved run file."""
    versions: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The text of `README.md`: a YAML header for the hub, then Markdown."""
    base = file_name(facts.base_model) if facts.base_is_local else facts.base_model
    sections = [
        front_matter(
            None if facts.base_is_local else facts.base_model,
            library_name="peft",
            pipeline_tag=_PIPELINE_TAGS.get(facts.task, "text-generation"),
            tags=["adalora", "peft", "spectune"],
        ),
        f"# AdaLoRA adapter for {escape(base)}\n\n{_what_it_is(facts, base)}",
        section(
            "How to load",
            loading(
                base_revision=facts.base_revision,
                languages=facts.languages,
                first_token_global=facts.first_token_global,
            ),
        ),
        section("Data", _data(facts)),
        section("Metrics", _metrics(facts.metrics)),
        section("Where the rank went", _ranks(facts)),
        section("How to reproduce", _reproduce(facts)),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def _what_it_is(facts: CardFacts, base: str) -> str:
    revision = f", revision {code(facts.base_revision)}" if facts.base_revision else ""
    lines = [
        f"A low-rank adapter for the encoder-decoder model {code(base)}{revision}, trained for {escape(facts.task)} "
        "with AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): the rank is distributed over the weight matrices by "
        "their importance. Trained with spectune, saved in PEFT's own format."
    ]
    sizes = []
    if facts.trainable_parameters is not None and facts.total_parameters:
        share = 100.0 * facts.trainable_parameters / facts.total_parameters
        sizes.append(f"{facts.trainable_parameters:,} trained parameters of {facts.total_parameters:,} ({share:.2f} %)")
    if facts.adapter_bytes is not None:
        sizes.append(f"{facts.adapter_bytes / 1e6:.2f} MB of adapter weights")
    if sizes:
        lines.append("; ".join(sizes) + ".")
    return "\n\n".join(lines)


def _data(facts: CardFacts) -> str:
    splits = dict.fromkeys([*facts.data_files, *facts.rows])
    rows = [
        [
            escape(split),
            code(_source_name(facts.data_files[split])) if split in facts.data_files else "",
            _count(facts, split),
        ]
        for split in splits
    ]
    text = table(["split", "source", "rows"], rows)
    if facts.label_words:
        text += "\n\nLabel words: " + ", ".join(code(word) for word in facts.label_words) + "."
    return text


def _count(facts: CardFacts, split: str) -> str:
    return f"{facts.rows[split]:,}" if split in facts.rows else ""


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """By generation on the validation rows, but for the loss; numbers with different signatures do not compare."""
    rows = [[escape(name), f"{entry['value']:.4g}", code(str(entry["signature"]))] for name, entry in metrics.items()]
    return table(["metric", "value", "signature"], rows)


def _ranks(facts: CardFacts) -> str:
    parts = []
    if facts.init_r is not None and facts.target_r is not None:
        kept = f", {facts.budget:,} rank-one terms in all" if facts.budget is not None else ""
        steps = f" over {facts.total_steps:,} steps" if facts.total_steps is not None else ""
        parts.append(
            f"Rank {facts.init_r} per matrix at the start, {facts.target_r:.3g} on average at the end{kept}{steps}."
        )
    parts.append(rank_rows(facts.rank_summary))
    return "\n\n".join(part for part in parts if part)


def _reproduce(facts: CardFacts) -> str:
    parts = []
    if facts.run_yaml:
        parts.append("`spectune train run.yaml` with this `run.yaml`:\n\n" + fenced(facts.run_yaml, "yaml"))
    if facts.versions:
        parts.append(
            "Versions: " + ", ".join(f"{escape(name)} {escape(number)}" for name, number in facts.versions.items())
        )
    return "\n\n".join(parts)


def _source_name(source: str) -> str:
    """The file's name without its directories; a data set id `owner/name` stays whole."""
    return source if re.fullmatch(r"\w[\w.-]*/[\w-]+", source) else file_name(source)
