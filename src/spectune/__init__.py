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
    from spectune.api import classify, evaluate, load, predict, train
    from spectune.exporting import export, ranks
    from spectune.integrations.trainer_callback import AdaLoraCallback
    from spectune.sweeping import export_sweep

__version__ = "0.1.0"

__all__ = [
    "AdaLoraCallback",
    "AdaLoraEngine",
    "UserError",
    "__version__",
    "attach",
    "classify",
    "default_targets",
    "detach",
    "evaluate",
    "export",
    "export_sweep",
    "load",
    "predict",
    "ranks",
    "train",
]

_HOME = {
    "AdaLoraCallback": "spectune.integrations.trainer_callback",
    "AdaLoraEngine": "spectune.adapter.engine",
    "attach": "spectune.adapter.peft_host",
    "detach": "spectune.adapter.peft_host",
    "classify": "spectune.api",
    "default_targets": "spectune.adapter.targets",
    "evaluate": "spectune.api",
    "export": "spectune.exporting",
    "export_sweep": "spectune.sweeping",
    "load": "spectune.api",
    "predict": "spectune.api",
    "ranks": "spectune.exporting",
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
