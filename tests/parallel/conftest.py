"""Groups of real processes that work together, over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from tests.parallel.worker import MARK
from tests.training.conftest import bases as bases
from tests.training.conftest import table as table
from tests.training.conftest import tiny_model
from transformers import PreTrainedTokenizerFast

from spectune.formats.adapter_files import WEIGHTS
from spectune.manifest import sha256

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 120.0  # that a run, and with it a test, can hang
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
Config = dict[str, dict[str, Any]]


class Worker:
    """A process that takes tasks; made anew after it was killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.parallel.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        )

    def give(self, task: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What came of the task; `{"error": "died"}` of a process that did not live to say so."""
        assert self.process.stdout is not None
        clock = Timer(MOST_SECONDS, self.process.kill)
        clock.start()
        try:
            for line in self.process.stdout:
                if line.startswith(MARK):
                    result: dict[str, Any] = json.loads(line.removeprefix(MARK))
                    return result
        finally:
            clock.cancel()
        self.close()
        return {"error": "died", "signal": -self.process.returncode}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Group:
    """Runs and commands of one, two or three processes."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def run(self, size: int, config: Config, *, resume: bool | str = False, **of_rank: Any) -> list[dict[str, Any]]:
        """Train in `size` processes; `rank1={…}` adds to the task of process 1. One result for each."""
        return self.give(size, {"config": config, "resume": resume}, **of_rank)

    def command(self, size: int, *argv: str, **of_rank: Any) -> list[dict[str, Any]]:
        """Give a command in `size` processes; one status, standard output and standard error for each."""
        return self.give(size, {"argv": argv}, **of_rank)

    def give(self, size: int, common: dict[str, Any], **of_rank: Any) -> list[dict[str, Any]]:
        """Give `size` processes a task (`worker`); `rank1={…}` adds to that of process 1. One result for each."""
        self._workers = [worker for worker in self._workers if worker.process.poll() is None]
        self._workers += [Worker() for _ in range(size - len(self._workers))]
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        for rank, worker in enumerate(self._workers[:size]):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            environment = {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
            worker.give(common | {"environment": environment} | of_rank.get(f"rank{rank}", {}))
        return [worker.result() for worker in self._workers[:size]]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


@pytest.fixture(scope="session")
def group() -> Iterator[Group]:
    made = Group()
    yield made
    made.close()


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Directories of a T5 and a BART without dropout."""
    made = {}
    for kind in ("t5", "bart"):
        made[kind] = tmp_path_factory.mktemp(kind)
        tiny_model(kind, len(tiny_tokenizer), dropout=0.0).save_pretrained(made[kind])
        tiny_tokenizer.save_pretrained(made[kind])
    return made


def configuration(base: Path, table: Path, output: Path, **sections: dict[str, Any]) -> Config:
    """A run of 14 steps through all phases; the freeze is at step 8."""
    config: Config = {
        "model": {"model_name_or_path": str(base), "dtype": "float32"},
        "data": {
            "train_file": str(table),
            "label_names": {0: "negative", 1: "positive"},
            "validation_split": 0.2,
            "max_source_length": 32,
            "max_target_length": 8,
        },
        "adapter": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 6, "deltaT": 2},
        "train": {
            "output_dir": str(output),
            "max_steps": 14,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "logging_steps": 1,
            "use_cpu": True,
        },
        "evaluation": {"eval_strategy": "no", "eval_on_start": False},
    }
    for name, values in sections.items():
        config[name] |= values
    return config


def same_end(config: Config, whole: Path) -> bool:
    """Whether a run ended with the bytes of one that was not stopped."""
    adapter = Path(config["train"]["output_dir"]) / "adapter" / WEIGHTS
    return sha256(adapter) == sha256(whole / "adapter" / WEIGHTS)


def every_step(group: Group, config: Config) -> Path:
    """A run of two processes that nothing stops, with a checkpoint of every step."""
    config["train"] |= {"save_steps": 1, "save_total_limit": 20}
    found = group.run(2, config)
    assert [one["error"] for one in found] == [None, None], [one.get("message") for one in found]
    return Path(config["train"]["output_dir"])


def under_launcher(launcher: tuple[str, ...], *arguments: object, text: str | None = None) -> str:
    """What a command of spectune prints under a launcher; `text` is its standard input."""
    finished = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "spectune", *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def losses(output: Path) -> list[float]:
    """Of each step, from the journal."""
    lines = (output / "journal.jsonl").read_text("utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "step"]
