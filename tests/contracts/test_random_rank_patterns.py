"""Twenty random rank patterns: live, loaded by plain PEFT, as LoRA and merged, a model says and writes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tests.adapter.tiny import options
from tests.forms import SOURCES, assert_close, logits
from tests.training.conftest import tiny_model
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

import spectune

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")
NAMES = ("default", "film-reviews", "Adapter_2", "7")
FAMILIES = ("t5", "bart")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Random bases on disk, by family."""
    place = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        tiny_model(family, len(tiny_tokenizer)).save_pretrained(place / family)
        tiny_tokenizer.save_pretrained(place / family)
    return {family: place / family for family in FAMILIES}


def pruned(base: Path, seed: int, name: str) -> tuple[Any, dict[str, int]]:
    """A live model whose matrices have gradients of very unequal size, after its last allocation; its ranks."""
    generator = torch.Generator().manual_seed(seed)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(base)
    target_r = 1 + seed % 3
    config = options(model, init_r=4, target_r=target_r, tinit=1, tfinal=1, deltaT=1, total_step=4)
    model = get_peft_model(model, config, adapter_name=name)
    engine = spectune.attach(model)
    sizes = torch.exp(2 * torch.randn(len(engine.store.matrices), generator=generator))
    with torch.no_grad():
        for bank in engine.store.banks:
            bank.rows.normal_(std=0.3, generator=generator)
    for step in (1, 2, 3):
        for bank in engine.store.banks:
            strength = sizes.repeat_interleave(4)[bank.triplets]
            gradient = torch.randn(bank.rows.shape, generator=generator)
            bank.rows.grad = gradient * strength.view(-1, *[1] * (gradient.dim() - 1))
        model.base_model.update_and_allocate(step)
    ranks = engine.ranks()
    assert sum(ranks.values()) == target_r * len(ranks)
    return model.eval(), ranks


def written(model: Any, tokenizer: Any) -> list[list[int]]:
    """Token ids of greedy decoding."""
    encoded = tokenizer(SOURCES, return_tensors="pt", padding=True)
    tokens: list[list[int]] = model.generate(**encoded, max_new_tokens=6, do_sample=False, num_beams=1).tolist()
    return tokens


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("family", FAMILIES)
def test_all_forms_agree(
    family: str, seed: int, bases: dict[str, Path], tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    name = NAMES[seed % len(NAMES)]
    live, ranks = pruned(bases[family], seed, name)
    assert 0 in ranks.values()
    assert len(set(ranks.values())) > 1
    live.save_pretrained(tmp_path / "saved")
    adapter = tmp_path / "saved" if name == "default" else tmp_path / "saved" / name
    for form in ("lora", "merged"):
        spectune.export(adapter, tmp_path / form, format=form)

    def fresh() -> Any:
        return AutoModelForSeq2SeqLM.from_pretrained(bases[family])

    expected, tokens = logits(live, tiny_tokenizer), written(live, tiny_tokenizer)
    assert (expected - logits(fresh(), tiny_tokenizer)).abs().max() > 1e-2, "the adapter does something"
    others = {
        "reloaded": PeftModel.from_pretrained(fresh(), adapter),
        "lora": PeftModel.from_pretrained(fresh(), tmp_path / "lora"),
        "merged": AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged"),
    }
    for other in others.values():
        assert_close(logits(other, tiny_tokenizer), expected)
        assert written(other, tiny_tokenizer) == tokens
