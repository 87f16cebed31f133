"""The model card of what `spectune export` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spectune.formats.card_parts import front_matter, loading, rank_rows
from spectune.formats.markdown import code, escape, file_name, section


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What the card of an export says."""

    form: Literal["lora", "adalora", "merged"]
    base_model: str
    base_is_local: bool = False
    base_revision: str | None = None
    languages: tuple[str, str] | None = None
    """Codes of source and target."""
    first_token_global: bool = False
    """LED: the first token has global attention, which a caller of `generate` has to ask for."""
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
    base = file_name(facts.base_model) if facts.base_is_local else facts.base_model
    merged = facts.form == "merged"
    library = "transformers" if merged else "peft"
    kept = sum(facts.ranks.values())
    origin = "Made with `spectune export` from an AdaLoRA adapter (Zhang et al., ICLR 2023, arXiv 2303.10512), "
    if facts.chosen_by is None:
        origin += "whose outputs it has, within rounding."
    else:
        origin += f"cut down to {kept:,} of its {facts.before:,} rank-one terms, chosen by {escape(facts.chosen_by)}."
    how = loading(
        merged=merged,
        base_revision=facts.base_revision,
        languages=facts.languages,
        first_token_global=facts.first_token_global,
    )
    sections = [
        front_matter(
            None if facts.base_is_local else facts.base_model,
            library_name=library,
            tags=[facts.form, library, "spectune"],
        ),
        f"# {_TITLES[facts.form].format(base=escape(base))}",
        f"{_FORMS[facts.form].format(base=code(base))}\n\n{origin}",
        section("How to load", how),
        section("Where the rank went", rank_rows(facts.rank_summary)),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"
