"""A save at every step reloads with plain PEFT to the same outputs, and making it changes nothing of the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tests.torture.world import STEPS, World, directory, outcome, settings, train
from transformers import AutoModelForSeq2SeqLM

from spectune.training.loop import Loop

TOLERANCE = 1e-5


class Comparison:
    """At every step: save, reload, compare logits and generated tokens of the live and the reloaded model."""

    def __init__(self, base: Path, scratch: Path) -> None:
        self._scratch = scratch
        self._base = AutoModelForSeq2SeqLM.from_pretrained(base)
        generator = torch.Generator().manual_seed(5)
        self._tokens = torch.randint(3, 60, (4, 9), generator=generator)
        self.compared, self.largest = 0, 0.0
        self.failures: list[str] = []

    def __call__(self, loop: Loop) -> None:
        random_state = torch.get_rng_state()
        model: Any = loop.model
        shutil.rmtree(self._scratch, ignore_errors=True)
        model.save_pretrained(self._scratch)
        model.eval()
        live = self._outputs(model)
        untouched = torch.equal(torch.get_rng_state(), random_state)
        reloaded = PeftModel.from_pretrained(self._base, self._scratch).eval()
        found = self._outputs(reloaded)
        self._base = reloaded.unload()
        model.train()
        difference = float((live[0] - found[0]).abs().max())
        self.compared, self.largest = self.compared + 1, max(self.largest, difference)
        if difference > TOLERANCE or not all(torch.equal(a, b) for a, b in zip(live[1:], found[1:], strict=True)):
            self.failures.append(f"step {loop.progress.step}: logits differ by {difference:.1e}, or the tokens do")
        if not untouched:
            self.failures.append(f"step {loop.progress.step}: saving or generating draws random numbers")
        torch.set_rng_state(random_state)  # making the second model drew some

    @torch.no_grad()
    def _outputs(self, model: Any) -> tuple[torch.Tensor, ...]:
        logits = model(input_ids=self._tokens, decoder_input_ids=self._tokens[:, :4]).logits
        generated = [
            model.generate(input_ids=self._tokens, max_new_tokens=6, num_beams=beams, do_sample=False)
            for beams in (1, 2)
        ]
        return logits, *generated


def save_at_every_step(world: World, place: Path, kind: str, interval: int) -> Comparison:
    """One run compared at each of its steps, and with the run that was left alone."""
    adapter = {"deltaT": interval}
    alone = settings(world, kind, place / "alone", adapter=adapter)
    train(alone)
    watched = settings(world, kind, place / "watched", adapter=adapter)
    comparison = Comparison(world.base(kind), place / "export")
    with _after_each_step(comparison):
        train(watched)
    assert comparison.compared == STEPS
    if outcome(watched) != outcome(alone):
        comparison.failures.append(f"{kind}, deltaT {interval}: saving and generating changed the run")
    assert directory(watched) != directory(alone)
    return comparison


@contextmanager
def _after_each_step(comparison: Comparison) -> Iterator[None]:
    loop_class: Any = Loop
    moments = loop_class._moments

    def watched(loop: Loop, step: int) -> None:
        comparison(loop)
        moments(loop, step)

    loop_class._moments = watched
    try:
        yield
    finally:
        loop_class._moments = moments
