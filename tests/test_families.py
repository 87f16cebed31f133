"""What single families ask for, found on the skeleton before weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapter.test_targets import CONFIGS, model_of
from tests.conftest import SENTENCES
from tests.families import write_base
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BigBirdPegasusConfig,
    FSMTConfig,
    LEDConfig,
    LongT5Config,
    PegasusXConfig,
    T5Config,
)

import spectune
from spectune.config import RunConfig
from spectune.data.collation import collate
from spectune.data.tokenization import check_lengths
from spectune.errors import ConfigError, ModelError
from spectune.evaluation.decoding import padding_id
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config, resolve_settings
from spectune.evaluation.loss import evaluation_loss
from spectune.families import Vocabulary, attention_block, family_notes, vocabulary_of
from spectune.planning import plan_run


def config(**sections: dict[str, Any]) -> RunConfig:
    plain = {"model": {"model_name_or_path": "starter"}, "data": {"train_file": "starter"}}
    return RunConfig(**{name: {**plain.get(name, {}), **sections.get(name, {})} for name in {*plain, *sections}})


@pytest.mark.parametrize(
    ("model", "block"),
    [
        (LEDConfig(attention_window=[16, 64]), 64),
        (LEDConfig(attention_window=32), 32),
        (PegasusXConfig(block_size=64), 64),
        (LongT5Config(local_radius=127), 1),
        (BigBirdPegasusConfig(block_size=64), 1),
        (BartConfig(), 1),
        (T5Config(), 1),
    ],
)
def test_length_of_the_attention_blocks(model: Any, block: int) -> None:
    assert attention_block(model) == block


def test_a_prefix_that_the_base_knows_is_named() -> None:
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(T5Config(num_layers=1))
    model.config.task_specific_params = {
        "summarization": {"prefix": "summarize: ", "num_beams": 4},
        "translation_en_to_de": {"prefix": "translate English to German: "},
        "translation_en_to_fr": {"prefix": "translate English to French: "},
    }
    (note,) = family_notes(config(data={"task": "summarization"}), model)
    assert note == "this t5 knows the task by the prefix 'summarize: '; give it as data.source_prefix"
    (note,) = family_notes(config(data={"task": "translation"}), model)
    assert "prefixes such as 'translate English to German: '" in note
    assert not family_notes(config(data={"task": "summarization", "source_prefix": "tl;dr: "}), model)
    assert not family_notes(config(data={"task": "classification"}), model)
    model.config.task_specific_params = None
    assert not family_notes(config(data={"task": "summarization"}), model)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_full_training_of_tied_matrices(family: str) -> None:
    model = model_of(family)
    (note,) = family_notes(config(adapter={"modules_to_save": ["lm_head"]}), model)
    assert note.startswith("modules_to_save lm_head is tied to ")
    assert "encoder.embed_tokens" in note
    with pytest.raises(ConfigError, match="modules_to_save shared: the base model never calls it"):
        family_notes(config(adapter={"modules_to_save": ["shared"]}), model)
    norm = "layer_norm" if family == "t5" else "final_layer_norm"
    assert not family_notes(config(adapter={"modules_to_save": [norm]}), model)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_reason_for_refusing_shared(family: str) -> None:
    """Training it would change nothing: what it gives is never asked for."""
    model = AutoModelForSeq2SeqLM.from_config(CONFIGS[family][0])
    called: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(input_ids=torch.ones(1, 3, dtype=torch.long), decoder_input_ids=torch.ones(1, 2, dtype=torch.long))
    assert any(name.endswith("encoder.embed_tokens") for name in called)
    assert not any(name.endswith("shared") for name in called)


def test_tokens_without_an_embedding_are_refused() -> None:
    Vocabulary(10, 8).check("train", [[1, 9], [3]], [[7], []])
    with pytest.raises(ModelError, match="token 10 in the train sources, and the base model has embeddings for 10 "):
        Vocabulary(10, 8).check("train", [[1, 10]], [[7]])
    with pytest.raises(ModelError, match="token 8 in the test targets, and the base model has embeddings for 8 "):
        Vocabulary(10, 8).check("test", [[1]], [[8]])
    with torch.device("meta"):
        fsmt = AutoModelForSeq2SeqLM.from_config(
            FSMTConfig(src_vocab_size=30, tgt_vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1)
        )
    assert vocabulary_of(fsmt) == Vocabulary(30, 20)


def test_outputs_end_where_the_positions_do() -> None:
    small = BartConfig(max_position_embeddings=24)
    lengths = {"max_source_length": 24, "max_target_length": 24}
    for option, most in (("max_new_tokens", 24), ("max_length", 25)):
        fitting = config(data=lengths, evaluation={option: most})
        assert check_lengths(fitting.data, small, evaluation=fitting.evaluation) == []
        longer = config(data=lengths, evaluation={option: most + 1})
        with pytest.raises(
            ConfigError, match=f"evaluation.{option} {most + 1} is more than the 24 positions .* {most}"
        ):
            check_lengths(longer.data, small, evaluation=longer.evaluation)
    evaluation = config().evaluation
    assert resolve_settings(evaluation, 24, 24).max_new_tokens == 24
    assert resolve_settings(evaluation, 20, 24).max_new_tokens == 22
    assert resolve_settings(evaluation, 24).max_new_tokens == 26


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("text,target\n" + "".join(f'"{one}",a b {n}\n' for n, one in enumerate(SENTENCES * 4)))
    return path


def run(base: Path, pairs: Path, output: Path, **sections: dict[str, Any]) -> Any:
    plain: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": str(base), "dtype": "float32"},
        "data": {"train_file": str(pairs), "max_source_length": 64, "max_target_length": 16},
        "adapter": {"init_r": 4, "target_r": 2},
        "train": {"output_dir": str(output), "max_steps": 6, "use_cpu": True},
        "evaluation": {"eval_strategy": "no", "eval_on_start": False},
    }
    return {name: {**section, **sections.get(name, {})} for name, section in plain.items()}


def test_refused_before_the_base_is_loaded(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer of another model, and languages nobody knows."""
    base = write_base("mbart50", tmp_path / "base", SENTENCES, vocab_size=100)
    monkeypatch.setattr("spectune.training.run.load_base", lambda *_: pytest.fail("weights were read"))
    languages = {"source_lang": "en_XX", "target_lang": "es_XX"}
    with pytest.raises(ModelError, match="has embeddings for 100 tokens only"):
        spectune.train(run(base, pairs, tmp_path / "run", data=languages))
    for wrong in ({"source_lang": "en_XX", "target_lang": "es"}, {}):
        made = run(base, pairs, tmp_path / "run", data=wrong)
        with pytest.raises(ConfigError) as planned:
            plan_run(RunConfig(**made))
        with pytest.raises(ConfigError) as trained:
            spectune.train(made)
        assert str(planned.value) == str(trained.value)


