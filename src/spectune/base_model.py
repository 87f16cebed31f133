"""Where the base model lies, and its configuration: all that can be said of a model without its weights.

`locate_model` finds a mistake in the name before torch is imported; `read_config` and `skeleton` follow it.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectune.config import ModelConfig
from spectune.errors import ModelError, first_line
from spectune.hub import LOG_IN, hub_trouble
from spectune.teacher_forcing import decoder_inputs

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

STARTER = "starter"
_CONFIG = "config.json"
_HUB_ID = re.compile(r"^(?:[\w.\-]+/)?[\w.\-]+$")
_TIMEOUT_S = 15


def locate_model(model: ModelConfig) -> str:
    """The directory or hub id that transformers loads the base from.

    Raises `ModelError` for a directory that holds no model, and for a hub id that is unknown, private or out of reach.
    """
    name = model.model_name_or_path
    if name == STARTER:
        from spectune.starter.bundle import model_directory

        return _checked_directory(model_directory(), "the bundled model is missing from this installation")
    path = Path(name).expanduser()
    if path.is_dir():
        if model.revision is not None:
            raise ModelError(
                f"model.revision {model.revision} goes with a hub id, and {name} is a directory; leave it out"
            )
        return _checked_directory(path, f"{name} is not a model's directory: it holds no {_CONFIG}")
    if path.exists():
        raise ModelError(f"{name} is a file; model.model_name_or_path names a directory, a hub id, or {STARTER}")
    if not _HUB_ID.match(name) or name.startswith("."):
        raise ModelError(f"there is no directory {name}{_neighbours(path)}")
    if difflib.get_close_matches(name, [STARTER], cutoff=0.8):
        raise ModelError(f"there is no model {name}; did you mean {STARTER}?")
    _check_hub(name, model.revision)
    return name


def read_config(model: ModelConfig) -> PretrainedConfig:
    """The base model's configuration. Raises `ModelError` where it has none that an encoder-decoder model can use."""
    location = locate_model(model)
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            location, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{model.model_name_or_path}: {_reason(error)}") from None
    if not getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{model.model_name_or_path} ({config.model_type}) is no encoder-decoder model of texts; "
            f"use one of the BART, T5, Pegasus, Marian … families"
        )
    return config


def skeleton(model: ModelConfig) -> PreTrainedModel:
    """The model as its configuration makes it, on the meta device: every module, no weights."""
    config = read_config(model)
    import torch
    from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM

    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and not getattr(config, "auto_map", None):
        raise ModelError(
            f"{model.model_name_or_path} ({config.model_type}) does not go from text to text: transformers' "
            "AutoModelForSeq2SeqLM has no such type; use one of the BART, T5, Pegasus, Marian … families"
        )
    try:
        with torch.device("meta"):
            made: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{model.model_name_or_path}: {_reason(error)}") from None
    made.tie_weights()  # the meta device makes tied weights twice
    # refuses what could be loaded and not be trained; mBART's rule needs a token that is no padding, whichever that is
    decoder_inputs(made, torch.tensor([[0, 1]]))
    return made


def load_tokenizer(location: str, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The base's tokenizer.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            location, revision=config.revision or "main", trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(f"{config.model_name_or_path}: its tokenizer cannot be loaded: {first_line(error)}") from None
    # without files transformers makes an empty one, of special tokens alone
    if len(tokenizer) <= len({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}):
        raise ModelError(
            f"{config.model_name_or_path} has no tokenizer's files; save the tokenizer beside the model "
            "(tokenizer.save_pretrained)"
        )
    return tokenizer


def _checked_directory(path: Path, otherwise: str) -> str:
    config = path / _CONFIG
    if not config.is_file():
        adapter = (path / "adapter_config.json").is_file()
        raise ModelError(otherwise + ("; it holds an adapter, not a base model" if adapter else ""))
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError(f"{config} is not JSON") from None
    if not isinstance(content, dict) or "model_type" not in content:
        raise ModelError(f"{config} names no model_type; it is not a configuration of transformers")
    return str(path)


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the directory {path.parent} does not exist"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _check_hub(name: str, revision: str | None) -> None:
    """One question to the hub, unless the configuration is in its cache."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, _CONFIG, revision=revision), str):
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_S)
    except Exception as error:  # the hub's library passes on whatever its HTTP library raises
        raise ModelError(f"there is no directory {name}, and {hub_trouble(error, 'model')}") from None


def _reason(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("gated" in line or "private" in line or "401" in line or "403" in line for line in lines):
        return f"access was refused; {LOG_IN}"
    if any("trust_remote_code" in line for line in lines):
        return "it brings code of its own; set model.trust_remote_code: true if you trust it"
    return first_line(error)
