"""Rotten bytes: mutants of checkpoints and adapters; none may be taken for whole, none may end in a traceback.

Checkpoints and our own exports carry hashes: a mutant is refused, or what it holds is what was written (a flipped bit
in the manifest itself may be harmless). Adapters of plain PEFT carry none: shape, finiteness and base are checked.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.torture.world import World, directory, settings, train

import spectune
from spectune.cli import main
from spectune.errors import UserError
from spectune.formats.adapter_files import CONFIG, DOCUMENTS, WEIGHTS, locate_adapter
from spectune.manifest import MANIFEST
from spectune.training.checkpoint import newest_checkpoint

Mutation = Callable[[Path, random.Random], bool]
_THROUGH_THE_COMMAND = 20  # every so many-th mutant also goes through the command


@dataclass
class Count:
    """What became of the mutants."""

    mutants: int = 0
    refused: int = 0
    harmless: int = 0
    """Loaded, and all that shapes an output was as written."""
    unhashed: int = 0
    """Of plain PEFT adapters: loaded with other, finite numbers of the right shapes."""
    commands: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def _some_file(place: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in place.iterdir() if path.stat().st_size))


def flip_a_bit(place: Path, chance: random.Random) -> bool:
    """Anywhere in any file."""
    return _flip(_some_file(place, chance), chance, None)


def flip_a_bit_of_a_header(place: Path, chance: random.Random) -> bool:
    """In the header of a safetensors file."""
    path = chance.choice(sorted(place.glob("*.safetensors")))
    return _flip(path, chance, 8 + int.from_bytes(path.read_bytes()[:8], "little"))


def _flip(path: Path, chance: random.Random, end: int | None) -> bool:
    content = bytearray(path.read_bytes())
    content[chance.randrange(end or len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return True


def cut(place: Path, chance: random.Random) -> bool:
    """A file ends early."""
    path = _some_file(place, chance)
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
    return True


def zero_a_block(place: Path, chance: random.Random) -> bool:
    """As a lost sector leaves it."""
    path = _some_file(place, chance)
    content = bytearray(path.read_bytes())
    start, length = chance.randrange(len(content)), chance.choice((16, 512, 4096))
    block = content[start : start + length]
    content[start : start + length] = bytes(len(block))
    path.write_bytes(content)
    return any(block)


def append(place: Path, chance: random.Random) -> bool:
    """A file goes on."""
    path = _some_file(place, chance)
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 64)))
    return True


def lose_a_file(place: Path, chance: random.Random) -> bool:
    """Any of them."""
    _some_file(place, chance).unlink()
    return True


def _tensors(place: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The file of weights of an adapter or a checkpoint, and what it holds."""
    path = place / WEIGHTS if (place / WEIGHTS).is_file() else place / "state.safetensors"
    return path, load_file(path)


def swap_two_tensors(place: Path, chance: random.Random) -> bool:
    """Two tensors of one shape change places, in a file that is well formed."""
    path, tensors = _tensors(place)
    pairs = [
        (one, other)
        for one in tensors
        for other in tensors
        if one < other and tensors[one].shape == tensors[other].shape and not tensors[one].equal(tensors[other])
    ]
    if not pairs:
        return False
    one, other = chance.choice(pairs)
    save_file(tensors | {one: tensors[other].clone(), other: tensors[one].clone()}, path, metadata={"format": "pt"})
    return True


def poison_a_number(place: Path, chance: random.Random) -> bool:
    """NaN or infinity, in a file that is well formed."""
    path, tensors = _tensors(place)
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()]
    tensors[chance.choice(names)].view(-1)[0] = chance.choice((float("nan"), float("inf")))
    save_file(tensors, path, metadata={"format": "pt"})
    return True


def change_a_shape(place: Path, chance: random.Random) -> bool:
    """A tensor loses its last row, in a file that is well formed."""
    path, tensors = _tensors(place)
    name = chance.choice([name for name, tensor in tensors.items() if tensor.ndim == 2 and len(tensor) > 1])
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    return True


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_bit,
    flip_a_bit,
    flip_a_bit_of_a_header,
    cut,
    zero_a_block,
    append,
    lose_a_file,
    swap_two_tensors,
    poison_a_number,
    change_a_shape,
)
ALWAYS_REFUSED = ("poison_a_number", "change_a_shape")
"""Of plain PEFT adapters, too."""


