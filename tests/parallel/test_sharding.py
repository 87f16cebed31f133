"""What keeps processes together in an evaluation, and what cannot be shared out; without a group of processes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.architectures.builders import build
from tests.architectures.trial import attached
from tests.parallel.conftest import ROOT
from torch import nn

from spectune.adapter.blocks import block_stacks
from spectune.adapter.targets import default_targets
from spectune.api import train
from spectune.cli import main
from spectune.config import RunConfig, TrainConfig
from spectune.errors import AdapterError, ConfigError
from spectune.training.faults import memory_explained
from spectune.training.lockstep import Lockstep
from spectune.training.sharding import planned_sharding, shard_base, sharding_notes


class Block(nn.Module):
    """A layer that notes when it is gathered."""

    def __init__(self, name: str, gathered: list[str]) -> None:
        super().__init__()
        self.name, self.gathered = name, gathered

    def forward(self) -> None:
        self.unshard()

    def unshard(self) -> None:
        self.gathered.append(self.name)

    def reshard(self) -> None: ...

    def reset_iter_state(self) -> None: ...


class Threads:
    """Processes that are threads."""

    def __init__(self, size: int) -> None:
        self.wishes: list[list[int]] = [[] for _ in range(size)]
        self.barrier = Barrier(size, timeout=20)

    def agree(self, rank: int, wishes: list[int]) -> list[int]:
        self.wishes[rank] = wishes
        self.barrier.wait()
        highest = [max(column) for column in zip(*self.wishes, strict=True)]
        self.barrier.wait()
        return highest


class View:
    """One thread's view."""

    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.rank = threads, rank

    def agree(self, wishes: list[int]) -> list[int]:
        return self.threads.agree(self.rank, wishes)


@pytest.mark.parametrize("seed", range(5))
def test_all_gather_the_same_layers_in_the_same_order(seed: int) -> None:
    """Whatever passes each of four processes makes: batches of other numbers and lengths, or none."""
    drawn, threads, gathered = random.Random(seed), Threads(4), [list[str]() for _ in range(4)]
    passes = [
        [stack for _ in range(drawn.randint(0, 3)) for stack in ["enc", *["dec"] * drawn.randint(1, 9)]]
        for _ in range(4)
    ]

    def evaluate(rank: int) -> None:
        sizes = {"enc": 2, "dec": 3}
        stacks = {
            stack: [Block(f"{stack}{place}", gathered[rank]) for place in range(size)] for stack, size in sizes.items()
        }
        processes: Any = View(threads, rank)
        with Lockstep(processes, stacks).evaluation():
            for stack in passes[rank]:
                for block in stacks[stack]:
                    block()

    workers = [Thread(target=evaluate, args=(rank,)) for rank in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert all(one == gathered[0] for one in gathered)
    assert len(gathered[0]) >= max(sum({"enc": 2, "dec": 3}[stack] for stack in one) for one in passes)


def test_layers_out_of_order_are_refused() -> None:
    blocks = [Block(str(place), []) for place in range(3)]
    processes: Any = View(Threads(1), 0)
    with Lockstep(processes, {"stack": blocks}).evaluation():
        for block in blocks:
            block()
        blocks[0]()
        with pytest.raises(ConfigError, match="does not run the layers of stack once each, in their order"):
            blocks[2]()


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_nothing_is_merged_into_shards() -> None:
    base = build("bart")
    base.model.encoder.layerdrop = 0.3
    model, _ = attached(base, default_targets(base))
    sharded = shard_base(model, torch.device("cpu"))
    assert base.model.encoder.layerdrop == 0.0
    assert sharded.kept == sharded.whole > 0
    with pytest.raises(AdapterError, match="nothing can be merged into a base that is shared out"):
        model.merge_adapter()
    with pytest.raises(AdapterError, match="spectune export ADAPTER --format merged"):
        model.merge_and_unload()


def configuration(**train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"model": {"model_name_or_path": "starter"}, "data": {"train_file": "rows.csv"}, "train": train}
    )


def test_what_is_said_of_a_base() -> None:
    base = build("m2m_100")
    base.model.encoder.layerdrop = 0.1
    assert sharding_notes(configuration(), base) == planned_sharding(configuration(), base, 2) == []
    warned, planned = planned_sharding(configuration(fsdp=True), base, 2)
    assert sharding_notes(configuration(fsdp=True), base) == [warned]
    assert planned.startswith("train.fsdp shares 4 layers with ")
    assert "leaves out whole layers at random" in warned
    with pytest.raises(ConfigError, match="BigBird rebuilds its layers"):
        sharding_notes(configuration(fsdp=True), build("bigbird_pegasus"))


def test_a_stack_without_one_list_of_layers_is_refused() -> None:
    base = build("bart")
    base.model.encoder.others = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(ConfigError, match=r"BartForConditionalGeneration has 2 lists of layers in its model\.encoder"):
        block_stacks(base)


def test_weights_used_without_their_layer_are_explained() -> None:
    with (
        pytest.raises(ConfigError, match="without calling the layer"),
        memory_explained(configuration(fsdp=True), "training"),
    ):
        raise RuntimeError("aten.mm.default got mixed torch.Tensor and DTensor, need to convert all")


def test_refused_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=r"fsdp does not go with mixed_precision bf16.*model\.dtype bfloat16"):
        TrainConfig(fsdp=True, mixed_precision="bf16")
    with pytest.raises(ConfigError, match="this is one; start it with torchrun --nproc-per-node N"):
        train(configuration(fsdp=True))
    example = str(ROOT / "examples" / "demo.yaml")
    assert main(["plan", example, "train.fsdp=true", "model.quantization=nf4"]) == 2
    assert "train.fsdp cannot share out weights in nf4" in capsys.readouterr().err
    assert main(["plan", example, "train.fsdp=true"]) == 0
    assert "this plan is for one; put WORLD_SIZE=2" in capsys.readouterr().out
    assert os.environ.get("WORLD_SIZE") is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["plan", example, "train.fsdp=true"]) == 0
    assert "of the base's parameters out to 4 processes" in capsys.readouterr().out
