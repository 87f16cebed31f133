"""`spectune.export` on adapters of plain PEFT: forms, budgets, what is carried along, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.forms import adapter_of_peft, assert_close, logits, of_adapter, of_lora, of_merged
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import spectune
from spectune.errors import UserError
from spectune.evaluation.bases import load_base
from spectune.exporting import Exported
from spectune.formats.adapter_files import CONFIG, IMPORTANCE, WEIGHTS, read_adapter_config
from spectune.formats.saved_adapter import SavedAdapter
from spectune.formats.triplet_scores import triplet_scores
from spectune.manifest import verify_manifest, write_manifest
from spectune.sweeping import _listed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape"),
    pytest.mark.filterwarnings("ignore:.*(tied|bias).*:UserWarning"),
]
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Make:
    """`adapter_of_peft` in this test's directory."""
    return partial(adapter_of_peft, tmp_path, tiny_tokenizer)


def export(adapter: Path, form: str, **options: Any) -> Exported:
    return spectune.export(adapter, adapter.parent / form, format=form, **options)


@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "whole"])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_every_form_has_the_adapter_s_logits(make: Make, kind: str, pruned: bool, tmp_path: Path) -> None:
    adapter = make(kind, pruned=pruned)
    expected = of_adapter(adapter)
    for form in ("lora", "merged", "adalora"):
        result = export(adapter, form)
        assert (result.chosen_by, sum(result.ranks.values())) == (None, result.before)
        assert verify_manifest(tmp_path / form)
    assert_close(of_lora(tmp_path / "lora"), expected)
    assert_close(of_merged(tmp_path / "merged"), expected)
    assert torch.equal(of_adapter(tmp_path / "adalora"), expected)
    assert not list((tmp_path / "merged").glob("adapter_*")), "a model and nothing else"


def test_a_base_in_bfloat16(make: Make, tmp_path: Path) -> None:
    """Within what bfloat16 does; the merged weights are the exact sum, rounded once."""
    adapter = make("t5", dtype="bfloat16")
    expected = of_adapter(adapter)
    export(adapter, "lora"), export(adapter, "merged")
    assert_close(of_lora(tmp_path / "lora", "bfloat16"), expected, bound=5e-2)
    assert_close(of_merged(tmp_path / "merged"), expected, bound=5e-2)
    saved = SavedAdapter.read(adapter)
    merged, base = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "base"))
    name = max(saved.ranks(), key=lambda matrix: saved.ranks()[matrix])
    kinds = {kind: tensor.double() for kind, tensor in saved.entries[name].items()}
    delta = kinds["B"] @ (kinds["E"] * kinds["A"]) * 12 / (4 + 1e-5)
    weight = merged[f"{name}.weight"]
    assert weight.dtype == torch.bfloat16
    exact = base[f"{name}.weight"].double() + delta
    assert ((weight.double() - exact).abs() <= 2.0**-8 * exact.abs() + 1e-6).all()


def test_a_lora_adapter_on_a_quantised_base(make: Make, tmp_path: Path) -> None:
    adapter = make()
    export(adapter, "lora")
    found = []
    for place in (adapter, tmp_path / "lora"):
        base = load_base(str(tmp_path / "base"), dtype=torch.float32, device="cpu", quantization="nf4")
        loaded = PeftModel.from_pretrained(base, place)
        found.append(logits(loaded, AutoTokenizer.from_pretrained(tmp_path / "base")))
    assert_close(found[1], found[0])
    assert (found[0] - of_adapter(adapter)).abs().max() > 1e-3, "the base is another"


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("bart", {"bias": "all"}),
    ("t5", {"trainable_token_indices": [5, 7]}),
    ("bart", {"trainable_token_indices": [5, 7]}),
    ("t5", {"modules_to_save": ["lm_head"]}),
    ("t5", {"modules_to_save": ["shared"]}),
    ("bart", {"modules_to_save": ["lm_head", "final_layer_norm"]}),
    ("bart", {"modules_to_save": ["shared"]}),
]


