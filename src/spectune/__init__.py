"""spectune: adaptive-rank (AdaLoRA) fine-tuning of encoder-decoder models.

Importing the package is cheap: each public name is fetched when it is first used, so that the command line can refuse
a mistake before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spectune.errors import UserError

if TYPE_CHECKING:
    from spectune.adapter.engine import AdaLoraEngine
    from spectune.adapter.peft_host import attach, detach
    from spectune.adapter.targets import default_targets
    from spectune.api import evaluate, load, predict, train
    from spectune.integrations.trainer_callback import AdaLoraCallback

__version__ = "0.1.0"

__all__ = [
    "AdaLoraCallback",
    "AdaLoraEngine",
    "UserError",
    "__version__",
    "attach",
    "default_targets",
    "detach",
    "evaluate",
    "load",
    "predict",
    "train",
]

_HOME = {
    "AdaLoraCallback": "spectune.integrations.trainer_callback",
    "AdaLoraEngine": "spectune.adapter.engine",
    "attach": "spectune.adapter.peft_host",
    "detach": "spectune.adapter.peft_host",
    "default_targets": "spectune.adapter.targets",
    "evaluate": "spectune.api",
    "load": "spectune.api",
    "predict": "spectune.api",
    "train": "spectune.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spectune' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
