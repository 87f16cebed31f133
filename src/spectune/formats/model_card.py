"""The model card: `README.md` of an adapter and of its exports, what a person who is handed one needs to know.

All values come from outside (file names, label words, a base model's name) and are escaped, so that a text is shown
and neither rendered nor run.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

_PIPELINE_TAGS: Mapping[str, str] = {
    "classification": "text-classification",
    "summarization": "summarization",
    "translation": "translation",
    "text2text": "text-generation",
}

_LOAD = """\
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

adapter = "PATH_OR_HUB_ID"
base = AutoModelForSeq2SeqLM.from_pretrained(PeftConfig.from_pretrained(adapter).base_model_name_or_path{revision})
model, tokenizer = PeftModel.from_pretrained(base, adapter), AutoTokenizer.from_pretrained(adapter)"""
_GLOBAL = """\
inputs = tokenizer(texts, return_tensors="pt", padding=True)
inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
inputs["global_attention_mask"][:, 0] = 1
outputs = model.generate(**inputs, generation_config=GenerationConfig.from_pretrained(adapter))"""

_LOAD_MERGED = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

place = "PATH_OR_HUB_ID"
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(place, dtype="auto"), AutoTokenizer.from_pretrained(place)"""


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
    base = _file_name(facts.base_model) if facts.base_is_local else facts.base_model
    sections = [
        _header(facts),
        f"# AdaLoRA adapter for {escape(base)}\n\n{_what_it_is(facts, base)}",
        _section("How to load", _loading(facts)),
        _section("Data", _data(facts)),
        _section("Metrics", _metrics(facts.metrics)),
        _section("Where the rank went", _ranks(facts)),
        _section("How to reproduce", _reproduce(facts)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What the card of an export says."""

    form: Literal["lora", "adalora", "merged"]
    base_model: str
    base_is_local: bool = False
    base_revision: str | None = None
    ranks: Mapping[str, int]
    """Matrix → rank."""
    rank_summary: Sequence[Mapping[str, Any]] = ()
    before: int
    """Rank-one terms of the adapter that it was made of."""
    chosen_by: str | None = None
    """What those that were kept were chosen by; None where all were."""


_FORMS: Mapping[str, str] = {
    "lora": "A plain LoRA adapter for the encoder-decoder model {base}. Every matrix has a rank of its own "
    "(`rank_pattern`) and a scale of 1; matrices of rank 0 are left out.",
    "adalora": "An AdaLoRA adapter for the encoder-decoder model {base}.",
    "merged": "The encoder-decoder model {base} with an AdaLoRA adapter folded into its weights.",
}
_TITLES: Mapping[str, str] = {
    "lora": "LoRA adapter for {base}",
    "adalora": "AdaLoRA adapter for {base}",
    "merged": "{base}, fine-tuned",
}


def export_card(facts: ExportFacts) -> str:
    """The text of `README.md` for what `spectune export` wrote."""
    base = _file_name(facts.base_model) if facts.base_is_local else facts.base_model
    entries: dict[str, Any] = {} if facts.base_is_local else {"base_model": facts.base_model}
    library, named = ("transformers", "transformers") if facts.form == "merged" else ("peft", "PEFT")
    entries |= {"library_name": library, "tags": [facts.form, library, "spectune"]}
    kept = sum(facts.ranks.values())
    origin = "Made with `spectune export` from an AdaLoRA adapter (Zhang et al., ICLR 2023, arXiv 2303.10512), "
    if facts.chosen_by is None:
        origin += "whose outputs it has, within rounding."
    else:
        origin += f"cut down to {kept:,} of its {facts.before:,} rank-one terms, chosen by {escape(facts.chosen_by)}."
    revision = f", revision={facts.base_revision!r}" if facts.base_revision else ""
    code = _LOAD_MERGED if facts.form == "merged" else _LOAD.format(revision=revision)
    sections = [
        f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).rstrip()}\n---",
        f"# {_TITLES[facts.form].format(base=escape(base))}",
        f"{_FORMS[facts.form].format(base=_code(base))}\n\n{origin}",
        _section("How to load", f"With {named} alone:\n\n{_fenced(code, 'python')}"),
        _section("Where the rank went", _rank_rows(facts.rank_summary)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(text: str) -> str:
    """`text` for a line of Markdown: shown as it is, on one line; no markup, no HTML, no table cell ends in it."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    # An underscore inside a word is no markup: exact_match stays readable in the file itself.
    return re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def _header(facts: CardFacts) -> str:
    entries: dict[str, Any] = {} if facts.base_is_local else {"base_model": facts.base_model}
    entries |= {
        "library_name": "peft",
        "pipeline_tag": _PIPELINE_TAGS.get(facts.task, "text-generation"),
        "tags": ["adalora", "peft", "spectune"],
    }
    return f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).rstrip()}\n---"


