from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from spectune.data.examples import Example
from spectune.errors import AdapterError
from spectune.evaluation import reload, reload_child
from spectune.evaluation.decoding import batches_by_length
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config
from spectune.evaluation.reload import Conditions, ReloadProof, prove_reload

Adapt = Callable[[PreTrainedModel], PeftModel]
WORDS = ["profit", "sales", "loss", "demand", "outlook", "order", "board", "quarter", "euros", "change"]
SOURCES = [" ".join(WORDS[(start + step) % 10] for step in range(1 + start % 5)) for start in range(11)]

CONDITIONS = Conditions(batch_size=4, max_source_length=8, dtype="float32", device="cpu", threads=1)


@dataclass
class Saved:
    adapter: Path
    examples: list[Example]
    predictions: list[str]

    def prove(self, **changes: Any) -> ReloadProof:
        options: dict[str, Any] = {
            "examples": self.examples,
            "live_predictions": self.predictions,
            "conditions": CONDITIONS,
            "metric_names": ["exact_match", "rougeL", "eval_loss"],
        }
        return prove_reload(self.adapter, **options | changes)


@pytest.fixture
def saved(tmp_path: Path, tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, adapt: Adapt) -> Saved:
    """A PEFT adapter as a run writes it, and what its live model generates."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_t5.save_pretrained(base)
    tiny_t5.name_or_path = str(base)
    model = adapt(tiny_t5)
    config = generation_config(model, GenerationSettings(max_new_tokens=5))
    model.save_pretrained(str(adapter))
    tiny_tokenizer.save_pretrained(adapter)
    config.save_pretrained(adapter)
    ids = tiny_tokenizer(SOURCES, truncation=True, max_length=8)["input_ids"]
    predictions = generate_texts(model, tiny_tokenizer, ids, config, batch_size=4)
    examples = [
        Example(
            row=row + 1, source=source, target=predictions[row] if row % 2 else "nothing", label=None, references=()
        )
        for row, source in enumerate(SOURCES)
    ]
    return Saved(adapter, examples, predictions)


def test_the_reloaded_adapter_writes_the_same_texts(saved: Saved) -> None:
    assert len(set(saved.predictions)) > 3
    before = sorted((path.name, path.read_bytes()) for path in saved.adapter.iterdir())
    proof = saved.prove()
    assert proof.identical
    assert (proof.rows, proof.mismatches, proof.first_mismatch) == (11, 0, None)
    assert proof.live == proof.reloaded
    assert proof.live["exact_match"] == pytest.approx(5 / 11)
    assert "eval_loss" not in proof.live
    assert proof.seconds > 0
    assert sorted((path.name, path.read_bytes()) for path in saved.adapter.iterdir()) == before


def test_a_base_that_is_spread_over_devices_writes_the_same_texts(saved: Saved) -> None:
    """Of which there is one here."""
    assert saved.prove(conditions=replace(CONDITIONS, spread=True)).identical


def test_a_changed_adapter_is_found_out(saved: Saved) -> None:
    weights = saved.adapter / "adapter_model.safetensors"
    save_file({name: -3 * tensor for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    proof = saved.prove()
    assert not proof.identical
    assert 0 < proof.mismatches <= proof.rows
    assert proof.first_mismatch is not None
    assert proof.first_mismatch["live"] != proof.first_mismatch["reloaded"]
    assert proof.first_mismatch["text"] == SOURCES[proof.first_mismatch["row"] - 1]
    assert proof.live["exact_match"] > proof.reloaded["exact_match"]
    assert f"; row {proof.first_mismatch['row']} was '" in proof.difference()
    long = replace(proof, first_mismatch={"row": 3, "text": "t" * 2000, "live": "a" * 2000, "reloaded": "b" * 2000})
    assert len(long.difference()) < 300


def test_a_missing_base_ends_in_one_line(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved.adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}))
    request = tmp_path / "request.json"
    options = {"threads": 1, "float32_matmul_precision": "highest", "dtype": "float32", "trust_remote_code": False}
    options |= {"device": "cpu", "quantization": None, "spread": False}
    request.write_text(json.dumps(options | {"adapter": str(saved.adapter), "answer": str(tmp_path / "answer.json")}))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert reload_child.main(str(request)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "gone" in last
    assert "Error: " in last


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; print('Traceback …\\nOSError: base gone', file=sys.stderr); sys.exit(1)", "OSError: base gone"),
        ("import sys; sys.exit(7)", "the child ended with status 7"),
        ("pass", "the child ended with status 0"),
    ],
)
def test_a_failed_child_is_one_line(saved: Saved, monkeypatch: pytest.MonkeyPatch, program: str, reason: str) -> None:
    child = saved.adapter.parent / "child.py"
    child.write_text(program, encoding="utf-8")
    monkeypatch.setattr(reload, "_CHILD", child)
    with pytest.raises(AdapterError) as caught:
        saved.prove()
    assert str(caught.value) == f"the saved adapter {saved.adapter} does not load with plain PEFT: {reason}"


@pytest.mark.parametrize(("signum", "name"), [(15, "SIGTERM"), (9, "SIGKILL, as where memory is full")])
def test_a_child_that_is_killed_says_nothing_of_the_adapter(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, signum: int, name: str
) -> None:
    child = saved.adapter.parent / "child.py"
    child.write_text(f"import os; assert os.getsid(0) == os.getpid(); os.kill(os.getpid(), {signum})", encoding="utf-8")
    monkeypatch.setattr(reload, "_CHILD", child)
    with pytest.raises(AdapterError, match=f"reloads was broken off: {name} ended its process; the adapter is whole"):
        saved.prove()


def test_an_imported_spectune_fails_the_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"answer": str(tmp_path / "answer.json")}))
    monkeypatch.setattr(reload_child, "generate", lambda request: [])
    assert reload_child.main(str(request)) == 1  # this very process has imported spectune
    assert "the reload child imported spectune" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "answer.json").exists()


def test_errors_are_told_on_one_line() -> None:
    assert reload_child.summary_line(OSError("\n  no such model\nIf this is private, …")) == "OSError: no such model"
    assert reload_child.summary_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize("most", [5, 8, 9, 10])
def test_of_many_rows_the_most_are_compared(saved: Saved, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Eleven rows in batches of 4, 4 and 3: the child repeats whole batches, `most` of their rows are compared."""
    monkeypatch.setattr(reload, "MAX_ROWS", most)
    tokenizer = AutoTokenizer.from_pretrained(saved.adapter)
    lengths = [len(tokenizer(source, truncation=True, max_length=8)["input_ids"]) for source in SOURCES]
    batches = batches_by_length(lengths, 4)
    generated = reload._generated_rows(saved.adapter, saved.examples, CONDITIONS)
    whole = [set(batch) for batch in batches if set(batch) & set(generated)]
    assert generated == sorted(set().union(*whole))
    assert most <= len(generated) < most + 4

    def child(adapter: Path, request: dict[str, Any]) -> list[str]:
        assert request["texts"] == [SOURCES[row] for row in generated]
        return [saved.predictions[row] for row in generated]

    monkeypatch.setattr(reload, "_generate_in_child", child)
    proof = saved.prove()
    assert (proof.rows, proof.identical) == (most, True)


def test_all_rows_are_compared_when_they_are_few(saved: Saved) -> None:
    assert reload._generated_rows(saved.adapter, saved.examples, CONDITIONS) == list(range(11))


def test_rows_must_match(saved: Saved) -> None:
    with pytest.raises(ValueError, match="live predictions"):
        saved.prove(live_predictions=saved.predictions[:-1])
