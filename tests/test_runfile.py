"""Run files and overrides: what is read, and the one line for whatever is wrong."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectune.config import RunConfig
from spectune.errors import ConfigError
from spectune.runfile import SECTIONS, dump_run_config, load_run_config
from spectune.yaml_text import read_yaml, write_yaml

MINIMAL = "model: {model_name_or_path: m}\ndata: {train_file: a.csv}\n"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def _load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_run_config(path, overrides)


def test_defaults_are_those_of_the_configuration(run_file: Path) -> None:
    config = load_run_config(run_file)
    assert config.train.learning_rate == 1e-3
    assert (config.adapter.resolved_init_r, config.adapter.resolved_lora_alpha) == (32, 64)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("train.learning_rate=5E-04", "train", "learning_rate", 5e-4),
        ("train.num_train_epochs=2", "train", "num_train_epochs", 2.0),
        ("train.seed=007", "train", "seed", 7),
        ("train.max_grad_norm=null", "train", "max_grad_norm", None),
        ("train.use_cpu=true", "train", "use_cpu", True),
        ("adapter.tinit=100", "adapter", "tinit", 100),
        ("adapter.tinit=.25", "adapter", "tinit", 0.25),
        ("adapter.target_modules=[q, v]", "adapter", "target_modules", ["q", "v"]),
        ("evaluation.eval_strategy=no", "evaluation", "eval_strategy", "no"),
        (
            "data.source_prefix=translate English to Spanish: ",
            "data",
            "source_prefix",
            "translate English to Spanish: ",
        ),
        ('data.source_prefix="sum: "', "data", "source_prefix", "sum: "),
        ("data.source_prefix=", "data", "source_prefix", ""),
        ("data.source_template=a: {a} b: {b}", "data", "source_template", "a: {a} b: {b}"),
        ("data.text_column=3", "data", "text_column", "3"),
        ("data.text_column=null", "data", "text_column", None),
        ("model.revision=1e5", "model", "revision", "1e5"),
        ("data.label_names={0: no, 1: yes}", "data", "label_names", {0: "no", 1: "yes"}),
        ("data.label_names=[no, yes]", "data", "label_names", ["no", "yes"]),
        ("data.train_file=a=b.csv", "data", "train_file", "a=b.csv"),
    ],
)
def test_overrides(run_file: Path, override: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(load_run_config(run_file, [override]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_the_same_values_in_a_file(tmp_path: Path) -> None:
    text = MINIMAL + "train: {learning_rate: 1e-3}\nevaluation: {eval_strategy: no}\n"
    config = _load(tmp_path, text)
    assert config.train.learning_rate == 1e-3
    assert config.evaluation.eval_strategy == "no"


def test_overrides_go_over_the_file_and_the_file_over_the_base(run_file: Path) -> None:
    base = {"train": {"seed": 1, "logging_steps": 3}, "data": {"train_file": Path("z.csv"), "text_column": "t"}}
    config = load_run_config(run_file, ["train.seed=2", "train.seed=3"], base)
    assert (config.train.seed, config.train.logging_steps) == (3, 3)
    assert (config.data.train_file, config.data.text_column) == ("a.csv", "t")


MISTAKES = [
    ("", "the run file is empty"),
    ("# only a comment\n", "the run file is empty"),
    ("just words\n", "a run file is a mapping with the sections model, data"),
    ("- model\n", "a run file is a mapping"),
    ("model: m\n", "section model must hold `key: value` lines, not 'm'"),
    ("model: [m]\n", "section model must hold"),
    ("data: {train_file: a.csv}\n", "model.model_name_or_path is missing"),
    ("model: {model_name_or_path: m}\n", "data: give either train_file or dataset_name"),
    ("model:\n", "model.model_name_or_path is missing"),
    ("model: {model_name_or_path: ''}\ndata: {train_file: a}\n", "'' is not a text that is not empty"),
    ("model: {\n", "line 2, column 1"),
    ("model:\n  a: b: c\n", "line 2, column 7: mapping values are not allowed here"),
    ("model:\n\tname: x\n", "line 2, column 1"),
    (MINIMAL + "data: {}\n", "line 3, column 1: the key 'data' is given twice"),
    (MINIMAL + "train:\n  seed: 1\n  seed: 2\n", "line 5, column 3: the key 'seed' is given twice"),
    (MINIMAL + "train: !!python/object:os.system {}\n", "line 3, column 8: could not determine a constructor"),
    (MINIMAL + "trian: {}\n", "trian is not a section; did you mean train?"),
    (MINIMAL + "learning_rate: 1\n", "learning_rate is not a section; did you mean train.learning_rate?"),
    (
        MINIMAL + "train: {lerning_rate: 1}\n",
        "train.lerning_rate is not a known key; did you mean train.learning_rate?",
    ),
    (
        MINIMAL + "adapter: {learning_rate: 1}\n",
        "adapter.learning_rate is not a known key; did you mean train.learning",
    ),
    (MINIMAL + "adapter: {r: 1}\n", "adapter.r is not a known key; did you mean adapter.init_r?"),
    (MINIMAL + "adapter: {total_step: 9}\n", "adapter.total_step is not a known key; "),
    (MINIMAL + "adapter: {xyzzy: 9}\n", "adapter.xyzzy is not a known key; known are init_r, target_r"),
    (MINIMAL + "adapter: {init_r: 2.5}\n", "adapter.init_r: 2.5 is not a whole number"),
    (MINIMAL + "adapter: {init_r: '12'}\n", "adapter.init_r: '12' is not a whole number"),
    (MINIMAL + "adapter: {init_r: true}\n", "adapter.init_r: True is not a whole number"),
    (MINIMAL + "adapter: {init_r: 0}\n", "adapter.init_r: 0 is not at least 1"),
    (MINIMAL + "adapter: {deltaT: often}\n", "adapter.deltaT: 'often' is not a whole number or 'auto'"),
    (MINIMAL + "adapter: {beta1: 1.0}\n", "adapter.beta1: 1.0 is not less than 1"),
    (MINIMAL + "adapter: {adapter_name: 'a b'}\n", "adapter.adapter_name: 'a b' is not made of letters"),
    (MINIMAL + "adapter: {init_r: 4, target_r: 8}\n", "adapter: init_r 4 is below target_r 8"),
    (MINIMAL + "train: {learning_rate: .nan}\n", "train.learning_rate: nan is not a finite number"),
    (MINIMAL + "train: {learning_rate: -1}\n", "train.learning_rate: -1 is not more than 0"),
    (MINIMAL + "train: {mixed_precision: fp8}\n", "'fp8' is not 'no' or 'bf16'"),
    (MINIMAL + "train: {use_cpu: 1}\n", "train.use_cpu: 1 is not true or false"),
    (MINIMAL + "evaluation: {eval_strategy: steps}\n", "evaluation: eval_strategy steps needs eval_steps"),
    ("model: {model_name_or_path: m}\ndata: {text_column: t}\n", "data: give either train_file or dataset_name"),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_one_line_that_names_the_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "run.yaml"))
    assert "pydantic" not in message


@pytest.mark.parametrize("override", ["seed", "seed=1", "train.=1", ".seed=1", "=1", "train.seed=[1", "train.seed"])
def test_what_is_no_override(run_file: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(run_file, [override])
    assert override in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.use_cpu: .*; train\.seed: .*; .*; and 1 more$"):
        _load(tmp_path, MINIMAL + "train: {seed: a, logging_steps: b, save_steps: c, use_cpu: d}\n")


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such run file|is a directory"):
        load_run_config(tmp_path / name)


def test_binary_is_no_run_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a UTF-8 text"):
        load_run_config(tmp_path / "run.yaml")


def test_a_resolved_run_file_reads_back(run_file: Path, tmp_path: Path) -> None:
    config = load_run_config(
        run_file, ["data.label_names={0: no, 1: '1e3'}", "data.source_prefix=a: #b", "train.seed=3"]
    )
    assert _load(tmp_path, dump_run_config(config)) == config


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", " \u2029 c"])
def test_line_breaks_of_unicode_survive(text: str) -> None:
    assert read_yaml(write_yaml({"source_prefix": text}), "x") == {"source_prefix": text}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))


@given(
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab1e.-: no"), inner), max_leaves=8)
)
def test_yaml_round_trip(value: Any) -> None:
    assert read_yaml(write_yaml(value), "x") == value


@given(
    st.dictionaries(
        st.sampled_from([*SECTIONS, "trian"]),
        SCALARS
        | st.dictionaries(
            st.sampled_from(["seed", "init_r", "train_file", "model_name_or_path", *keyword.kwlist]), SCALARS
        ),
    )
)
def test_any_mapping_is_a_run_or_one_line(values: dict[str, Any]) -> None:
    message = ""
    try:
        load_run_config(None, base=values)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message
