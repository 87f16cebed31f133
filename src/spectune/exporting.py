"""`spectune export`: a finished adapter as plain LoRA, as a merged model, or as a smaller AdaLoRA adapter.

What is wrong with the request is found before torch is imported.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spectune.adapter.roles import role_of
from spectune.budget import Budget
from spectune.errors import AdapterError, RunError
from spectune.export_checks import EXPORT, Form, Limit, check_form, check_limit, check_output, followed
from spectune.files import read_json, write_json, write_text
from spectune.formats.adapter_files import CONFIG, IMPORTANCE, SETTINGS, WEIGHTS, locate_adapter, read_adapter_config
from spectune.formats.adapter_settings import AdapterSettings
from spectune.formats.adapter_writing import in_order, readable
from spectune.formats.export_card import ExportFacts, export_card
from spectune.manifest import whole_directory
from spectune.report.tables import role_summary

if TYPE_CHECKING:
    from torch import Tensor

    from spectune.formats.pruning import Keep
    from spectune.formats.saved_adapter import SavedAdapter

CHOSEN_BY: Mapping[str, str] = {
    "importance": "the importance scores of the run",
    "size": "their size s·|λ|·‖P‖·‖Q‖, for the adapter brings no importance scores",
}
CARRIED = re.compile(  # what makes texts of tokens, and how to generate; no code and no pickle
    r"(special_tokens_map|added_tokens|tokenizer|tokenizer_config|vocab|target_vocab|vocab-src|vocab-tgt"
    r"|generation_config|processor_config)\.json|merges\.txt|vocab\.txt|.+\.(model|spm|tokenizer|bpe|jinja)"
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    directory: Path
    form: Form
    ranks: dict[str, int]
    """Matrix → rank."""
    before: int
    """Triplets of the adapter that it was made of."""
    chosen_by: Literal["importance", "size"] | None
    """Scores by which triplets were kept; None where all were."""
    weights_bytes: int
    """Of the files of weights."""


def ranks(adapter: str | Path, *, revision: str | None = None) -> dict[str, int]:
    """Rank of every adapted matrix by module name: its triplets with λ ≠ 0. Loads no model.

    Args:
        adapter: a directory or hub id of any AdaLoRA adapter, also one that plain PEFT made.
        revision: branch, tag or commit of an adapter on the hub.

    Raises:
        AdapterError: there is none, or it is damaged.
    """
    path = locate_adapter(adapter, revision)  # mistakes are found before torch comes
    from spectune.formats.saved_adapter import SavedAdapter

    return SavedAdapter.read(path).ranks()


def export(
    adapter: str | Path,
    output: str | Path,
    *,
    format: str = "lora",
    target_rank: float | None = None,
    budget: str | int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Exported:
    """Write a finished adapter in another form, whole or cut down to a smaller budget.

    Args:
        adapter: a directory or hub id; also an AdaLoRA adapter that plain PEFT made.
        output: the directory to write; its parents are made.
        format: `lora`, a plain LoRA adapter with the same outputs; `merged`, the full model, which needs transformers
            alone; `adalora`, an AdaLoRA adapter again.
        target_rank: keep so many triplets for each matrix on average, those with the best scores.
        budget: keep what the file of weights has room for, by score per parameter (`400kB`, or a number of parameters).
        overwrite: replace an earlier export.
        revision: branch, tag or commit of an adapter on the hub.
        trust_remote_code: let the base model bring code of its own (`merged`).

    Returns:
        What was written: directory, ranks, bytes, and the scores by which triplets were kept.

    Raises:
        UserError: one line that says what to do; nothing is written then.
    """
    form, limit = check_form(format), check_limit(target_rank, budget)
    path = locate_adapter(adapter, revision)
    settings = AdapterSettings.read(path)
    place = followed(Path(output))
    check_output(place, {"the adapter that is exported": path, "its base": _base_of(path)}, overwrite=overwrite)
    return export_adapter(path, settings, place, form=form, limit=limit, trust_remote_code=trust_remote_code)


def _base_of(adapter: Path) -> Path | None:
    """The base, where it is a directory."""
    named = read_adapter_config(adapter).get("base_model_name_or_path")
    return Path(named) if isinstance(named, str) and Path(named).is_dir() else None


def export_adapter(
    source: Path,
    settings: AdapterSettings,
    output: Path,
    *,
    form: Form,
    limit: Limit | None = None,
    trust_remote_code: bool = False,
) -> Exported:
    """Write an adapter in another form. `output` is replaced as a whole, or not at all.

    Args:
        source: the adapter's directory, from `locate_adapter`.
        settings: what is in there.
        output: checked by `check_output`.
        form: `lora`, `merged` (the full model) or `adalora` (again, smaller).
        limit: a target rank or a budget for the file of weights; None keeps every triplet. For a merged model the
            budget counts what the AdaLoRA adapter would take.
        trust_remote_code: let the base bring code of its own, for `merged`.

    Raises:
        UserError: a damaged adapter, a limit that cannot be met, or a base that cannot be merged into.
    """
    from spectune.formats.saved_adapter import SavedAdapter

    if form == "merged" and settings.quantization is not None:
        raise AdapterError(
            f"{source} was trained on a base quantised to {settings.quantization}, which cannot hold the sum; export "
            "--format lora, which loads on that base"
        )
    adapter = SavedAdapter.read(source)
    keep, chosen_by = keep_under(adapter, limit, lora=form == "lora")
    config, tensors = smaller(adapter, keep)
    kept = type(adapter)(source, config, tensors)
    with whole_directory(output, fingerprint={EXPORT: form}) as partial:
        if form == "merged":
            _write_merged(partial, adapter, settings, keep, trust_remote_code)
        else:
            _write_adapter(partial, kept, form)
        write_text(partial / "README.md", export_card(_facts(adapter, kept, settings, form, chosen_by)))
        readable(partial)
        size = sum(path.stat().st_size for path in partial.glob("*model*.safetensors"))
    return Exported(
        directory=output,
        form=form,
        ranks=kept.ranks(),
        before=sum(adapter.ranks().values()),
        chosen_by=chosen_by,
        weights_bytes=size,
    )


def keep_under(
    adapter: SavedAdapter, limit: Limit | None, *, lora: bool
) -> tuple[Keep | None, Literal["importance", "size"] | None]:
    """Which triplets stay, None for all, and the scores they were chosen by."""
    from spectune.formats.pruning import keep_rank, keep_within
    from spectune.formats.triplet_scores import triplet_scores

    if limit is None:
        return None, None
    scores = triplet_scores(adapter)
    if isinstance(limit, Budget):
        keep = keep_within(scores.of, adapter.tensors, limit, lora=lora)
    else:
        keep = keep_rank(scores.of, limit)
    return (None, None) if all(bool(stays.all()) for stays in keep.values()) else (keep, scores.kind)


def smaller(adapter: SavedAdapter, keep: Keep | None) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Configuration and weights of the AdaLoRA adapter with the triplets of `keep`."""
    from spectune.formats.pruning import pruned

    return (adapter.config, adapter.tensors) if keep is None else pruned(adapter.config, adapter.tensors, keep)