def mutant_runs(world: World, place: Path, count: int, seed: int) -> Count:
    """Make `count` mutants, two fifths of a checkpoint, two of an export, one of a plain PEFT adapter; wrong bases."""
    run = settings(world, "t5", place / "run")
    train(run)
    plain = place / "plain"
    _as_plain_peft(directory(run) / "adapter", plain)
    found, chance = Count(), random.Random(seed)
    for number in range(count):
        kind = ("checkpoint", "checkpoint", "export", "export", "plain")[number % 5]
        mutation = MUTATIONS[number // 5 % len(MUTATIONS)]
        _one_mutant(run, plain, place / "mutant", kind, mutation, chance, found)
    _wrong_bases(run, plain, place, found)
    return found


def _as_plain_peft(adapter: Path, place: Path) -> None:
    """What PEFT itself saves: configuration and weights, no hashes."""
    place.mkdir()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(adapter / name, place / name)


def _one_mutant(
    run: Any, plain: Path, place: Path, kind: str, mutation: Mutation, chance: random.Random, found: Count
) -> None:
    root = directory(run)
    source = {"checkpoint": root / "checkpoints" / "step-40", "export": root / "adapter", "plain": plain}[kind]
    shutil.rmtree(place, ignore_errors=True)
    subject = place / ("step-40" if kind == "checkpoint" else "adapter")
    shutil.copytree(source, subject)
    if not mutation(subject, chance):
        return
    found.mutants += 1
    found.kinds[f"{kind}: {mutation.__name__}"] += 1
    try:
        {"checkpoint": _take_up, "export": locate_adapter, "plain": spectune.load}[kind](subject)  # type: ignore[operator]
    except UserError as error:
        found.refused += 1
        if "\n" in str(error):
            found.failures.append(f"{kind}, {mutation.__name__}: more than a line: {error}")
    except Exception as error:
        found.failures.append(f"{kind}, {mutation.__name__}: {type(error).__name__}: {error}")
    else:
        _accepted(source, subject, kind, mutation, found)
    if found.mutants % _THROUGH_THE_COMMAND == 0 and kind != "checkpoint":
        _through_the_command(subject, found)


def _take_up(subject: Path) -> Path:
    return newest_checkpoint(subject.parent)[0]


def _accepted(source: Path, subject: Path, kind: str, mutation: Mutation, found: Count) -> None:
    ignored = {MANIFEST, *(DOCUMENTS if kind != "checkpoint" else ())}
    read = {path.name for path in source.iterdir()} - ignored
    if all((subject / name).is_file() and _same(source / name, subject / name) for name in read):
        found.harmless += 1
    elif kind == "plain" and mutation.__name__ not in ALWAYS_REFUSED:
        found.unhashed += 1
        tensors, before = load_file(subject / WEIGHTS), load_file(source / WEIGHTS)
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
        if not finite or {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in before.items()}:
            found.failures.append(f"plain, {mutation.__name__}: other shapes, or not finite")
    else:
        found.failures.append(f"{kind}, {mutation.__name__}: taken for whole")


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _through_the_command(subject: Path, found: Count) -> None:
    found.commands += 1
    texts = subject.parent / "texts.txt"
    texts.write_text("profit rose\n", encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["predict", str(subject), str(texts)])
    if status not in (0, 2) or "Traceback" in err.getvalue():
        found.failures.append(f"the command ended with {status}: {err.getvalue()[-300:]}")


def _wrong_bases(run: Any, plain: Path, place: Path, found: Count) -> None:
    """The base's weights are others (found by our hash), or another model's (found by shape in a plain adapter too)."""
    base = Path(run["model"]["model_name_or_path"])
    kept = place / "base-kept"
    shutil.copytree(base, kept)
    tensors = load_file(base / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    _must_refuse("export", lambda: spectune.load(directory(run) / "adapter"), found)
    shutil.rmtree(base)
    shutil.copytree(base.parent / "bart", base)
    _must_refuse("export", lambda: spectune.load(directory(run) / "adapter"), found)
    _must_refuse("plain", lambda: spectune.load(plain), found)
    shutil.rmtree(base)
    kept.rename(base)


def _must_refuse(kind: str, load: Callable[[], Any], found: Count) -> None:
    found.mutants += 1
    found.kinds[f"{kind}: wrong base"] += 1
    try:
        load()
    except UserError:
        found.refused += 1
    except Exception as error:
        found.failures.append(f"{kind}, wrong base: {type(error).__name__}: {error}")
    else:
        found.failures.append(f"{kind}: a wrong base was taken")