def _what_it_is(facts: CardFacts, base: str) -> str:
    revision = f", revision {_code(facts.base_revision)}" if facts.base_revision else ""
    lines = [
        f"A low-rank adapter for the encoder-decoder model {_code(base)}{revision}, trained for {escape(facts.task)} "
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


def _loading(facts: CardFacts) -> str:
    revision = f", revision={facts.base_revision!r}" if facts.base_revision else ""
    parts = ["With PEFT alone:", _fenced(_LOAD.format(revision=revision), "python")]
    if facts.languages is not None:
        source, target = map(_code, facts.languages)
        parts.append(
            f"The tokenizer is set to {source} for sources and {target} for targets; "
            "`generation_config.json` makes every output start with the latter."
        )
    if facts.first_token_global:
        parts += ["Trained with global attention on the first token, so generate with it:", _fenced(_GLOBAL, "python")]
    return "\n\n".join(parts)


def _data(facts: CardFacts) -> str:
    splits = dict.fromkeys([*facts.data_files, *facts.rows])
    rows = [
        [
            escape(split),
            _code(_source_name(facts.data_files[split])) if split in facts.data_files else "",
            _count(facts, split),
        ]
        for split in splits
    ]
    text = _table(["split", "source", "rows"], rows)
    if facts.label_words:
        text += "\n\nLabel words: " + ", ".join(_code(word) for word in facts.label_words) + "."
    return text


def _count(facts: CardFacts, split: str) -> str:
    return f"{facts.rows[split]:,}" if split in facts.rows else ""


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """By generation on the validation rows, but for the loss; numbers with different signatures do not compare."""
    rows = [[escape(name), f"{entry['value']:.4g}", _code(str(entry["signature"]))] for name, entry in metrics.items()]
    return _table(["metric", "value", "signature"], rows)


def _ranks(facts: CardFacts) -> str:
    parts = []
    if facts.init_r is not None and facts.target_r is not None:
        kept = f", {facts.budget:,} rank-one terms in all" if facts.budget is not None else ""
        steps = f" over {facts.total_steps:,} steps" if facts.total_steps is not None else ""
        parts.append(
            f"Rank {facts.init_r} per matrix at the start, {facts.target_r:.3g} on average at the end{kept}{steps}."
        )
    parts.append(_rank_rows(facts.rank_summary))
    return "\n\n".join(part for part in parts if part)


def _rank_rows(summary: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            escape(str(row["group"])),
            str(row["matrices"]),
            str(row["total"]),
            f"{row['mean']:.1f}",
            f"{row['min']} to {row['max']}",
        ]
        for row in summary
    ]
    return _table(["matrices of", "count", "total rank", "mean", "range"], rows)


def _reproduce(facts: CardFacts) -> str:
    parts = []
    if facts.run_yaml:
        parts.append("`spectune train run.yaml` with this `run.yaml`:\n\n" + _fenced(facts.run_yaml, "yaml"))
    if facts.versions:
        parts.append(
            "Versions: " + ", ".join(f"{escape(name)} {escape(number)}" for name, number in facts.versions.items())
        )
    return "\n\n".join(parts)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}", *lines])


def _code(text: str) -> str:
    """Inline code. An HTML element, not backticks: a text could close those, and they do not hide a `|` in a table."""
    return f"<code>{escape(text)}</code>"


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _file_name(path: str) -> str:
    """Last part of a path of either kind."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _source_name(source: str) -> str:
    """The file's name without its directories; a data set id `owner/name` stays whole."""
    return source if re.fullmatch(r"\w[\w.-]*/[\w-]+", source) else _file_name(source)
