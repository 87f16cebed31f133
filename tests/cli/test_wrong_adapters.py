"""Adapter directories as they come: each damage is one line and status 2, before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import RunCli
from tests.forms import adapter_of_peft
from transformers import PreTrainedTokenizerFast

from spectune.formats.adapter_files import CONFIG, SETTINGS, WEIGHTS
from spectune.manifest import write_manifest

MATRICES = ("encoder.layers.0.fc1", "decoder.layers.0.fc1")


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What PEFT writes for two matrices of rank 2; its base is never loaded."""
    monkeypatch.setattr("spectune.evaluation.trained.load_base", lambda *_, **__: pytest.fail("a base was loaded"))
    place = tmp_path / "adapter"
    place.mkdir()
    config = {
        "peft_type": "ADALORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": "base",
        "init_r": 2,
        "target_r": 1,
        "lora_alpha": 4,
        "target_modules": ["fc1"],
        "total_step": 10,
        "rank_pattern": {f"{name}.lora_E": [True, True] for name in MATRICES},
    }
    (place / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file(_tensors(), place / WEIGHTS)
    return place


def _tensors() -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name in MATRICES:
        shapes = {"lora_A": (2, 8), "lora_B": (16, 2), "lora_E": (2, 1)}
        tensors |= {f"base_model.model.{name}.{kind}": torch.ones(shape) for kind, shape in shapes.items()}
    return tensors


def config(**changes: Any) -> Callable[[Path], None]:
    """Changes the configuration; None takes a key out."""

    def change(place: Path) -> None:
        values = json.loads((place / CONFIG).read_text("utf-8")) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        (place / CONFIG).write_text(json.dumps(kept), encoding="utf-8")

    return change


def text(name: str, content: str) -> Callable[[Path], None]:
    """Writes a file."""

    def write(place: Path) -> None:
        (place / name).write_text(content, encoding="utf-8")

    return write


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Changes the weights, in a file that is well formed."""

    def rewrite(place: Path) -> None:
        found = load_file(place / WEIGHTS)
        change(found)
        save_file(found, place / WEIGHTS)

    return rewrite


def _manifest_then_other_weights(place: Path) -> None:
    write_manifest(place)
    tensors(lambda found: found.update({name: 2 * tensor for name, tensor in found.items()}))(place)


def _manifest_then_another_tokenizer(place: Path) -> None:
    write_manifest(place)
    (place / "tokenizer.json").write_text("{}", encoding="utf-8")


A = f"base_model.model.{MATRICES[0]}.lora_A"
DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda place: (place / CONFIG).unlink(), "is not an adapter's directory: it holds no adapter_config.json"),
    (lambda place: (place / WEIGHTS).unlink(), "holds no adapter_model.safetensors"),
    (lambda place: (place / WEIGHTS).rename(place / "adapter_model.bin"), "is a pickle, which can run code"),
    (text(CONFIG, ""), CONFIG),
    (text(CONFIG, "{"), CONFIG),
    (text(CONFIG, "[]"), "names no peft_type; it is no configuration of PEFT"),
    (lambda place: (place / CONFIG).write_bytes(b"\xff\xfe"), CONFIG),
    (config(peft_type="LORA"), "is of a LORA adapter; spectune loads AdaLoRA adapters, PEFT loads the others"),
    (config(peft_type=7), "names no peft_type"),
    (config(task_type="CAUSAL_LM"), "is of an adapter for CAUSAL_LM models; spectune loads those of encoder-decoder"),
    (config(init_r=None), "is damaged: it has no init_r; copy or download the adapter again"),
    (config(lora_alpha=None), "is damaged: it has no lora_alpha"),
    (config(target_modules=None), "is damaged: it has no target_modules"),
    (config(base_model_name_or_path=None), "is damaged: it has no base_model_name_or_path"),
    (config(init_r="2"), "is damaged: init_r is '2'"),
    (config(init_r=0), "is damaged: init_r is 0"),
    (config(lora_alpha=-4), "is damaged: lora_alpha is -4"),
    (config(target_modules=[]), "is damaged: target_modules is []"),
    (config(rank_pattern={"x": [True]}), "is damaged: rank_pattern has not 2 (init_r) flags for each matrix"),
    (config(rank_pattern=[1]), "is damaged: rank_pattern has not 2 (init_r) flags for each matrix"),
    (config(megatron_config={"a": 1}), "sets megatron_config, with which PEFT runs other code"),
    (lambda place: (place / WEIGHTS).write_bytes(b""), f"{WEIGHTS} cannot be read"),
    (lambda place: (place / WEIGHTS).write_bytes(b"\x80\x04pickle"), f"{WEIGHTS} cannot be read"),
    (lambda place: (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes()[:-4]), f"{WEIGHTS} cannot be read"),
    (tensors(dict.clear), "holds no weights of an AdaLoRA adapter"),
    (tensors(lambda found: found.pop(A)), "has not exactly lora_A, lora_B and lora_E"),
    (tensors(lambda found: found.update({A: torch.ones(1, 8)})), "is not of rank 2 in all its parts"),
    (tensors(lambda found: found.update({A: torch.ones(2, 8, 1)})), "has not exactly lora_A, lora_B and lora_E"),
    (tensors(lambda found: found.update({A: torch.full((2, 8), torch.nan)})), "holds numbers that are not finite, in"),
    (tensors(lambda found: found.update({A: torch.full((2, 8), torch.inf)})), "holds numbers that are not finite, in"),
    (
        tensors(lambda found: [found.pop(name) for name in list(found) if MATRICES[1] in name]),
        f"{MATRICES[1]} has no weights",
    ),
    (
        tensors(
            lambda found: found.update({name.replace("fc1", "fc2"): one.clone() for name, one in [*found.items()]})
        ),
        "is not in rank_pattern of the configuration",
    ),
    (text(SETTINGS, "{}"), f"{SETTINGS} is damaged"),
    (text(SETTINGS, "nothing"), SETTINGS),
    (text("manifest.json", "{}"), "manifest.json"),
    (_manifest_then_other_weights, f"{WEIGHTS}"),
    (_manifest_then_another_tokenizer, "holds tokenizer.json, which its manifest.json does not know"),
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_damage_is_one_line(run_cli: RunCli, adapter: Path, tmp_path: Path, number: int) -> None:
    damage, expected = DAMAGES[number]
    damage(adapter)
    texts = tmp_path / "texts.txt"
    texts.write_text("profit rose\n", encoding="utf-8")
    assert expected in run_cli("predict", adapter, texts).error()


def test_undamaged_it_would_be_loaded(run_cli: RunCli, adapter: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("profit rose\n", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match="a base was loaded"):
        run_cli("predict", adapter, texts)


@pytest.mark.parametrize("command", [["predict"], ["ranks"], ["push", "owner/name", "--dry-run"]])
def test_a_stopped_run_is_told_from_no_adapter(run_cli: RunCli, tmp_path: Path, command: list[str]) -> None:
    run = tmp_path / "stopped"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.yaml").touch()
    told = f"{run} is a run without a finished adapter; continue it with: spectune train {run / 'run.yaml'} --resume"
    assert run_cli(command[0], run, *command[1:]).error() == told


def test_scores_that_are_no_numbers_are_json(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, run_cli: RunCli
) -> None:
    adapter = adapter_of_peft(tmp_path, tiny_tokenizer, pruned=False)
    weights = load_file(adapter / WEIGHTS)
    save_file({name: 1e18 * tensor for name, tensor in weights.items()}, adapter / WEIGHTS, metadata={"format": "pt"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "profit rose", "target": "positive"}\n', encoding="utf-8")
    finished = run_cli("evaluate", adapter, "--data", rows, "--json")
    assert finished.status == 0, finished.err
    loss = json.loads(finished.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["metrics"][
        "eval_loss"
    ]
    assert loss["value"] is None
