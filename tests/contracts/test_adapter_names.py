"""Sixty adapter names on three architectures: each works from creation to plain PEFT's reload, or is refused at once.

PEFT's own AdaLoRA edits parameter names as text and fails after training has begun for most of these (`en` turns
`model.encoder` into `modelcoder`). Here every name meets one architecture and the worst meet all three; the long form
(`tests/torture`) has every pair.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.adapter.tiny import adapted, base
from tests.torture.names import ACCEPTED, FAMILIES, REFUSED, check_name
from torch import nn

from spectune.config import TAKEN_NAMES, AdapterConfig

WORST = ("en", "e", "layer", "lora_A", "0", "encoder")
PAIRS = {(name, FAMILIES[number % 3]) for number, name in enumerate(ACCEPTED)}
PAIRS |= {(name, family) for name in WORST for family in FAMILIES}


def test_there_are_sixty() -> None:
    assert len({*ACCEPTED, *REFUSED}) == 60


@pytest.mark.parametrize(("name", "family"), sorted(PAIRS))
def test_works_to_the_end(name: str, family: str, tmp_path: Path) -> None:
    check_name(name, family, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_creation(name: str) -> None:
    with pytest.raises(ValidationError, match="adapter_name"):
        AdapterConfig(adapter_name=name)


def test_the_taken_names_are_those_of_torch() -> None:
    """Every public attribute of the containers that an adapter's name becomes a key of; libraries may add others."""
    for kind in (nn.ModuleDict, nn.ParameterDict):
        public = {name for name in dir(kind()) if not name.startswith("_")}
        of_torch = {name for name in public if getattr(getattr(kind, name, kind), "__module__", "torch")[:5] == "torch"}
        assert of_torch <= TAKEN_NAMES


def test_nothing_is_refused_that_would_work() -> None:
    for name in sorted(TAKEN_NAMES):
        if name in dir(nn.ModuleDict):
            with pytest.raises(KeyError):
                nn.ModuleDict({name: nn.Identity()})
        else:
            assert name in dir(nn.ParameterDict()) or name == "training", name
    with pytest.raises(KeyError):
        adapted(base("t5"), "train")
