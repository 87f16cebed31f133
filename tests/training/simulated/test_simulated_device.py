"""A run on another device than the CPU, simulated: every tensor is where it must be, and nothing but the base reads it.

The device's results are the CPU's to the bit, so what the rest of the suite proves on a CPU holds there, as far as a
device's own arithmetic goes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import tiny_model
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[3]
TEXTS = ["profit number 3 rose", "the order book fell again"]
RUNS: dict[str, dict[str, Any]] = {
    "t5": {},
    "bart, beams": {"base": "bart", "evaluation": {"num_beams": 3}},
    "accumulation, permanent, triplet importance": {
        "train": {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1},
        "adapter": {"pruning": "permanent", "importance": "triplet"},
    },
    "checkpointing, adapter dropout, orthonormal": {
        "base": "bart",
        "train": {"gradient_checkpointing": True},
        "adapter": {"init": "orthonormal", "lora_dropout": 0.1},
    },
    "labels alone, evaluated on the way": {
        "evaluation": {"constrain_labels": True, "eval_strategy": "steps", "eval_steps": 5},
    },
    "PEFT's order": {"adapter": {"call_order": "peft", "init": "random"}},
    "a budget in bytes": {"adapter": {"budget": "20kB", "target_r": None}},
    "scores without the penalty": {"adapter": {"penalty_in_scores": False}},
    # torch's dropout of a device rounds a bfloat16 once more than the CPU's
    "bfloat16": {"base": "t5 without dropout", "model": {"dtype": "bfloat16"}, "data": {"pad_to_multiple_of": 4}},
    "streamed": {"data": {"streaming": True, "validation_split": None}},
    "resumed": {"killed_at": 7, "train": {"save_steps": 1, "save_total_limit": 99}},
    "resumed when compact": {"killed_at": 9, "train": {"save_steps": 1, "save_total_limit": 99}},
}
LOOPS = {"a loop of one's own": False, "moved after attach": True}
_OF_PEFTS_LOOP = "masking_utils"
"""transformers asks whether a mask hides anything at all; our loop answers for the sources."""
_OF_BARTS_DECODER = "masking_utils._ignore_causal_mask_sdpa"


def _task(bases: Mapping[str, Path], table: Path, place: Path, options: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model": {"model_name_or_path": str(bases[options.get("base", "t5")]), "dtype": "float32"},
        "data": {
            "train_file": str(table),
            "label_names": {0: "negative", 1: "positive"},
            "validation_split": 0.2,
            "max_source_length": 32,
            "max_target_length": 8,
        },
        "adapter": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 6, "deltaT": 2},
        "train": {
            "output_dir": str(place),
            "max_steps": 14,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "logging_steps": 3,
        },
        "evaluation": {"eval_strategy": "no", "eval_on_start": False},
    }
    for name in config:
        config[name] |= options.get(name, {})
    return {"config": config, "texts": TEXTS} | {key: options[key] for key in ("killed_at",) if key in options}


@pytest.fixture(scope="module")
def results(
    bases: dict[str, Path],
    table: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """All tasks in one process, since torch counts a process's devices once."""
    place = tmp_path_factory.mktemp("simulated")
    still = place / "still"
    for part in (tiny_model("t5", len(tiny_tokenizer), dropout=0.0), tiny_tokenizer):
        part.save_pretrained(still)
    bases = bases | {"t5 without dropout": still}
    tasks = {
        name: _task(bases, table, place / str(number), options) for number, (name, options) in enumerate(RUNS.items())
    }
    tasks |= {name: {"family": "bart", "moved": moved} for name, moved in LOOPS.items()}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.training.simulated.child"],
        cwd=ROOT,
        input=json.dumps(tasks),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", [*RUNS, *LOOPS])
def test_another_device_gives_what_the_cpu_gives(results: dict[str, dict[str, Any]], name: str) -> None:
    found = results[name]
    assert found["same_texts"]
    assert found["distance"] == 0
    assert found.get("identical", True)


@pytest.mark.parametrize("name", RUNS)
def test_a_step_does_not_wait_for_the_device(results: dict[str, dict[str, Any]], name: str) -> None:
    reads = [read.split()[1] for read in results[name]["reads"]]
    assert reads == ([_OF_BARTS_DECODER] if RUNS[name].get("base") == "bart" else [])


@pytest.mark.parametrize("name", LOOPS)
def test_a_step_of_ones_own_waits_no_more_than_the_base(results: dict[str, dict[str, Any]], name: str) -> None:
    reads = [read.split()[1].split(".")[0] for read in results[name]["reads"]]
    assert set(reads) == {_OF_PEFTS_LOOP}, "the count sees those of the base, and there are no others"
