"""`adapter.init_from`: a finished adapter as the start of a run with a schedule of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, tiny_model
from transformers import PreTrainedTokenizerFast

from spectune.errors import AdapterError, ConfigError, UserError
from spectune.formats.adapter_files import CONFIG, WEIGHTS
from spectune.manifest import MANIFEST

pytestmark = pytest.mark.usefixtures("quick_proof")

START: dict[str, Any] = {"eval_strategy": "no", "eval_on_start": True}


@pytest.mark.parametrize("base", ["t5", "bart"])
def test_it_starts_from_the_finished_function_and_moves_rank_anew(run: Run, tmp_path: Path, base: str) -> None:
    lengths = {"max_source_length": 48}
    first = run(base=base, data=lengths, train={"output_dir": str(tmp_path / "first"), "learning_rate": 2e-2})
    second = run(
        base=base,
        data=lengths,
        adapter={"init_from": str(first.adapter), "init_r": 6, "target_r": 3},
        train={"output_dir": str(tmp_path / "second")},
        evaluation=START,
    )
    untrained = run(base=base, data=lengths, train={"output_dir": str(tmp_path / "third")}, evaluation=START)
    reached = first.summary["metrics"]["eval_loss"]["value"]
    start = second.summary["evaluations"][0]
    assert start["step"] == 0
    assert start["eval_loss"] == pytest.approx(reached, abs=1e-5)
    assert abs(untrained.summary["evaluations"][0]["eval_loss"] - reached) > 1e-3, "the first run did move"
    assert sum(second.summary["ranks"].values()) == 3 * len(second.summary["ranks"])
    assert second.summary["ranks"] != first.summary["ranks"]
    assert second.summary["allocator_calls"] == second.summary["total_steps"]


def test_it_resumes_bit_for_bit(run: Run, tmp_path: Path) -> None:
    first = run(train={"output_dir": str(tmp_path / "first")})
    adapter = {"init_from": str(first.adapter)}
    train: dict[str, Any] = {"save_steps": 1, "save_total_limit": 99}
    whole = run(adapter=adapter, train=train | {"output_dir": str(tmp_path / "whole")})
    killed = tmp_path / "killed"
    as_if_killed_at(whole.directory, 5, killed)
    resumed = run(adapter=adapter, train=train | {"output_dir": str(killed)}, resume=True)
    assert (resumed.adapter / WEIGHTS).read_bytes() == (whole.adapter / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "beside",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"trainable_token_indices": [5, 6]},
        {"modules_to_save": ["layernorm_embedding"]},
    ],
    ids=lambda beside: next(iter(beside)) + "-" + str(next(iter(beside.values()))),
)
def test_what_was_trained_beside_the_triplets_starts_where_it_was(
    run: Run, tmp_path: Path, beside: dict[str, Any]
) -> None:
    common: dict[str, Any] = {"base": "bart", "data": {"max_source_length": 48}}
    train = {"output_dir": str(tmp_path / "first"), "learning_rate": 2e-2}
    first = run(adapter=beside, train=train, **common)
    second: dict[str, Any] = {"output_dir": str(tmp_path / "second")}
    start = {"init_from": str(first.adapter), "init_r": 6, "target_r": 3}
    went_on = run(adapter=beside | start, train=second, evaluation=START, **common)
    reached = first.summary["metrics"]["eval_loss"]["value"]
    assert went_on.summary["evaluations"][0]["eval_loss"] == pytest.approx(reached, abs=1e-5)
    with pytest.raises(AdapterError, match=r"also holds \S+, which this run does not train so; let adapter\.\w+"):
        run(adapter=start, train={"output_dir": str(tmp_path / "third")}, **common)


def _not_finite(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, adapter / WEIGHTS)


def _parts_that_do_not_fit(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    name = next(name for name, tensor in tensors.items() if name.endswith("lora_E") and len(tensor))
    save_file(tensors | {name: torch.zeros(len(tensors[name]) + 1, 1)}, adapter / WEIGHTS)


def _no_scale(adapter: Path) -> None:
    config = json.loads((adapter / CONFIG).read_text("utf-8"))
    (adapter / CONFIG).write_text(json.dumps(config | {"lora_alpha": "much"}), encoding="utf-8")


def _no_weights(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (_not_finite, "holds numbers that are not finite, in base_model"),
        (_parts_that_do_not_fit, "is damaged: .* is not of rank . in all its parts"),
        (_no_scale, "is damaged: lora_alpha is 'much'"),
        (_no_weights, "holds no adapter_model.safetensors"),
        (shutil.rmtree, "there is no directory"),
    ],
)
def test_a_damaged_adapter(run: Run, tmp_path: Path, harm: Any, line: str) -> None:
    first = run(train={"output_dir": str(tmp_path / "first")})
    (first.adapter / MANIFEST).unlink()  # which would find all of these
    harm(first.adapter)
    with pytest.raises(UserError, match=line) as refused:
        run(adapter={"init_from": str(first.adapter)}, train={"output_dir": str(tmp_path / "second")})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "second" / "adapter").exists()


def test_a_changed_byte_is_found_by_the_manifest(run: Run, tmp_path: Path) -> None:
    first = run(train={"output_dir": str(tmp_path / "first")})
    content = bytearray((first.adapter / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (first.adapter / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError, match=WEIGHTS):
        run(adapter={"init_from": str(first.adapter)}, train={"output_dir": str(tmp_path / "second")})


def test_what_it_cannot_go_on_from(
    run: Run, tmp_path: Path, bases: dict[str, Path], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    first = run(adapter={"init_r": 6, "target_r": 5}, train={"output_dir": str(tmp_path / "first")})
    second: dict[str, Any] = {"output_dir": str(tmp_path / "second")}
    start = {"init_from": str(first.adapter)}
    with pytest.raises(ConfigError, match=r"init_r 4 is below the largest rank of .*, which is 6; give adapter.init_r"):
        run(adapter=start, train=second)
    with pytest.raises(AdapterError, match=r"adapts .*, which this run does not; let adapter.target_modules name it"):
        run(adapter=start | {"init_r": 6, "target_modules": ["q"]}, train=second)
    other = tmp_path / "other-base"
    model: Any = tiny_model("t5", len(tiny_tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight[0] += 1.0
    model.save_pretrained(other)
    tiny_tokenizer.save_pretrained(other)
    with pytest.raises(AdapterError, match="was trained on a base with other weights; name that base"):
        run(adapter=start | {"init_r": 6}, train=second, model={"model_name_or_path": str(other)})
    lora = get_peft_model(tiny_model("t5", len(tiny_tokenizer)), LoraConfig(task_type="SEQ_2_SEQ_LM"))
    lora.save_pretrained(str(tmp_path / "lora"))
    with pytest.raises(AdapterError, match="is of a LORA adapter; spectune loads AdaLoRA adapters"):
        run(adapter={"init_from": str(tmp_path / "lora")}, train=second)
