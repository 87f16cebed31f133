"""The pipeline benchmark on a tiny shape: the same examples and steps for all, one loss, and the fields it writes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from benchmarks.pipeline_peers import Counts, Job, by_example
from benchmarks.rows import bundled_tokenizer, make, write_base

from benchmarks import pipeline, writing

PAIRS = [(f"the film number {number} was a quiet story", "good" if number % 3 else "bad") for number in range(20)]


def test_all_see_the_same_and_the_file_has_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words").mkdir()
    for split in ("train", "validation"):
        lines = [json.dumps({"text": f"{text} {split}", "target": target}) for text, target in PAIRS]
        (tmp_path / "words" / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("SPECTUNE_DATA", str(tmp_path))
    monkeypatch.setattr(pipeline, "fastest_dtype", lambda device: (torch.float32, "on all machines alike"))
    monkeypatch.setattr(pipeline, "write", partial(writing.write, directory=tmp_path))
    pipeline.main("--shape tiny-words --task words --rows 18 --validation-rows 6 --batch 2".split())
    found = json.loads((tmp_path / "pipeline-tiny-words-words.json").read_text())
    assert (found["rows"], found["validation_rows"], found["steps"]) == (18, 6, 9)
    names = [row["contender"] for row in found["results"]]
    assert names == list(found["seconds"])
    assert names[-1] == "spectune, float32"
    assert all(abs(row["loss against spectune's"]) < 0.01 for row in found["results"])
    assert found["results"][-1]["of them proof"] > 0
    assert found["results"][-1]["float32 is faster by"] == 1
    assert {"command", "versions", "machine"} <= set(found)


@pytest.mark.parametrize(("dtype", "best"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_the_best_precision_of_the_machine_comes_last(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, best: str
) -> None:
    monkeypatch.setattr(pipeline, "fastest_dtype", lambda device: (dtype, ""))
    names = list(pipeline.contenders())
    assert names[-1] == f"spectune, {best}"
    assert sum(name.startswith("trainer") for name in names) == (1 if best == "float32" else 3)


@pytest.mark.parametrize(
    ("named", "run"),
    [
        (["by example"], ["by example", "spectune, float32", "spectune, bfloat16"]),
        (["by example", "spectune, bfloat16"], ["by example", "spectune, bfloat16"]),
        ([], ["by example", "trainer", "spectune, float32", "spectune, bfloat16"]),
    ],
)
def test_all_of_spectune_runs_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, named: list[str], run: list[str]
) -> None:
    rows = make(PAIRS[:4], bundled_tokenizer())
    job = Job(Path("base"), rows, rows, batch_size=2, learning_rate=1e-3, scratch=Path("scratch"))

    def one(job: Job, counts: Counts, **_: object) -> None:
        counts.steps, counts.examples = 2, 4

    every = ["by example", "trainer", "spectune, float32", "spectune, bfloat16"]
    monkeypatch.setattr(pipeline, "contenders", lambda: dict.fromkeys(every, one))
    monkeypatch.setattr(pipeline, "final_loss", lambda model, job: 2.0)
    rows_of_table, _ = pipeline.measure(job, rounds=1, chosen=named)
    assert [row["contender"] for row in rows_of_table] == run
    assert all(row["loss against spectune's"] == 0 for row in rows_of_table)
    assert all("bfloat16 is faster by" in row for row in rows_of_table)
    assert all(("float32 is faster by" in row) == ("spectune, float32" in run) for row in rows_of_table)


def test_a_contender_that_saw_less_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bundled_tokenizer()
    write_base("tiny-words", tmp_path / "base", tokenizer)
    rows = make(PAIRS[:16], tokenizer)
    job = Job(tmp_path / "base", rows, rows, batch_size=2, learning_rate=1e-3, scratch=tmp_path)
    counts = Counts()
    by_example(job, counts, pads=False)
    assert (counts.steps, counts.examples) == (8, 16)

    def nothing(job: Job, counts: Counts, **_: object) -> None:
        """Neither steps nor examples."""

    for name in ("by_example", "by_trainer", "by_spectune"):
        monkeypatch.setattr(pipeline, name, nothing)
    monkeypatch.setattr(pipeline, "final_loss", lambda model, job: 1.0)
    with pytest.raises(SystemExit, match="differ in steps or examples"):
        pipeline.measure(job, rounds=1)
