"""Hub ids that give nothing: one line, whatever the hub's library raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils._paths import filter_repo_objects
from peft import AdaLoraConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from spectune.base_model import locate_model
from spectune.config import ModelConfig
from spectune.errors import AdapterError, ModelError
from spectune.exporting import CARRIED
from spectune.formats.adapter_files import WANTED, locate_adapter
from spectune.formats.adapter_settings import AdapterSettings


def _http(kind: type[Exception], message: str) -> Exception:
    """An error as the library raises it, without a response to build."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


TROUBLES: list[tuple[Exception, str]] = [
    (
        _http(errors.RepositoryNotFoundError, "401 Client Error."),
        "of that name on the hub; a private or gated one needs",
    ),
    (_http(errors.GatedRepoError, "403 Client Error."), "run `hf auth login`, or set HF_TOKEN"),
    (errors.OfflineModeIsEnabled("offline"), "out of reach (no network, or HF_HUB_OFFLINE is set)"),
    (errors.LocalEntryNotFoundError("not there"), "out of reach (no network, or HF_HUB_OFFLINE is set)"),
    (ConnectionError("\nname resolution failed\nmore"), "cannot be asked for it (name resolution failed); check the"),
]


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize(("error", "line"), TROUBLES, ids=lambda value: type(value).__name__)
def test_a_model_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", raising(error))
    with pytest.raises(ModelError) as caught:
        locate_model(ModelConfig(model_name_or_path="owner/secret"))
    assert str(caught.value).startswith("there is no directory owner/secret, and ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_revision_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    error = _http(errors.RevisionNotFoundError, "404")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", raising(error))
    with pytest.raises(ModelError, match="the hub knows the model, but not this revision"):
        locate_model(ModelConfig(model_name_or_path="owner/open", revision="v9"))


@pytest.mark.parametrize(("error", "line"), TROUBLES, ids=lambda value: type(value).__name__)
def test_an_adapter_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(AdapterError) as caught:
        locate_adapter("owner/secret")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_the_hub_brings_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = AdaLoraConfig(task_type="SEQ_2_SEQ_LM", base_model_name_or_path="base", target_modules=["q"], total_step=9)
    config.save_pretrained(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "spectune.json").write_text(
        '{"version": 1, "task": "classification", "data": {"train_file": "t.csv", "source_prefix": "p: "},'
        ' "labels": {"version": 1, "words": {"0": "bad", "1": "good"}}, "evaluation": {"num_beams": 3},'
        ' "dtype": "bfloat16", "base_name": "starter"}',
        encoding="utf-8",
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    settings = AdapterSettings.read(locate_adapter("owner/mine"))
    assert (settings.task, settings.dtype, settings.base_name) == ("classification", "bfloat16", "starter")
    assert (settings.data.source_prefix, settings.evaluation.num_beams) == ("p: ", 3)
    assert settings.verbalizer is not None
    assert settings.verbalizer.words == ("bad", "good")


@pytest.mark.parametrize("content", ['{"version": 2}', '{"data": 3}', '{"version": 1, "data": {"x": 1}}', "[1]", "{"])
def test_settings_of_another_kind_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "spectune.json").write_text(content, encoding="utf-8")
    with pytest.raises(AdapterError, match=r"spectune\.json is damaged"):
        AdapterSettings.read(tmp_path)


@pytest.mark.parametrize("kind", sorted(set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)))
def test_every_file_of_a_tokenizer_is_fetched_and_carried(kind: str) -> None:
    """Of every type of text-to-text model that transformers knows, by what its tokenizers say they read."""
    found: set[str] = set()
    for name in {TOKENIZER_MAPPING_NAMES.get(kind), tokenizer_class_from_name(TOKENIZER_MAPPING_NAMES.get(kind) or "")}:
        cls = tokenizer_class_from_name(name) if isinstance(name, str) else name
        found |= set(getattr(cls, "vocab_files_names", {}).values())
    names = {*found, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
    assert set(filter_repo_objects(names, allow_patterns=WANTED)) == names
    assert {name for name in names if CARRIED.fullmatch(name)} == names
    assert not list(filter_repo_objects(["adapter_model.bin", "modeling.py", "optimizer.pt"], allow_patterns=WANTED))
