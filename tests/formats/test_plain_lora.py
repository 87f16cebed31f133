"""The plain LoRA form of an AdaLoRA adapter: the same logits under stock PEFT, nothing of it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tests.adapter.tiny import FREEZE, LAST, OPTIMIZERS, adapted, base, batch, hosted, load_plain, logits, steps_of_peft
from torch import Tensor, nn

from spectune.errors import AdapterError
from spectune.formats.adapter_config import scale
from spectune.formats.adapter_files import WEIGHTS, read_adapter_config
from spectune.formats.plain_lora import plain_lora, write_plain_lora

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")  # what PEFT says of rank 0


def exported(model: Any, place: Path) -> Path:
    """`model` saved by PEFT, and what becomes of that."""
    model.save_pretrained(place / "adalora")
    (place / "lora").mkdir()
    write_plain_lora(place / "adalora", place / "lora")
    return place / "lora"


def assert_close(found: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    """Within `bound` of the largest logit."""
    torch.testing.assert_close(found, expected, rtol=0, atol=bound * float(expected.abs().max()))


@pytest.mark.parametrize("stage", ["decrease", "compacted"])
@pytest.mark.parametrize("family", ["gated_t5", "bart"])
def test_the_live_model_and_both_forms_have_the_same_logits(family: str, stage: str, tmp_path: Path) -> None:
    model, engine = hosted(family, spread=0.3)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, (9 if stage == "decrease" else FREEZE + 1) + 1))
    if stage == "compacted":
        assert engine.compact(optimizer) > 0
    expected = logits(model.eval())
    assert (expected - logits(base(family).eval())).abs().max() > 1e-2, "the adapter does something"
    lora = exported(model, tmp_path)
    loaded = load_plain(family, lora)
    assert isinstance(loaded.peft_config["default"], LoraConfig)
    assert_close(logits(loaded), expected)
    assert_close(logits(load_plain(family, tmp_path / "adalora")), expected)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_base_in_bfloat16(family: str, tmp_path: Path) -> None:
    """Equal within what bfloat16 itself does: PEFT rounds a pruned AdaLoRA adapter to it, and a LoRA adapter not."""
    model = adapted(base(family, dtype=torch.bfloat16), spread=0.3)
    expected = logits(model.eval()).float()
    found = logits(load_plain(family, exported(model, tmp_path), dtype=torch.bfloat16)).float()
    assert_close(found, expected, bound=2e-2)
    exact = logits(load_plain(family, tmp_path / "lora"))  # the base's numbers are rounded, the adapter's are not
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max()


@pytest.mark.parametrize("steps", [3, LAST - 1], ids=["unpruned", "pruned"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_adapter_of_plain_peft(family: str, steps: int, tmp_path: Path) -> None:
    made = adapted(base(family), spread=0.3)
    trainable = [parameter for parameter in made.parameters() if parameter.requires_grad]
    steps_of_peft(made, OPTIMIZERS["adamw"](trainable), range(1, steps + 1))
    lora = exported(made, tmp_path)
    assert_close(logits(load_plain(family, lora)), logits(load_plain(family, tmp_path / "adalora")))


def test_matrices_of_rank_0_are_left_out_and_the_scale_is_1(tmp_path: Path) -> None:
    made = adapted(base("t5"), spread=0.3)
    gone = "decoder.block.0.layer.1.EncDecAttention.k"
    names = sorted(made.peft_config["default"].target_modules)
    made.peft_config["default"].rank_pattern = {
        f"{name}.lora_E.default": [name != gone and slot <= number % 4 for slot in range(4)]
        for number, name in enumerate(names)
    }
    lora = exported(made, tmp_path)
    config = read_adapter_config(lora)
    ranks = {name: 1 + number % 4 for number, name in enumerate(names) if name != gone}
    assert config["rank_pattern"] == config["alpha_pattern"] == ranks
    assert config["r"] == config["lora_alpha"] == 4
    assert config["target_modules"] == sorted(ranks)
    file = load_file(lora / WEIGHTS)
    assert not any(gone in name for name in file)
    assert {name: len(file[f"base_model.model.{name}.lora_A.weight"]) for name in ranks} == ranks
    loaded = load_plain("t5", lora)
    scales = [module.scaling["default"] for module in loaded.modules() if isinstance(module, LoraLayer)]
    assert scales == [1.0] * len(ranks)
    assert_close(logits(loaded), logits(load_plain("t5", tmp_path / "adalora")))


def test_the_factors_are_those_of_the_formula(tmp_path: Path) -> None:
    made = adapted(base("t5"), spread=0.3)
    lora = exported(made, tmp_path)
    adalora, found = load_file(tmp_path / "adalora" / WEIGHTS), load_file(lora / WEIGHTS)
    s = scale(read_adapter_config(tmp_path / "adalora"))
    assert s == pytest.approx(16 / 4, rel=1e-4)
    for key in [key for key in adalora if key.endswith(".lora_A")]:
        name = key.removesuffix(".lora_A")
        assert torch.equal(found[f"{name}.lora_B.weight"], adalora[f"{name}.lora_B"])
        torch.testing.assert_close(found[f"{name}.lora_A.weight"], s * adalora[f"{name}.lora_E"] * adalora[key])


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("bart", {"bias": "all"}),
    ("bart", {"bias": "lora_only"}),
    ("t5", {"trainable_token_indices": [5, 7]}),
    ("t5", {"modules_to_save": ["lm_head"]}),
    ("bart", {"modules_to_save": ["final_layer_norm"]}),
]


@pytest.mark.filterwarnings("ignore:.*(tied|bias).*:UserWarning")
@pytest.mark.parametrize(("family", "changes"), OTHERS, ids=str)
def test_what_is_trained_beside_the_matrices_comes_along(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    made = adapted(base(family), spread=0.3, **changes)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.rand_like(parameter))
    names = sorted(made.peft_config["default"].target_modules)
    made.peft_config["default"].rank_pattern = {f"{name}.lora_E": [name != names[0]] * 4 for name in names}
    lora = exported(made, tmp_path)
    loaded = load_plain(family, lora)
    expected = logits(load_plain(family, tmp_path / "adalora"))
    assert_close(logits(loaded), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert_close(logits(load_plain(family, tmp_path / "again")), expected)


def test_names_that_end_like_others(tmp_path: Path) -> None:
    """PEFT compares ends of names: neither does a rank go to another matrix, nor is one of rank 0 adapted again."""
    tensors = {}
    for name, rank in {"block.q": 1, "encoder.block.q": 2, "decoder.block.q": 0}.items():
        for kind, shape in {"A": (rank, 3), "B": (2, rank), "E": (rank, 1)}.items():
            tensors[f"base_model.model.{name}.lora_{kind}"] = torch.ones(shape)
    config, _ = plain_lora({"init_r": 2, "lora_alpha": 1, "task_type": "SEQ_2_SEQ_LM"}, tensors)
    toy = nn.ModuleDict(
        {
            "block": nn.ModuleDict({"q": nn.Linear(3, 2)}),
            "encoder": nn.ModuleDict({"block": nn.ModuleDict({"q": nn.Linear(3, 2)})}),
            "decoder": nn.ModuleDict({"block": nn.ModuleDict({"q": nn.Linear(3, 2)})}),
        }
    )
    inject_adapter_in_model(config, toy)
    found = {name: module.r["default"] for name, module in toy.named_modules() if isinstance(module, LoraLayer)}
    assert found == {"block.q": 1, "encoder.block.q": 2}


def test_triplets_of_value_0_are_left_out_and_nothing_but_them_is_refused(tmp_path: Path) -> None:
    made = adapted(base("t5"))  # every λ is 0
    with pytest.raises(AdapterError, match="every λ is 0"):
        exported(made, tmp_path)
    name = sorted(made.peft_config["default"].target_modules)[0]
    with torch.no_grad():
        made.get_submodule(f"base_model.model.{name}").lora_E["default"][2] = 1.0
    made.save_pretrained(tmp_path / "adalora")
    write_plain_lora(tmp_path / "adalora", tmp_path / "lora")
    assert read_adapter_config(tmp_path / "lora")["rank_pattern"] == {name: 1}


def test_stock_peft_trains_it_on(tmp_path: Path) -> None:
    model, engine = hosted("t5", spread=0.3)
    steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, FREEZE + 1))
    loaded = load_plain("t5", exported(model, tmp_path), is_trainable=True)
    optimizer = torch.optim.AdamW([p for p in loaded.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = loaded.train()(**batch(0)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    expected = logits(loaded.eval())
    loaded.save_pretrained(tmp_path / "trained")
    assert_close(logits(load_plain("t5", tmp_path / "trained")), expected)


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    made: PeftModel = adapted(base("t5"), spread=0.3)
    with torch.no_grad():
        next(p for name, p in made.named_parameters() if "lora_A" in name).fill_(float("inf"))
    with pytest.raises(AdapterError, match="not finite"):
        exported(made, tmp_path)
