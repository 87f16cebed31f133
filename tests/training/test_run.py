"""Whole runs on tiny models: what is written, what is promised, what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, journal
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import spectune
from spectune.adapter import initialization
from spectune.errors import ConfigError, RunError
from spectune.manifest import sha256, verify_manifest


@pytest.mark.parametrize("base", ["t5", "bart"])
def test_a_run_leaves_what_the_contract_says(run: Run, base: str) -> None:
    result = run(
        base=base,
        data={"max_source_length": 48},
        evaluation={"eval_strategy": "steps", "eval_steps": 5, "eval_on_start": True},
    )
    summary = json.loads((result.directory / "summary.json").read_text("utf-8"))
    assert summary["reload_identical"] is True
    assert summary["reload"]["mismatches"] == 0
    assert summary["total_steps"] == summary["allocator_calls"] == 14
    assert summary["freeze_step"] == 8
    matrices = len(summary["ranks"])
    assert sum(summary["ranks"].values()) == 2 * matrices
    assert {"exact_match", "accuracy", "macro_f1", "non_label_share", "eval_loss"} == set(summary["metrics"])
    assert all(metric["signature"] for metric in summary["metrics"].values())
    assert set(summary["phases"]) == {"warm-up", "decrease", "frozen"}
    assert summary["parameters"]["saved"] < summary["parameters"]["trainable"] < summary["parameters"]["total"]
    verify_manifest(result.adapter)
    for name in ("run.yaml", "predictions.jsonl", "adapter/README.md", "adapter/importance.safetensors"):
        assert (result.directory / name).stat().st_size > 0
    events = journal(result)
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [0, 5, 10, 14]
    assert [e["step"] for e in events if e["event"] == "phase"] == [1, 3, 9]
    allocations = [e for e in events if e["event"] == "allocation"]
    assert [e["step"] for e in allocations] == [4, 6, 8]
    assert all(sum(e["ranks"].values()) == e["budget"] for e in allocations)


@pytest.mark.usefixtures("quick_proof")
def test_the_adapter_loads_with_plain_peft(run: Run, bases: dict[str, Path]) -> None:
    result = run()
    config = PeftConfig.from_pretrained(str(result.adapter))
    assert config.base_model_name_or_path == str(bases["t5"])
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(bases["t5"]), str(result.adapter))
    ranks = {
        name: module.lora_E["default"].shape[0]
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "lora_E")
    }
    assert ranks == result.summary["ranks"]
    scores = load_file(result.adapter / "importance.safetensors")
    assert {name: len(values) for name, values in scores.items()} == dict.fromkeys(ranks, 4)


@pytest.mark.usefixtures("quick_proof")
def test_same_seed_same_bytes(run: Run, tmp_path: Path) -> None:
    first, second = (run(train={"output_dir": str(tmp_path / name)}) for name in "ab")
    other = run(train={"output_dir": str(tmp_path / "c"), "seed": 7})
    weights = [sha256(result.adapter / "adapter_model.safetensors") for result in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.usefixtures("quick_proof")
def test_a_gradient_start_in_one_pass_is_that_in_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass sees the same rows under the same dropout, and training draws what it would have drawn."""
    monkeypatch.setattr(initialization, "_EXACT", 8)  # else no matrix of these is taken apart by random directions
    monkeypatch.setattr(initialization, "_OVERSAMPLING", 4)
    adapters = []
    for most in (2**30, 8 * 32 * 48):
        monkeypatch.setattr(initialization, "CHUNK_BYTES", most)
        adapters.append(sha256(run(overwrite=True, **VARIANTS["gradient"]).adapter / "adapter_model.safetensors"))
    assert adapters[0] == adapters[1]


