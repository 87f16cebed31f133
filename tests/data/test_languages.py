"""Language codes, on real tokenizers of each multilingual family, learnt from a few sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SENTENCES
from tests.data.helpers import example, line_of
from tests.families import TOKENIZERS
from transformers import AutoTokenizer

from spectune.config import DataConfig
from spectune.data.languages import check_language_options, language_codes, set_languages, target_marks
from spectune.data.tokenization import tokenize_examples
from spectune.errors import ConfigError

SPANISH = ["Buenos días, ¿cómo está usted?", "Los beneficios subieron a cinco millones.", "No sé nada de eso."]
LANGUAGES = {
    "mbart": ("en_XX", "es_XX"),
    "mbart50": ("en_XX", "es_XX"),
    "nllb": ("eng_Latn", "spa_Latn"),
    "m2m_100": ("en", "es"),
    "seamless": ("eng", "spa"),
}
NAMED = [*LANGUAGES]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family in (*NAMED, "t5"):
        made[family] = tmp_path_factory.mktemp(family)
        TOKENIZERS[family](SENTENCES + SPANISH, made[family]).save_pretrained(made[family])
    return made


def data(source: str | None = None, target: str | None = None) -> DataConfig:
    return DataConfig(train_file="a.csv", source_lang=source, target_lang=target)


def marked(directory: Path, family: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    set_languages(tokenizer, data(*LANGUAGES[family]))
    return tokenizer


@pytest.mark.parametrize("family", NAMED)
def test_each_side_carries_its_code(family: str, directories: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = marked(directories[family], family)
    examples = [example(row, SENTENCES[row], text) for row, text in enumerate(SPANISH)]
    result = tokenize_examples(examples, tokenizer, max_source_length=100, max_target_length=100)
    cut = tokenize_examples(examples, tokenizer, max_source_length=100, max_target_length=6)
    codes, end = language_codes(tokenizer), tokenizer.eos_token_id
    source, target = (codes.get(code, codes.get(f"__{code}__")) for code in LANGUAGES[family])
    for ids, code in [
        *((row, source) for row in result.input_ids),
        *((row, target) for row in [*result.labels, *cut.labels]),
    ]:
        marks = [ids[-2], ids[-1]] if family == "mbart" else [ids[-1], ids[0]]
        assert marks == [end, code]
        assert sum(token in (source, target) for token in ids) == 1
    assert {len(row) for row in cut.labels} == {6}
    assert result.unfaithful_targets == 0  # a code is no text: it does not survive decoding
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(SENTENCES)["input_ids"] == result.input_ids[:3] + tokenizer(SENTENCES[3:])["input_ids"]
    assert target_marks(again)[1] == target


@pytest.mark.parametrize("family", NAMED)
def test_unknown_codes_are_refused_with_the_nearest(family: str, directories: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directories[family])
    source, target = LANGUAGES[family]
    for wrong, option in (((source, "spanish"), "target_lang spanish"), (("xx", target), "source_lang xx")):
        with pytest.raises(ConfigError) as error:
            set_languages(tokenizer, data(*wrong))
        assert f"data.{option} is no language of the base model's tokenizer; nearest: " in line_of(error)
    with pytest.raises(ConfigError, match="nearest: .*" + target):
        set_languages(tokenizer, data(source, target[:-1] + "?"))


@pytest.mark.parametrize("family", NAMED)
def test_languages_have_to_be_given(family: str, directories: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as early:
        check_language_options(data(), str(directories[family]))
    with pytest.raises(ConfigError) as late:
        set_languages(AutoTokenizer.from_pretrained(directories[family]), data())
    for error in (early, late):
        assert "is multilingual: give data.source_lang and data.target_lang" in line_of(error)
    check_language_options(data(*LANGUAGES[family]), str(directories[family]))
    marked(directories[family], family).save_pretrained(tmp_path)
    if family == "seamless":  # every published one is saved for English to French
        saved: Any = AutoTokenizer.from_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="is multilingual"):
            check_language_options(data(), str(tmp_path))
        with pytest.raises(ConfigError, match="is multilingual"):
            set_languages(saved, data())
        set_languages(saved, data(), required=False)
        return
    # a base that was saved for one direction has named them itself
    check_language_options(data(), str(tmp_path))
    set_languages(AutoTokenizer.from_pretrained(tmp_path), data())


def test_languages_for_a_tokenizer_without_any(directories: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as early:
        check_language_options(data("en_XX", "es_XX"), str(directories["t5"]))
    with pytest.raises(ConfigError) as late:
        set_languages(AutoTokenizer.from_pretrained(directories["t5"]), data("en_XX", "es_XX"))
    for error in (early, late):
        assert "has no languages: leave out data.source_lang" in line_of(error)
    check_language_options(data(), str(directories["t5"]))


def test_nothing_is_said_of_a_tokenizer_that_is_not_here(tmp_path: Path) -> None:
    check_language_options(data("en_XX", "es_XX"), str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Own", "auto_map": {"a": "b"}}))
    check_language_options(data("en_XX", "es_XX"), str(tmp_path))


def test_one_language_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="give both source_lang and target_lang"):
        DataConfig(train_file="a.csv", source_lang="en_XX")