def test_no_checkpoints_where_transformers_has_none() -> None:
    wanted = config(train={"gradient_checkpointing": True})
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(FSMTConfig(encoder_layers=1, decoder_layers=1))
        assert family_notes(wanted, AutoModelForSeq2SeqLM.from_config(T5Config(num_layers=1))) == []
    with pytest.raises(ConfigError, match="gradient_checkpointing: transformers has none for FSMT"):
        family_notes(wanted, model)


def test_a_plan_tokenises_with_the_runs_languages(tmp_path: Path, pairs: Path) -> None:
    """M2M100's tokenizer takes no target before it knows its language."""
    base = write_base("m2m_100", tmp_path / "base", SENTENCES)
    languages = {"source_lang": "en", "target_lang": "es"}
    memory = plan_run(RunConfig(**run(base, pairs, tmp_path / "run", data=languages))).memory
    assert memory.from_rows
    assert memory.training > 0


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    """The end token fills up; the mask hides it, so losses and outputs are those with padding."""
    directory = write_base("bart", tmp_path, SENTENCES)
    base, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(SENTENCES)["input_ids"]
    found = []
    for padding in (1, None):
        tokenizer.pad_token_id = base.generation_config.pad_token_id = padding
        fill = padding_id(base, tokenizer)
        assert fill == (2 if padding is None else padding)
        batch = collate(ids, ids[::-1], pad_token_id=fill)
        settings = generation_config(base, GenerationSettings(max_new_tokens=8, batch_size=5))
        found.append((evaluation_loss(base, [batch]), generate_texts(base, tokenizer, ids, settings, batch_size=5)))
    assert found[0] == found[1]


def test_a_base_without_padding_is_refused(tmp_path: Path, pairs: Path) -> None:
    base = write_base("bart", tmp_path / "base", SENTENCES, pad_token_id=None)
    with pytest.raises(ModelError, match=r"config\.json has no pad_token_id; write it in"):
        spectune.train(run(base, pairs, tmp_path / "run"))