VARIANTS: dict[str, dict[str, Any]] = {
    "accumulation": {"train": {"gradient_accumulation_steps": 3}},
    "peft order": {"adapter": {"call_order": "peft"}},
    "triplet importance": {"adapter": {"importance": "triplet"}},
    "permanent pruning": {"adapter": {"pruning": "permanent"}},
    "cross entropy scores": {"adapter": {"penalty_in_scores": False}},
    "dropout and smoothing": {"adapter": {"lora_dropout": 0.2}, "train": {"label_smoothing_factor": 0.1}},
    "orthonormal": {"adapter": {"init": "orthonormal"}},
    "gradient": {"adapter": {"init": "gradient"}},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "name": {"adapter": {"adapter_name": "en"}},
    "biases": {"base": "bart", "adapter": {"bias": "all"}, "data": {"max_source_length": 48}},
    "tokens": {"adapter": {"trainable_token_indices": [5, 7]}},
    "one layer": {"adapter": {"layers_to_transform": [0]}},
    "saved module": {"adapter": {"modules_to_save": ["final_layer_norm"], "target_modules": "attention"}},
    "padded": {"data": {"padding": "max_length", "max_source_length": 32}},
    "beams": {"evaluation": {"num_beams": 3, "no_repeat_ngram_size": 2}},
    "no validation": {"data": {"validation_split": None}},
    "equal ranks": {"adapter": {"init_r": 2}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "autocast": {"train": {"mixed_precision": "bf16"}},
}


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_option_ends_at_its_budget_and_reloads(run: Run, variant: str) -> None:
    summary = run(**VARIANTS[variant]).summary
    assert summary["reload_identical"] is True
    assert sum(summary["ranks"].values()) == 2 * len(summary["ranks"])
    assert summary["allocator_calls"] == 14


@pytest.mark.usefixtures("quick_proof")
def test_the_best_checkpoint_after_the_freeze_is_what_is_saved(run: Run) -> None:
    result = run(
        evaluation={"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss"},
        train={"save_total_limit": 1},
    )
    candidates = {row["step"]: row["eval_loss"] for row in result.summary["evaluations"] if row["step"] >= 8}
    best = min(candidates, key=lambda step: candidates[step])
    assert result.summary["best_step"] == best
    assert result.metrics["eval_loss"] == pytest.approx(candidates[best], abs=1e-6)
    assert {path.name for path in (result.directory / "checkpoints").iterdir()} == {f"step-{best}", "step-14"}


@pytest.mark.usefixtures("quick_proof")
def test_early_stopping_waits_for_the_freeze(run: Run) -> None:
    result = run(
        evaluation={
            "eval_strategy": "steps",
            "eval_steps": 1,
            "metric_for_best_model": "exact_match",
            "early_stopping_patience": 2,
        },
        train={"learning_rate": 1e-9},
    )
    last = max(row["step"] for row in result.summary["evaluations"])
    assert last == 8 + 2


@pytest.mark.usefixtures("quick_proof")
def test_a_second_run_needs_a_word(run: Run) -> None:
    first = run()
    before = sha256(first.adapter / "adapter_model.safetensors")
    with pytest.raises(RunError, match="--resume continues it, --overwrite deletes it"):
        run()
    assert sha256(first.adapter / "adapter_model.safetensors") == before
    again = run(overwrite=True, train={"seed": 3})
    assert sha256(again.adapter / "adapter_model.safetensors") != before


@pytest.mark.usefixtures("quick_proof")
def test_an_overwrite_that_is_refused_deletes_nothing(run: Run) -> None:
    """What only the model or the tokenizer can refuse is found before the earlier run goes."""
    lengths = {"max_source_length": 32}
    first = run(base="bart", data=lengths)
    before = sorted(path for path in first.directory.rglob("*") if path.name != ".lock")
    with pytest.raises(ConfigError, match="positions of this model's encoder"):
        run(base="bart", overwrite=True, data={"max_source_length": 5000})
    assert sorted(path for path in first.directory.rglob("*") if path.name != ".lock") == before
    shutil.rmtree(first.directory / "checkpoints")  # to save disk
    with pytest.raises(RunError, match="holds results without checkpoints; --overwrite deletes it"):
        run(base="bart", data=lengths)
    assert (first.adapter / "adapter_model.safetensors").exists()


def test_a_metric_that_is_not_computed_is_refused_before_loading(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric_for_best_model bleu is not among"):
        run(evaluation={"metric_for_best_model": "bleu"})
    assert not (tmp_path / "run" / "run.yaml").exists()


@pytest.mark.usefixtures("quick_proof")
def test_evaluate_and_predict_agree_with_the_run(run: Run, table: Path) -> None:
    result = run()
    loaded = spectune.load(result.adapter)
    evaluation = spectune.evaluate(loaded, table)
    texts = [line.rsplit(",", 1)[0] for line in table.read_text("utf-8").splitlines()[1:]]
    assert spectune.predict(loaded, texts) == evaluation.predictions
    assert evaluation.rows == 46
    assert spectune.predict(loaded, []) == []


@pytest.mark.usefixtures("quick_proof")
def test_losses_of_the_journal_are_cross_entropy_alone(run: Run, tmp_path: Path) -> None:
    heavy, light = (
        run(
            adapter={"orth_reg_weight": weight, "tinit": 0, "tfinal": 0, "init": "random"},
            train={"max_steps": 2, "logging_steps": 1, "output_dir": str(tmp_path / str(weight))},
        )
        for weight in (50.0, 0.0)
    )
    first = [next(e for e in journal(result) if e["event"] == "step") for result in (heavy, light)]
    assert first[0]["loss"] == first[1]["loss"]
    assert first[1]["penalty"] == 0.0
    assert first[0]["penalty"] > first[0]["loss"]


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize("importance", ["elementwise", "triplet"])
def test_permanent_pruning_leaves_memory_during_the_decrease(run: Run, importance: str, tmp_path: Path) -> None:
    adapter: dict[str, Any] = {"init_r": 6, "tinit": 1, "tfinal": 3, "deltaT": 1}
    adapter |= {"pruning": "permanent", "importance": importance}
    train: dict[str, Any] = {"save_steps": 1, "save_total_limit": 99, "max_steps": 12}
    whole = run(adapter=adapter, train=train | {"output_dir": str(tmp_path / "whole")})
    events = journal(whole)
    compactions = [e for e in events if e["event"] == "compaction"]
    matrices = len(whole.summary["ranks"])
    left = [e["left"] for e in compactions]
    assert compactions[0]["step"] < whole.summary["freeze_step"] == compactions[-1]["step"]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 2 * matrices
    assert len(left) < sum(e["event"] == "allocation" for e in events), "not at each allocation"
    allocations = [e for e in events if e["event"] == "allocation"]
    assert all(sum(e["ranks"].values()) == e["budget"] for e in allocations)
    by_matrix = [e["ranks"] for e in allocations]
    assert all(later[m] <= sooner[m] for sooner, later in pairwise(by_matrix) for m in later)
    for step in (compactions[0]["step"], compactions[0]["step"] + 1):  # right after it, and later
        killed = tmp_path / f"killed-{step}"
        as_if_killed_at(whole.directory, step, killed)
        resumed = run(resume=True, adapter=adapter, train=train | {"output_dir": str(killed)})
        for name in ("adapter_model.safetensors", "importance.safetensors"):
            assert sha256(resumed.adapter / name) == sha256(whole.adapter / name)
        assert [e for e in journal(resumed) if e["event"] in ("allocation", "compaction")] == [
            e for e in events if e["event"] in ("allocation", "compaction")
        ]


@pytest.mark.usefixtures("quick_proof")
def test_every_right_output_can_be_written(run: Run, tmp_path: Path) -> None:
    """The limit knew the targets alone, and cut what was accepted as right, too."""
    long = "profit rose to five million euros in the third quarter"
    rows = [{"text": f"row {n}", "target": "ok", "references": ["ok", long]} for n in range(20)]
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = {"train_file": str(table), "label_names": None, "task": "text2text", "max_target_length": 64}
    result = run(data=data)
    tokenizer = AutoTokenizer.from_pretrained(result.adapter)
    needed = len(tokenizer(text_target=long)["input_ids"])
    limit = json.loads((result.adapter / "generation_config.json").read_text("utf-8"))["max_new_tokens"]
    assert limit == needed + 2