@pytest.mark.parametrize(("kind", "changes"), OTHERS, ids=str)
def test_what_was_trained_beside_the_matrices(make: Make, kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    adapter = make(kind, **changes)
    expected = of_adapter(adapter)
    for form in ("lora", "merged"):
        export(adapter, form)
    assert_close(of_lora(tmp_path / "lora"), expected)
    assert_close(of_merged(tmp_path / "merged"), expected)


def test_the_best_triplets_stay(make: Make, tmp_path: Path) -> None:
    """By size for an adapter without scores: the exact count, the largest, and λ = 0 for the others says the same."""
    adapter = make()
    saved = SavedAdapter.read(adapter)
    scores = triplet_scores(saved)
    assert scores.kind == "size"
    for name, kinds in saved.entries.items():
        parts = [kinds["B"][:, [n]] @ kinds["E"][[n]] @ kinds["A"][[n]] for n in range(len(kinds["E"]))]
        sizes = torch.tensor([float(part.norm()) * 12 / (4 + 1e-5) for part in parts])
        torch.testing.assert_close(scores.of[name].float(), sizes)
    results = {form: export(adapter, form, target_rank=1) for form in ("lora", "merged", "adalora")}
    assert {result.chosen_by for result in results.values()} == {"size"}
    assert len({json.dumps(result.ranks) for result in results.values()}) == 1, "the same triplets in every form"
    assert sum(results["lora"].ranks.values()) == len(saved.entries)
    kept = SavedAdapter.read(tmp_path / "adalora")
    least = min(float(values.min()) for values in triplet_scores(kept).of.values() if len(values))
    assert sum(int((values > least).sum()) for values in scores.of.values()) == len(saved.entries) - 1
    expected = of_adapter(tmp_path / "adalora")
    assert (expected - of_adapter(adapter)).abs().max() > 1e-3
    assert_close(of_lora(tmp_path / "lora"), expected)
    assert_close(of_merged(tmp_path / "merged"), expected)
    pattern = read_adapter_config(tmp_path / "adalora")["rank_pattern"]
    assert {name.removesuffix(".lora_E"): sum(flags) for name, flags in pattern.items()} == results["lora"].ranks


@pytest.mark.parametrize("form", ["lora", "adalora"])
def test_a_budget_is_kept_and_used(make: Make, form: str) -> None:
    adapter = make(modules_to_save=["final_layer_norm"])
    whole = export(adapter, form)
    for share in (0.9, 0.7, 0.55):
        size = int(share * whole.weights_bytes)
        result = export(adapter, form, budget=f"{size}B", overwrite=True)
        slack = 4 * (32 + 48 + 1) + 3 * 256 + 300  # a triplet, headers of what lies beside, one more matrix
        assert size - slack < result.weights_bytes <= size
        assert result.weights_bytes == (result.directory / WEIGHTS).stat().st_size
    numbers = export(adapter, form, budget=1000, overwrite=True)
    kept = sum(tensor.numel() for tensor in load_file(numbers.directory / WEIGHTS).values())
    assert 1000 - 81 < kept <= 1000
    assert export(adapter, form, budget="1GB", overwrite=True).chosen_by is None, "everything fits"


PROGRAM = """
import sys
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

lora, merged = sys.argv[1:]
base = AutoModelForSeq2SeqLM.from_pretrained(PeftConfig.from_pretrained(lora).base_model_name_or_path)
tokens = AutoTokenizer.from_pretrained(merged)("profit rose", return_tensors="pt")
for model in (PeftModel.from_pretrained(base, lora), AutoModelForSeq2SeqLM.from_pretrained(merged)):
    print(model.generate(**tokens, max_new_tokens=5, do_sample=False, num_beams=1).tolist())
assert not [name for name in sys.modules if name.split(".")[0] == "spectune"]
"""


def test_a_process_without_spectune_loads_both(make: Make) -> None:
    adapter = make()
    lora, merged = (str(export(adapter, form).directory) for form in ("lora", "merged"))
    answer = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, lora, merged], capture_output=True, text=True, check=True
    )
    loaded = spectune.load(adapter)
    tokens = loaded.tokenizer("profit rose", return_tensors="pt")
    expected = loaded.model.generate(**tokens, max_new_tokens=5, do_sample=False, num_beams=1).tolist()
    assert answer.stdout.splitlines() == [str(expected)] * 2


def not_finite(adapter: Path) -> None:
    """A base whose weights overflow; those of the adapter itself are checked when it is read."""
    path = adapter.parent / "base" / "model.safetensors"
    tensors = load_file(path)
    next(tensor for name, tensor in sorted(tensors.items()) if name.endswith("SelfAttention.q.weight"))[0, 0] = float(
        "inf"
    )
    save_file(tensors, path, metadata={"format": "pt"})


def scores_of_another(adapter: Path) -> None:
    save_file({"another": torch.ones(4)}, adapter / IMPORTANCE)


def quantized(adapter: Path) -> None:
    settings = {"task": "text2text", "dtype": "float32", "quantization": "nf4", "data": {"train_file": "-"}}
    (adapter / "spectune.json").write_text(json.dumps(settings | {"evaluation": {}}), encoding="utf-8")


def occupied(adapter: Path) -> None:
    (adapter.parent / "out").mkdir()
    (adapter.parent / "out" / "thesis.tex").write_text("years of work", encoding="utf-8")


def a_checkpoint(adapter: Path) -> None:
    """It has a manifest, too."""
    (adapter.parent / "out").mkdir()
    (adapter.parent / "out" / "state.json").write_text("{}", encoding="utf-8")
    write_manifest(adapter.parent / "out", {"settings": "…"})


def nothing(adapter: Path) -> None:
    """As it is."""


