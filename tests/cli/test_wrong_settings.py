"""Wrong settings, each through the command: one line, exit status 2, nothing written, and before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import RunCli

SETTINGS = [
    ("model.model_name_or_path=", "model.model_name_or_path: '' is not a text that is not empty"),
    ("model.model_name_or_path=null", "model.model_name_or_path: None is not a text"),
    ("model.model_name_or_path=a/b/c", "there is no directory a/b/c; the directory a/b does not exist"),
    ("model.model_name_or_path={dir}/reviews.csv", "reviews.csv is a file; model.model_name_or_path names a directory"),
    ("model.model_name_or_path={dir}", "is not a model's directory: it holds no config.json"),
    ("train.fp16=true", "train.fp16 is not a known key; did you mean train.mixed_precision?"),
    ("data.max_length=64", "did you mean data.max_source_length or data.max_target_length?"),
    ("model.revision=v1", "model.revision v1 goes with a hub id"),
    ('model.revision=""', "model.revision: '' is not a text that is not empty"),
    ("model.dtype=fp16", "model.dtype: 'fp16' is not one of 'auto', 'float32', 'bfloat16' or 'float16'"),
    (
        "train.gradient_checkpointing_kwargs={open}use_reentrnt: true{close}",
        "train.gradient_checkpointing_kwargs: use_reentrnt is not a known key; did you mean use_reentrant?",
    ),
    ("train.gradient_checkpointing_kwargs=true", "train.gradient_checkpointing_kwargs: True is not a mapping"),
    ("model.trust_remote_code=1", "model.trust_remote_code: 1 is not true or false"),
    ("data.train_file=", "data.train_file: '' is not a text that is not empty"),
    ("data.train_file=null", "data: give either train_file or dataset_name"),
    ("data.train_file=https://example.org/x.csv", "is an address; download the file and name its path"),
    ("data.train_file={dir}/reviews.tsv", "reviews.tsv does not exist (did you mean 'reviews.csv'?)"),
    ("data.validation_file={dir}", "is a directory, not a file; it holds reviews.csv, run.yaml"),
    ("data.test_file=none.csv", "none.csv does not exist"),
    ("data.dataset_name=starter", "give either train_file or dataset_name"),
    ("data.dataset_config_name=x", "dataset_config_name and dataset_revision go with dataset_name, not train_file"),
    ("data.dataset_revision=main", "dataset_config_name and dataset_revision go with dataset_name, not train_file"),
    ("data.text_column=", "data.text_column: '' is not a text that is not empty"),
    ("data.text_column=Text", "has no column 'Text' (data.text_column); it has text, label (did you mean 'text'?)"),
    ("data.text_column=label", "data.text_column and data.target_column both name 'label'"),
    ("data.target_column=text", "data.text_column and data.target_column both name 'text'"),
    ("data.references_column=refs", "has no column 'refs' (data.references_column)"),
    ("data.source_template=nothing", "names no column; write {column} where its text belongs"),
    ("data.source_template={open}text", "a brace without a column name; write {column}"),
    ("data.source_template={open}text.__class__{close}", "has no column 'text.__class__' (data.source_template)"),
    ("data.task=classify", "data.task: 'classify' is not one of 'classification', 'summarization'"),
    ("data.task=translation", "label_names belong to task: classification, not translation"),
    ("data.label_names=[]", "data.label_names names no labels"),
    ("data.label_names=[bad, fair]", "label '2' (rows 5, 6, "),
    ("data.label_names=[bad, fair, good, good]", "labels '2' and '3' are both written 'good'"),
    ('data.label_names={open}0: bad, 1: fair, 2: " "{close}', "data.label_names: label '2' has no words"),
    ("data.label_names={open}0: bad, 1: fair, 2: 3{close}", "data.label_names: {0: 'bad', 1: 'fair', 2: 3} is not"),
    ("data.label_names=none.json", "none.json does not exist"),
    ("data.max_source_length=0", "data.max_source_length: 0 is not at least 1"),
    ("data.max_source_length=99999999999", "data.max_source_length: 99999999999 is not at most 2,147,483,647"),
    ("data.max_target_length=1.5", "data.max_target_length: 1.5 is not a whole number"),
    ("data.padding=left", "data.padding: 'left' is not 'longest' or 'max_length'"),
    ("data.validation_split=1", "data.validation_split: 1 is not less than 1"),
    ("data.validation_split=.nan", "data.validation_split: nan is not a finite number"),
    ("data.invalid_rows=ignore", "data.invalid_rows: 'ignore' is not 'drop' or 'error'"),
    ("data.max_train_samples=0", "data.max_train_samples: 0 is not at least 1"),
    ("train.report_to=tensorbord", "train.report_to tensorbord is no tracker that accelerate knows (aim, clearml,"),
    ("train.report_to=", "train.report_to: '' is not"),
    ("adapter.init_r=1e3", "adapter.init_r: 1000.0 is not a whole number"),
    ("adapter.init_r=100000000000000", "adapter.init_r: 100000000000000 is not at most 65,536"),
    ("adapter.budget=4 parsecs", "budget '4 parsecs' is neither a size such as 400kB or 1.5MB nor a whole number"),
    ("adapter.budget=0", "0 is not at least 1"),
    ("adapter.target_r=null", "target_r is null; give target_r or budget"),
    ("adapter.init_r=7", "init_r 7 is below target_r 8; leave init_r out, or give a larger one"),
    ("adapter.tinit=1.0", "tinit 1.0 is neither a fraction strictly between 0 and 1 nor whole steps"),
    ("adapter.tinit=true", "adapter.tinit: True is not a whole number or a number"),
    ("adapter.tinit=0.8", "tinit 34 + tfinal 10 leave no step of the 42 for the decrease"),
    ("adapter.tfinal=-1", "adapter: tfinal -1 must not be negative"),
    ("adapter.tfinal=.inf", "adapter.tfinal: inf is not a whole number or a finite number"),
    ("adapter.deltaT=0", "adapter.deltaT: 0 is not at least 1 or 'auto'"),
    ("adapter.beta1=1", "adapter.beta1: 1 is not less than 1"),
    ("adapter.beta2=-0.1", "adapter.beta2: -0.1 is not more than 0"),
    ("adapter.orth_reg_weight=1e308", "adapter.orth_reg_weight: 1e+308 is not at most 1,000,000.0"),
    ("adapter.lora_alpha=0", "adapter.lora_alpha: 0 is not at least 1 or 'auto'"),
    ("adapter.lora_alpha=9999999999999999999999", "is not at most 1,000,000 or 'auto'"),
    ("adapter.lora_dropout=1.0", "adapter.lora_dropout: 1.0 is not less than 1"),
    ("adapter.target_modules=", "adapter.target_modules: '' is not a text that is not empty or a list"),
    ("adapter.target_modules=[3]", "adapter.target_modules: [3] is not"),
    ('adapter.modules_to_save=[""]', "adapter.modules_to_save: [''] is not a text that is not empty"),
    ("adapter.adapter_name=a/b", "adapter.adapter_name: 'a/b' is not made of letters, digits, _ and - only"),
    ("adapter.adapter_name=type", "adapter_name type is the name of a method that PEFT's containers have"),
    ("adapter.init=zeros", "adapter.init: 'zeros' is not one of 'random', 'orthonormal' or 'gradient'"),
    ("adapter.call_order=adam", "adapter.call_order: 'adam' is not 'paper' or 'peft'"),
    ("train.output_dir=", "train.output_dir: '' is not a text that is not empty"),
    ("train.output_dir={dir}/reviews.csv", "reviews.csv is a file; name a directory in train.output_dir"),
    ("train.num_train_epochs=0", "train.num_train_epochs: 0 is not more than 0"),
    ("train.num_train_epochs=1e308", "train.num_train_epochs: 1e+308 is not at most 1,000,000.0"),
    ("train.max_steps=-1", "train.max_steps: -1 is not at least 1"),
    ("train.max_steps=99999999999999999999", "train.max_steps: 99999999999999999999 is not at most 2,147,483,647"),
    ("train.learning_rate=1e400", "train.learning_rate: inf is not a finite number"),
    ("train.learning_rate=1e30", "train.learning_rate: 1e+30 is not at most 100.0"),
    ("train.per_device_train_batch_size=0", "train.per_device_train_batch_size: 0 is not at least 1"),
    ("train.gradient_accumulation_steps=0", "train.gradient_accumulation_steps: 0 is not at least 1"),
    ("train.lr_scheduler_type=polynomial", "'polynomial' is not one of 'linear', 'cosine' or 'constant'"),
    ("train.warmup_ratio=0.5", "warmup_ratio 0.5 is 21 steps and ends after tinit (4); lower it to 0.0952"),
    ("train.weight_decay=-1", "train.weight_decay: -1 is not at least 0"),
    ("train.adam_epsilon=0", "train.adam_epsilon: 0 is not more than 0"),
    ("train.max_grad_norm=0", "train.max_grad_norm: 0 is not more than 0"),
    ("train.mixed_precision=fp16", "train.mixed_precision: 'fp16' is not 'no' or 'bf16'"),
    ("train.seed=4294967296", "train.seed: 4294967296 is not at most 4,294,967,295"),
    ("train.save_total_limit=0", "train.save_total_limit: 0 is not at least 1"),
    ("evaluation.eval_strategy=false", "evaluation.eval_strategy: False is not one of 'epoch', 'steps' or 'no'"),
    ("evaluation.eval_strategy=steps", "evaluation: eval_strategy steps needs eval_steps"),
    ("evaluation.eval_steps=5", "evaluation: eval_steps goes with eval_strategy: steps, not epoch"),
    ("evaluation.metrics=[]", "evaluation.metrics: [] is not a list that is not empty or 'auto'"),
    ("evaluation.metrics=[blue]", "unknown metric 'blue': did you mean bleu?"),
    ("evaluation.metric_for_best_model=bleu", "evaluation.metric_for_best_model bleu is not among this run's: exact_"),
    ("evaluation.metric_for_best_model=constrained_accuracy", "constrained_accuracy needs evaluation.constrain_labels"),
    ("evaluation.metrics=[constrained_macro_f1]", "metric constrained_macro_f1 needs evaluation.constrain_labels: tr"),
    ("evaluation.metrics=[f1]", "metric f1 is that of the positive label of two, and there are 3; use macro_f1"),
    ("evaluation.metrics=[accuracy, pearson]", "metric pearson compares numbers, and the target '"),
    ("evaluation.constrain_labels=maybe", "evaluation.constrain_labels: 'maybe' is not true or false"),
    ("evaluation.early_stopping_patience=0", "evaluation.early_stopping_patience: 0 is not at least 1"),
    ("evaluation.num_beams=0", "evaluation.num_beams: 0 is not at least 1"),
    ("evaluation.max_length=1", "evaluation.max_length: 1 is not at least 2"),
    ("evaluation.length_penalty=1e308", "evaluation.length_penalty: 1e+308 is not at most 100.0"),
]  # fmt: skip
TOGETHER = [
    (["data.text_column=text", "data.source_template={open}text{close}"], "give either text_column or source_template"),
    (["train.max_steps=10", "adapter.tinit=8", "adapter.tfinal=5"], "lower tinit or tfinal, or train longer"),
    (["evaluation.max_length=5", "evaluation.max_new_tokens=5"], "give either max_length or max_new_tokens, not both"),
    (
        ["evaluation.eval_strategy=no", "evaluation.early_stopping_patience=2"],
        "early_stopping_patience counts evaluations, and eval_strategy: no makes none",
    ),
    (
        ["data.validation_split=null", "evaluation.early_stopping_patience=2"],
        "evaluation.early_stopping_patience needs validation rows",
    ),
    (
        ["data.label_names=null", "data.task=text2text", "evaluation.metrics=[accuracy]"],
        "metric accuracy counts labels",
    ),
    (
        ["data.label_names=null", "data.task=text2text", "evaluation.constrain_labels=true"],
        "evaluation.constrain_labels needs labels, which task text2text has none of; set data.task: classification",
    ),
    (["train.num_train_epochs=1e6", "train.max_steps=null", "train.seed=x"], "train.seed: 'x' is not a whole number"),
]
# What only the model's configuration can tell: through `plan`, which reads no weights.
OF_THE_MODEL = [
    ("data.max_source_length=5000", "more than the 1024 positions of this model's encoder; set it to 1024 or less"),
    ("data.max_target_length=5000", "more than the 1024 positions of this model's decoder"),
    ("adapter.target_modules=[q_proj, v_typo]", "target_modules entry 'v_typo' matches no linear layer; nearest: v_pr"),
    ("adapter.target_modules=(", "target_modules '(' is not a regular expression"),
    ("adapter.target_modules=all-linear", "target_modules 'all-linear' is PEFT's word; write auto"),
    ("adapter.target_modules=[shared]", "target_modules entry 'shared' matches no linear layer"),
    ("adapter.exclude_modules=nope", "exclude_modules 'nope' matches no linear layer"),
    ("adapter.exclude_modules=.*", "no matrix is left to adapt; change target_modules or exclude_modules"),
    ("adapter.modules_to_save=[nope]", "adapter.modules_to_save: 'nope' is no module of"),
]


def _filled(override: str, run_file: Path) -> str:
    return override.replace("{dir}", str(run_file.parent)).replace("{open}", "{").replace("{close}", "}")


def _commands(run_file: Path) -> list[list[str]]:
    together = [overrides for overrides, _ in TOGETHER]
    rows = [*([override] for override, _ in SETTINGS), *together]
    return [["train", str(run_file), *(_filled(word, run_file) for word in row)] for row in rows]


def test_there_are_enough() -> None:
    assert len(SETTINGS) + len(TOGETHER) + len(OF_THE_MODEL) >= 100


@pytest.mark.parametrize(("override", "expected"), SETTINGS)
def test_one_wrong_setting(run_cli: RunCli, run_file: Path, override: str, expected: str) -> None:
    assert expected in run_cli("train", run_file, _filled(override, run_file)).error()
    assert {path.name for path in run_file.parent.iterdir()} == {"run.yaml", "reviews.csv"}


@pytest.mark.parametrize(("overrides", "expected"), TOGETHER)
def test_settings_that_do_not_go_together(run_cli: RunCli, run_file: Path, overrides: list[str], expected: str) -> None:
    assert expected in run_cli("train", run_file, *(_filled(word, run_file) for word in overrides)).error()


@pytest.mark.parametrize(("override", "expected"), OF_THE_MODEL)
def test_settings_that_do_not_fit_the_model(run_cli: RunCli, run_file: Path, override: str, expected: str) -> None:
    assert expected in run_cli("plan", run_file, override).error()


def test_before_torch(run_file: Path) -> None:
    """One process goes through the whole table; torch would be seen at the row that brings it."""
    program = (
        "import json, sys\nfrom spectune.cli import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    status = main(command)\n"
        "    if status != 2 or 'torch' in sys.modules: sys.exit(f'{command}: {status}')\n"
    )
    command = [sys.executable, "-c", program, json.dumps(_commands(run_file))]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("\n") == len(SETTINGS) + len(TOGETHER)
