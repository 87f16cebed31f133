"""Runs on the simulated device, in a process of their own: tasks as JSON on standard input, results on standard output.

A task is done once on the device and once on the CPU with torch's plain kernels, so that the two can be compared to the
bit. It is a run's configuration, or a loop of one's own.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from tests.adapter.tiny import LAST, adapted, base, batch
from tests.torture.world import as_if_killed_at
from tests.training.conftest import proof_in_this_process
from tests.training.simulated.device import DEVICE, Simulation
from torch.nn.attention import SDPBackend, sdpa_kernel

import spectune
from spectune.training import loop
from spectune.training.finish import RunResult
from spectune.training.progress import Reporter

_loop: Any = loop


def perform(task: dict[str, Any]) -> dict[str, Any]:
    """What a task gives on the device, and how far that is from the CPU's."""
    act = _run if "config" in task else _own_loop
    there, here = act(task, Simulation()), act(task, None)
    tensors, others = there.pop("tensors"), here.pop("tensors")
    return there | {"same_texts": there.get("texts") == here.get("texts"), "distance": _distance(tensors, others)}


def _run(task: dict[str, Any], simulation: Simulation | None) -> dict[str, Any]:
    """Train, perhaps go on from a checkpoint, and predict with the saved adapter."""
    config = copy.deepcopy(task["config"])
    config["train"]["output_dir"] += "-there" if simulation else "-here"
    reads: Counter[str] = Counter()
    with _circumstances(simulation, reads):
        result = spectune.train(config, reporter=Reporter(quiet=True))
        if "killed_at" in task:
            result = _gone_on(result, config, task["killed_at"])
        texts = spectune.predict(result.adapter, task["texts"])
    return {
        "reads": sorted(reads),
        "identical": result.summary["reload_identical"],
        "texts": [(result.directory / "predictions.jsonl").read_text(encoding="utf-8"), texts],
        "tensors": load_file(result.adapter / "adapter_model.safetensors"),
    }


def _gone_on(whole: RunResult, config: dict[str, Any], step: int) -> RunResult:
    """The run as it ends when it was killed after `step`; must be what it was."""
    config["train"]["output_dir"] += "-killed"
    place = Path(config["train"]["output_dir"])
    shutil.rmtree(place, ignore_errors=True)
    as_if_killed_at(whole.directory, step, place)
    torch.manual_seed(999)
    resumed = spectune.train(config, resume=True, reporter=Reporter(quiet=True))
    assert _distance(*(load_file(run.adapter / "adapter_model.safetensors") for run in (whole, resumed))) == 0
    return resumed


def _own_loop(task: dict[str, Any], simulation: Simulation | None) -> dict[str, Any]:
    """PEFT's loop over an attached model; `task["moved"]` says whether it was attached before it came to the device."""
    device = DEVICE if simulation else torch.device("cpu")
    reads: Counter[str] = Counter()
    with sdpa_kernel(SDPBackend.MATH), simulation or nullcontext():
        model: Any = adapted(base(task["family"]).to("cpu" if task["moved"] else device))
        engine = spectune.attach(model)
        model.to(device)
        optimizer = torch.optim.AdamW(engine.parameters(), lr=1e-2)
        for step in range(1, LAST):
            tokens = {name: tensor.to(device) for name, tensor in batch(step).items()}
            before = Counter(simulation.reads) if simulation else Counter[str]()
            model(**tokens).loss.backward()
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            reads.update(simulation.reads - before if simulation else {})
        engine.compact(optimizer)
        ranks = engine.ranks()
        tensors = {name: tensor.detach().to("cpu") for name, tensor in model.state_dict().items() if "lora_" in name}
    return {"reads": sorted(reads), "texts": ranks, "tensors": tensors}


@contextmanager
def _circumstances(simulation: Simulation | None, reads: Counter[str]) -> Iterator[None]:
    """What both devices need to compute alike, and where the steps of a run are watched."""
    device = (DEVICE if simulation else torch.device("cpu"), None)
    step_once = _loop.training_step

    def proof(adapter: Path, *, conditions: Any, **options: Any) -> Any:
        return proof_in_this_process(adapter, conditions=replace(conditions, device="cpu"), **options)

    def step(*args: Any, **options: Any) -> Any:
        before = Counter(simulation.reads) if simulation else Counter[str]()
        result = step_once(*args, **options)
        reads.update(simulation.reads - before if simulation else {})
        return result

    with ExitStack() as stack:
        for one in (
            patch("spectune.training.run.choose_device", lambda use_cpu: device),
            patch("spectune.training.device.choose_device", lambda use_cpu: device),
            patch("spectune.training.finish.prove_reload", proof),
            patch("spectune.training.run.training_kernels", lambda device: nullcontext),
            patch.object(_loop, "training_step", step),
            sdpa_kernel(SDPBackend.MATH),
            simulation or nullcontext(),
        ):
            stack.enter_context(one)
        yield


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference; infinite where names or shapes are not alike."""
    if {name: tensor.shape for name, tensor in one.items()} != {name: tensor.shape for name, tensor in other.items()}:
        return float("inf")
    return max((tensor - other[name]).abs().max().item() for name, tensor in one.items() if tensor.numel())


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {name: perform(task) for name, task in json.load(sys.stdin).items()}
    print(json.dumps(results), file=sys.stdout)