REFUSALS: list[tuple[Callable[[Path], None], dict[str, Any], str]] = [
    (not_finite, {"format": "merged"}, r"the weights of .*SelfAttention.q.weight are not finite"),
    (scores_of_another, {"target_rank": 1}, r"importance.safetensors does not belong to this adapter"),
    (quantized, {"format": "merged"}, r"base quantised to nf4, .* export --format lora"),
    (occupied, {}, r"out is not empty; name another directory, or give --overwrite"),
    (occupied, {"overwrite": True}, r"not empty and no export, so it is not replaced"),
    (a_checkpoint, {"overwrite": True}, r"not empty and no export"),
    (nothing, {"format": "gguf"}, r"there is no format 'gguf'; name one of lora, merged, adalora"),
    (nothing, {"target_rank": 1, "budget": "3kB"}, r"a target rank or a budget, not both"),
    (nothing, {"target_rank": 3.5}, r"above the adapter's average rank, which is 1\.8"),
    (nothing, {"target_rank": 0.01}, r"leaves none of the adapter's \d+ triplets"),
    (nothing, {"target_rank": float("nan")}, r"nan is no rank"),
    (nothing, {"target_rank": True}, r"target rank True is no number"),
    (nothing, {"target_rank": "4"}, r"target rank '4' is no number"),
    (nothing, {"budget": "100B"}, r"a budget of 100 bytes has room for none"),
    (nothing, {"budget": "4 parsecs"}, r"neither a size such as 400kB"),
    (nothing, {"output": "adapter"}, r"holds the adapter that is exported"),
    (nothing, {"output": "adapter/lora"}, r"or lies inside it"),
    (nothing, {"output": "."}, r"holds the adapter that is exported"),
]


@pytest.mark.parametrize(("damage", "options", "message"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refused_in_a_line_and_nothing_is_written(
    make: Make, tmp_path: Path, damage: Callable[[Path], None], options: dict[str, Any], message: str
) -> None:
    adapter = make()
    damage(adapter)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = dict(options)
    with pytest.raises(UserError, match=message) as caught:
        spectune.export(adapter, tmp_path / options.pop("output", "out"), **options)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_adapter_that_names_no_base(make: Make, tmp_path: Path) -> None:
    """PEFT writes none for a base that was made from a configuration."""
    adapter = make()
    expected, before = of_adapter(adapter), spectune.ranks(adapter)
    config = read_adapter_config(adapter)
    (adapter / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": None}), encoding="utf-8")
    assert spectune.ranks(adapter) == before
    export(adapter, "lora")
    card = (tmp_path / "lora" / "README.md").read_text("utf-8")
    assert "None" not in card
    for ask in (lambda: spectune.load(adapter), lambda: export(adapter, "merged")):
        with pytest.raises(UserError, match=r"names no base; write its directory or hub id into adapter_config\.json"):
            ask()
    named = json.loads((tmp_path / "lora" / CONFIG).read_text("utf-8"))
    assert named["base_model_name_or_path"] is None
    (tmp_path / "lora" / CONFIG).write_text(
        json.dumps(named | {"base_model_name_or_path": config["base_model_name_or_path"]})
    )
    assert_close(of_lora(tmp_path / "lora"), expected)


def test_what_is_no_name_of_an_adapter(make: Make) -> None:
    loaded: Any = spectune.load(make())
    for ask in (spectune.ranks, partial(spectune.export, output="out"), partial(spectune.export_sweep, data="a.csv")):
        with pytest.raises(UserError, match="name an adapter's directory or hub id; a TrainedAdapter is none"):
            ask(loaded)


def test_one_limit_stands_for_a_list_of_it() -> None:
    assert [list(_listed(value)) for value in (None, 4, "400kB", [4, 2])] == [[], [4], ["400kB"], [4, 2]]


def test_an_earlier_export_is_replaced_as_a_whole(make: Make, tmp_path: Path) -> None:
    adapter = make()
    spectune.export(adapter, tmp_path / "out", format="merged")
    assert (tmp_path / "out" / "model.safetensors").exists()
    spectune.export(adapter, tmp_path / "out", format="lora", overwrite=True)
    assert (tmp_path / "out" / CONFIG).exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


def test_the_base_of_the_adapter_is_not_replaced(make: Make, tmp_path: Path) -> None:
    """Train, merge, train on: the next merge must not go where the base lies, though that is an earlier export."""
    adapter = make()
    spectune.export(adapter, tmp_path / "merged", format="merged")
    config = read_adapter_config(adapter) | {"base_model_name_or_path": str(tmp_path / "merged")}
    (adapter / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    before = sorted(path.name for path in (tmp_path / "merged").iterdir())
    with pytest.raises(UserError, match="holds its base, or lies inside it; name another directory"):
        spectune.export(adapter, tmp_path / "merged", format="merged", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == before


def test_the_current_directory_is_not_replaced(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = make()
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "inner")
    for place in (".", "", "..", tmp_path / "empty"):
        with pytest.raises(UserError, match=r"is the current directory, or holds it; name a new directory"):
            spectune.export(adapter, place)


def test_a_link_to_a_directory_is_followed(make: Make, tmp_path: Path) -> None:
    """It may lead to the large disk."""
    adapter = make()
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large")
    spectune.export(adapter, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "large" / CONFIG).is_file()
