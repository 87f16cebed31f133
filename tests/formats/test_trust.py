"""Adapters and bases from strangers: no code of theirs runs, nothing is unpickled, nothing is written."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from peft import AdaLoraConfig, get_peft_model
from tests.training.conftest import tiny_model
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

import spectune
from spectune.errors import AdapterError
from spectune.formats.adapter_files import CONFIG, SETTINGS, WEIGHTS

SOURCE = Path(__file__).parents[2] / "src" / "spectune"
UNPICKLING = {("torch", "load"), ("torch", "save"), ("numpy", "load"), ("np", "load")}


class Bomb:
    """Its unpickling would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def adapter(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """An adapter that plain PEFT made, on a base beside it."""
    base = tmp_path / "base"
    tiny_model("t5", len(tiny_tokenizer)).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    made_by_peft(base).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def made_by_peft(base: Path) -> Any:
    config = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"], init_r=4, target_r=2, tinit=1, tfinal=1, total_step=9
    )
    return get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(base), config)


def _modules_called(tree: ast.AST) -> set[tuple[str, str]]:
    return {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def test_nothing_of_ours_pickles() -> None:
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}, path
        assert not _modules_called(tree) & UNPICKLING, path


def test_weights_as_a_pickle_are_refused_unread(adapter: Path, tmp_path: Path) -> None:
    (adapter / WEIGHTS).unlink()
    mark = tmp_path / "exploded"
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    with pytest.raises(AdapterError, match=r"adapter_model.bin is a pickle, which can run code; ask for"):
        spectune.load(adapter)
    assert not mark.exists()


def test_a_pickle_beside_the_weights_is_not_opened(adapter: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    for name in ("adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"):
        (adapter / name).write_bytes(pickle.dumps(Bomb(mark)))
    assert len(spectune.predict(adapter, ["profit rose"])) == 1
    assert not mark.exists()


def test_code_of_the_adapters_tokenizer_and_base_does_not_run(adapter: Path, tmp_path: Path) -> None:
    """Both say that they bring code; the adapter's own settings even say that it may be trusted."""
    mark = tmp_path / "exploded"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Own: ...\n"
    base = adapter.parent / "base"
    for place in (adapter, base):
        (place / "own.py").write_text(code, encoding="utf-8")
    config = json.loads((base / "config.json").read_text("utf-8"))
    own = {"AutoConfig": "own.Own", "AutoModelForSeq2SeqLM": "own.Own"}
    (base / "config.json").write_text(json.dumps(config | {"auto_map": own, "model_type": "own"}), encoding="utf-8")
    (adapter / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}), encoding="utf-8"
    )
    with pytest.raises(AdapterError, match="brings code of its own; load it with trust_remote_code if you trust that"):
        spectune.load(adapter)
    assert not mark.exists()


def test_settings_cannot_ask_for_trust(adapter: Path) -> None:
    settings = {"version": 1, "task": "text2text", "dtype": "float32", "trust_remote_code": True}
    (adapter / SETTINGS).write_text(json.dumps(settings | {"data": {"train_file": "-"}, "evaluation": {}}), "utf-8")
    assert not hasattr(spectune.load(adapter).settings, "trust_remote_code")
    settings["model"] = {"trust_remote_code": True}
    (adapter / SETTINGS).write_text(json.dumps(settings | {"data": {"trust_remote_code": True}}), "utf-8")
    with pytest.raises(AdapterError, match="is damaged"):
        spectune.load(adapter)


def test_loading_writes_nothing_into_the_adapter(adapter: Path) -> None:
    before = {path: path.read_bytes() for path in adapter.rglob("*") if path.is_file()}
    spectune.predict(adapter, ["sales fell"])
    assert {path: path.read_bytes() for path in adapter.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["../../outside", "/etc", "https://host.invalid/x", "..", "a/b/c"])
def test_a_base_that_is_no_name_of_a_base(adapter: Path, name: str) -> None:
    config = json.loads((adapter / CONFIG).read_text("utf-8"))
    (adapter / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": name}), encoding="utf-8")
    with pytest.raises(AdapterError) as refused:
        spectune.load(adapter)
    assert "\n" not in str(refused.value)
