"""What a person sees of a run without a terminal: six headings, and under each what it found."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from tests.training.conftest import Run

from spectune.errors import ConfigError
from spectune.training.progress import HEADINGS, Reporter


@pytest.fixture
def steps(run: Run) -> dict[int, str]:
    """The text under each heading of a whole run, the reload in a child process included."""
    screen = StringIO()
    run(screen=screen, evaluation={"eval_strategy": "epoch", "eval_on_start": True}, data={"max_source_length": 9})
    parts = re.split(r"^(\d)\. (.*)$", screen.getvalue(), flags=re.MULTILINE)[1:]
    assert {int(number): title for number, title in zip(parts[::3], parts[1::3], strict=True)} == HEADINGS
    return {int(number): text for number, text in zip(parts[::3], parts[2::3], strict=True)}


def test_the_six_headings_and_what_stands_under_each(steps: dict[int, str]) -> None:
    for number, expected in {
        1: [
            r"train: \d+ of 46 rows of .*rows\.csv",
            r"validation: drawn, 20% of each label, no source on both sides, seed 42",
            r"train cut: \d+\.\d% of sources \(longest \d+ tokens\), 0\.0% of targets \(longest \d+\)",
            r"validation cut: ",
            r"tokenised [\d,]+ tokens a second",
            r"row 1: 'profit number 0 fell' : '0 → negative'",
            r"input_ids \[\d+(, \d+)*\]  labels \[\d+(, \d+)*\]",
        ],
        2: [
            r"14 optimizer steps of 4 × 1 rows; init_r 4, target_r 2, lora_alpha 8, an allocation every 2 steps",
            r"warm-up +steps +1 to +2 +learning rate",
            r"decrease +steps +3 to +8 ",
            r"frozen +steps +9 to +14 ",
        ],
        3: [
            r"T5ForConditionalGeneration on cpu, weights in float32 \(as configured",
            r"trainable [\d,]+ of [\d,]+ parameters \(\d+\.\d+%\)",
            r"18 matrices adapted, 72 triplets to start with",
            r"encoder self_attention: q × 1, k × 1, v × 1, o × 1",
            r"decoder feed_forward: gate × 1, in × 1, out × 1",
        ],
        4: [
            r"warm-up: steps 1 to 2, learning rate",
            r"step 3/14  decrease  loss \d\.\d+  penalty \d\.\d+  rank 72 of 36  [\d,]+ tokens/s  \d+:\d\d left",
            r"frozen at 36 triplets; 36 dead ones removed from memory",
            r"evaluation at step 10: exact_match \d\.\d+",
            r"warm-up +mean loss first \d+\.\d+, last \d+\.\d+",
            r"frozen +mean loss first \d+\.\d+, last \d+\.\d+",
        ],
        5: [
            r"before training: exact_match \d\.\d+",
            r"step 10: exact_match \d\.\d+",
            r"step 14: exact_match \d\.\d+",
            r"exact_match +\d\S* +nrefs:1\|strip:outer\|case:mixed",
            r"target \\ predicted +negative +positive +other",
            r"(\n.* [=≠]){5}",
        ],
        6: [
            r"adapter \d+ kB \(\d+ kB with its tokenizer\), base \d+ kB",
            r"encoder 0 +\d",
            r"18 matrices, total rank 36",
            r"reloaded with plain PEFT in a new process: \d+ of \d+ predictions identical",
        ],
    }.items():
        for pattern in expected:
            assert re.search(pattern, steps[number]), f"{pattern}\n{steps[number]}"


def test_a_name_that_matches_nothing_is_found_before_weights_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("spectune.training.run.load_base", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match="matches no linear layer; nearest: "):
        run(adapter={"target_modules": ["SelfAttention.qq"]})
    with pytest.raises(ConfigError, match=r"modules_to_save: 'head' is no module"):
        run(adapter={"modules_to_save": ["head"]}, train={"output_dir": str(tmp_path / "other")})


def test_on_a_terminal_the_live_line_replaces_itself() -> None:
    screen = StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    reporter = Reporter(stream=screen)
    reporter.live("step 1/2", permanent=False)
    reporter.live("step 2/2", permanent=False)
    reporter.line("a line above")
    reporter.close()
    shown = screen.getvalue()
    assert "step 2/2" in shown
    assert "a line above" in shown
    assert "\x1b[?25h" in shown, "the cursor is given back"


def test_without_a_terminal_only_the_permanent_lines_are_written() -> None:
    screen = StringIO()
    reporter = Reporter(stream=screen)
    for step in range(1, 5):
        reporter.live(f"step {step}/4", permanent=step == 4)
    assert screen.getvalue() == "   step 4/4\n"
