"""Every text-to-text type of transformers through everything, and the page that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from tests.architectures.builders import CONFIGS, REFUSED, build, type_of
from tests.architectures.table import PAGE, load, render
from tests.architectures.trial import OPTIONS, attached, examine, rows, window
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as MAPPING

import spectune
from spectune.adapter.roles import role_of
from spectune.adapter.targets import resolve_targets
from spectune.base_model import skeleton
from spectune.config import ModelConfig, TrainConfig
from spectune.errors import ConfigError, ModelError
from spectune.evaluation.bases import load_base
from spectune.evaluation.generation import generation_model
from spectune.evaluation.loss import evaluation_loss
from spectune.runfile import load_run_config
from spectune.teacher_forcing import decoder_inputs
from spectune.training.checkpoint import Trained, load_checkpoint, save_checkpoint
from spectune.training.device import choose_dtype, kind_of
from spectune.training.optimizer import make_optimizer
from spectune.training.step import training_step

COMMITTED = {row.name: row for row in load()}


def test_every_type_of_transformers_has_a_row_or_a_reason() -> None:
    assert {type_of(name) for name in CONFIGS} | set(REFUSED) == set(MAPPING)
    assert not {type_of(name) for name in CONFIGS} & set(REFUSED)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")  # in T5Gemma they never were
@pytest.mark.parametrize("name", CONFIGS)
def test_a_type_goes_through_everything(name: str, tmp_path: Path) -> None:
    row = examine(name, tmp_path)
    assert row.checks == dict.fromkeys(row.checks, True)
    assert row == COMMITTED[name], "python -m tests.architectures renews the results and the page"


def test_the_page_is_made_of_the_results() -> None:
    assert list(COMMITTED) == list(CONFIGS)
    assert PAGE.read_text(encoding="utf-8") == render(load())


def test_a_gated_t5_is_adapted_whole() -> None:
    base = build("t5 (v1.1)")
    adapted = set(spectune.default_targets(base))
    gated = {name for name, _ in base.named_modules() if name.rsplit(".", 1)[-1] in ("wi_0", "wi_1", "wo")}
    assert len(gated) == 3 * 4
    assert gated <= adapted
    assert COMMITTED["t5 (v1.1)"].peft_alone == 28
    assert len(adapted) == 36


@pytest.mark.parametrize("name", REFUSED)
def test_a_type_that_cannot_work_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    transformers.AutoConfig.for_model(name).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"\({name}\) is no encoder-decoder model of texts") as refusal:
        skeleton(ModelConfig(model_name_or_path=str(tmp_path)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["whisper", "vision-encoder-decoder", "pix2struct"])
def test_an_encoder_decoder_without_text_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_config_of(name)))
    with pytest.raises(ModelError, match=rf"\({name}\) .* AutoModelForSeq2SeqLM has no such type") as refusal:
        skeleton(ModelConfig(model_name_or_path=str(tmp_path)))
    assert "\n" not in str(refusal.value)


def _config_of(name: str) -> dict[str, Any]:
    if name == "vision-encoder-decoder":
        return {"model_type": name, "encoder": {"model_type": "vit"}, "decoder": {"model_type": "bert"}}
    return {"model_type": name, "is_encoder_decoder": True}


@pytest.mark.parametrize("name", ["encoder-decoder", "m2m_100"])
def test_a_base_without_a_start_token_is_refused(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]()
    config.decoder_start_token_id = None
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json has no decoder_start_token_id; write it in"):
        skeleton(ModelConfig(model_name_or_path=str(tmp_path)))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "fsmt"])
def test_the_decoder_reads_what_the_type_itself_would_give_it(name: str) -> None:
    model, batch = build(name), rows(1)
    labels = batch.pop("labels")
    with torch.inference_mode():
        own = model(**batch, labels=labels).logits
        ours = model(**batch, decoder_input_ids=decoder_inputs(model, labels)).logits
    asked = labels != -100
    torch.testing.assert_close(ours[asked], own[asked])


def test_targets_stay_as_they_are_where_a_type_writes_into_them() -> None:
    labels = torch.tensor([[5, 6, 1, -100]])
    assert decoder_inputs(build("fsmt"), labels).tolist() == [[1, 5, 6, 1]]
    assert labels.tolist() == [[5, 6, 1, -100]]


@pytest.mark.parametrize(
    ("target", "towers"),
    [
        ("auto", 0),
        ("attention", 0),
        (["q_proj", "fc1"], None),
        (["q_proj", "vision_tower.encoder.layers.0.mlp.fc1"], 1),
        (r".*\.q_proj", 0),
        (r".*(vision_tower|decoder)\..*\.q_proj", 1),
    ],
)
def test_a_vision_tower_is_adapted_where_it_is_named(target: Any, towers: int | None) -> None:
    model = build("t5gemma2")
    if towers is None:
        with pytest.raises(ConfigError, match="'fc1' matches no linear layer"):
            resolve_targets(model, target, None)
        return
    names = resolve_targets(model, target, None)
    assert sum(role_of(name).stack == "vision_tower" for name in names) == towers
    assert len(names) > towers


def test_of_a_whole_seamless_the_text_stacks_are_taken() -> None:
    config: Any = CONFIGS["seamless_m4t"]()
    for name in ("speech_encoder_layers", "t2u_encoder_layers", "t2u_decoder_layers", "num_adapter_layers"):
        setattr(config, name, 1)
    with torch.device("meta"):
        model = transformers.SeamlessM4TModel(config)
    names = spectune.default_targets(model)
    assert len(names) == 32
    assert {name.split(".")[0] for name in names} == {"text_encoder", "text_decoder"}


def test_matrices_that_share_a_weight_are_left_out() -> None:
    model = build("bart")
    first, second = model.model.decoder.layers
    first.fc1.weight = second.fc1.weight
    names = spectune.default_targets(model)
    assert len(names) == 30
    assert not [name for name in names if "decoder" in name and name.endswith("fc1")]


@pytest.mark.parametrize("name", ["switch_transformers", "nllb-moe"])
def test_experts_without_tokens_through_200_steps(name: str, tmp_path: Path) -> None:
    """Budget, finiteness and a resume in the middle, which is bit for bit although only one run evaluates there."""
    schedule = {"total_step": 200, "tinit": 20, "tfinal": 60, "deltaT": 5}

    def begin() -> tuple[Any, Trained]:
        base = build(name)
        model, engine = attached(base, spectune.default_targets(base), **schedule)
        return model, Trained(engine, make_optimizer(engine.parameters(), TrainConfig()))

    def go_on(model: Any, trained: Trained, first: int, last: int) -> list[float]:
        engine, losses = trained.engine, []
        for step in range(first, last + 1):
            result = training_step(
                model.train(),
                engine,
                trained.optimizer,
                window(2 * (step % 8) + 1),
                step=step,
                rate=1e-2,
                options=OPTIONS,
            )
            assert not bool(result.skipped)
            losses.append(float(result.loss))
            if engine.schedule.allocates(step):
                expected = engine.schedule.budget(step, engine.initial_budget, engine.target_budget)
                assert result.budget == expected == sum(engine.ranks().values())
            if step == engine.schedule.freeze_step:
                engine.compact(trained.optimizer)
        return losses

    torch.manual_seed(3)
    model, trained = begin()
    idle = _count_idle(trained.engine)
    losses = go_on(model, trained, 1, 100)
    save_checkpoint(tmp_path / "step-100", trained, {}, {"base": "abc"})
    evaluation_loss(model, [rows(100)])
    losses += go_on(model, trained, 101, 200)
    assert sum(trained.engine.ranks().values()) == trained.engine.target_budget == len(trained.engine.store.values.rows)
    assert sum(losses[-8:]) < sum(losses[:8])
    assert idle[0] > 100, "experts were without tokens, or layers were skipped, again and again"

    other, again = begin()
    load_checkpoint(tmp_path / "step-100", again)
    go_on(other, again, 101, 200)
    assert all(map(torch.equal, trained.engine.parameters(), again.engine.parameters()))
    assert trained.engine.ranks() == again.engine.ranks()


def _count_idle(engine: spectune.AdaLoraEngine) -> list[int]:
    """Matrices whose λ had no gradient, added up over the steps."""
    count, observe = [0], engine.observe

    def counting(skip: Any = None) -> None:
        grad = engine.store.values.rows.grad
        assert grad is not None
        count[0] += sum(not any(part) for part in engine.store.by_matrix(grad.tolist()))
        observe(skip)

    engine.observe = counting  # type: ignore[method-assign]
    return count


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "mvp (prompts)"])
def test_a_base_in_bfloat16_is_trained_after_an_evaluation(name: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), dtype=torch.bfloat16, device="cpu")
    model, engine = attached(base, spectune.default_targets(base))
    before = evaluation_loss(model, [rows(100), rows(101)])
    optimizer = make_optimizer(engine.parameters(), TrainConfig())
    for step in (1, 2):
        result = training_step(model.train(), engine, optimizer, window(step), step=step, rate=1e-2, options=OPTIONS)
        assert not bool(result.skipped)
    assert evaluation_loss(model, [rows(100), rows(101)]) != before


def test_the_prompts_of_mvp_are_multiplied_in_float32() -> None:
    kinds = {name: kind_of(CONFIGS[name]()) for name in ("mvp", "mvp (prompts)")}
    assert kinds["mvp"] == "mvp"
    auto, lower = (
        load_run_config(None, base={"model": {"model_name_or_path": "x", "dtype": dtype}, "data": {"train_file": "x"}})
        for dtype in ("auto", "bfloat16")
    )
    assert choose_dtype(auto, kinds["mvp (prompts)"], torch.device("cpu"))[0] == torch.float32
    with pytest.raises(ConfigError, match="mvp with use_prompt works in float32 alone; use auto or float32"):
        choose_dtype(lower, kinds["mvp (prompts)"], torch.device("cpu"))


@pytest.mark.parametrize("name", ["t5", "t5 (v1.1)"])
def test_a_wo_that_stays_in_float32(name: str, tmp_path: Path) -> None:
    """transformers keeps T5's `wo` in float32 where the rest is loaded in float16."""
    build(name).save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), dtype=torch.float16, device="cpu")
    precisions = {role.rsplit(".", 1)[-1]: m.weight.dtype for role, m in base.named_modules() if type(m) is nn.Linear}
    assert precisions["wo"] == torch.float32
    assert precisions["q"] == torch.float16
    model, engine = attached(base, spectune.default_targets(base))
    optimizer = make_optimizer(engine.parameters(), TrainConfig())
    for step in range(1, 9):
        result = training_step(model.train(), engine, optimizer, window(step), step=step, rate=1e-2, options=OPTIONS)
        assert not bool(result.skipped)
    assert sum(engine.ranks().values()) == engine.target_budget
    assert {rank for path, rank in engine.ranks().items() if path.endswith(".wo")} != {0}
    model.save_pretrained(tmp_path / "adapter")
    fresh = load_base(str(tmp_path / "base"), dtype=torch.float16, device="cpu")
    plain = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    batch = rows(100)
    inputs = {**batch, "decoder_input_ids": decoder_inputs(fresh, batch["labels"]), "labels": None}
    with torch.inference_mode(), generation_model(model):
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