def _write_adapter(partial: Path, adapter: SavedAdapter, form: Form) -> None:
    from safetensors.torch import save_file

    from spectune.formats.plain_lora import plain_lora, save_plain_lora

    if form == "lora":
        save_plain_lora(partial, *plain_lora(adapter.config, adapter.tensors))
    else:
        write_json(partial / CONFIG, dict(adapter.config))
        in_order(partial)
        save_file(dict(adapter.tensors), partial / WEIGHTS, metadata={"format": "pt"})
    for path in adapter.directory.iterdir():
        mine = form == "adalora" and path.name in (SETTINGS, IMPORTANCE)
        if path.is_file() and (mine or CARRIED.fullmatch(path.name)):
            shutil.copyfile(path, partial / path.name)


def _write_merged(
    partial: Path, adapter: SavedAdapter, settings: AdapterSettings, keep: Keep | None, trust_remote_code: bool
) -> None:
    import torch
    from transformers import GenerationConfig

    from spectune.evaluation.bases import load_base, without_bar
    from spectune.evaluation.trained import load_adapter
    from spectune.formats.merged import check_same, merge, save_merged

    trained = load_adapter(adapter.directory, settings, torch.device("cpu"), trust_remote_code=trust_remote_code)
    merged, drawn_apart = merge(trained.model, adapter.entries, keep)
    if (adapter.directory / "generation_config.json").is_file():
        merged.generation_config = GenerationConfig.from_pretrained(str(adapter.directory))
    with without_bar():
        save_merged(merged, partial, whole=drawn_apart)
    trained.tokenizer.save_pretrained(str(partial))
    again = load_base(str(partial), dtype=merged.dtype, device="cpu", trust_remote_code=trust_remote_code)
    check_same(merged, again)


def _facts(
    before: SavedAdapter, after: SavedAdapter, settings: AdapterSettings, form: Form, chosen_by: str | None
) -> ExportFacts:
    ranks, source, target = after.ranks(), settings.data.source_lang, settings.data.target_lang
    base = settings.base_name or before.config["base_model_name_or_path"] or "BASE"
    return ExportFacts(
        form=form,
        base_model=base,
        base_is_local=Path(base).is_dir() or base.startswith(("/", ".", "~")) or base == "starter",
        base_revision=before.config.get("revision"),
        languages=(source, target) if source is not None and target is not None else None,
        first_token_global=_first_token_global(before.directory),
        ranks=ranks,
        rank_summary=role_summary(ranks, {name: role_of(name) for name in ranks}),
        before=sum(before.ranks().values()),
        chosen_by=None if chosen_by is None else CHOSEN_BY[chosen_by],
    )


def _first_token_global(adapter: Path) -> bool:
    """Whether the adapter's run gave LED's first tokens global attention (`evaluation.global_attention`)."""
    from spectune.evaluation.decoding import FIRST_TOKEN, GLOBAL_ATTENTION

    try:
        found = read_json(adapter / "generation_config.json")
    except RunError:
        return False
    return isinstance(found, Mapping) and found.get(GLOBAL_ATTENTION) == FIRST_TOKEN
