"""The quality benchmark: equal sizes, the same search for all, lines that survive a kill, tables of the lines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from benchmarks.quality import rank_figure, tables
from benchmarks.quality.methods import BASELINES, METHODS
from benchmarks.quality.pool import Pool, Wanted
from benchmarks.quality.report import main_rank, marks, summary, write_between
from benchmarks.quality.results import GRID, Key, Results, next_rate
from benchmarks.quality.tasks import TASKS, Ground
from benchmarks.quality.training import run

ROOT = Path(__file__).parents[2]
SHORT = dataclasses.replace(TASKS["clinc150"], steps=8, batch_size=4, validation_rows=4, test_rows=4)


@pytest.fixture(scope="module")
def tiny(data_root: Path) -> Ground:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECTUNE_DATA", str(data_root))
        return Ground(SHORT, "starter")


def line(
    stage: str,
    method: str,
    *,
    seed: int = 0,
    rate: float = 1e-2,
    test: float = 0.5,
    task: str = "clinc150",
    rank: int = 2,
) -> str:
    key = {"stage": stage, "task": task, "method": method, "rank": rank, "seed": seed, "rate": rate}
    scores = {"exact_match": test, "eval_loss": 1.0}
    curve = [{"step": 100, "exact_match": test / 2}, {"step": 200, "exact_match": test}]
    return json.dumps({"key": key, "validation": scores, "test": scores, "curve": curve})


def searched(method: str, *, task: str = "clinc150", rank: int = 2) -> list[str]:
    """A search that has chosen the rate of `line`."""
    merits = {3e-3: 0.1, 1e-2: 0.2, 3e-2: 0.1}
    return [line("search", method, rate=rate, test=test, task=task, rank=rank) for rate, test in merits.items()]


@pytest.fixture(scope="module")
def lora(tiny: Ground) -> int:
    """Parameters of LoRA at rank 2."""
    parameters: int = run(tiny, METHODS["PEFT LoRA"], rank=2, rate=1e-3, seed=0, tests=False)["parameters"]
    return parameters


KINDS = [
    *(method.name for method in BASELINES),
    "spectune",
    *(f"spectune, {name}" for name in ("random start", "orthonormal start", "importance after the update")),
    *(f"spectune, {name}" for name in ("permanent pruning", "budget in parameters", "penalty not in the scores")),
    "spectune, preset: fast",
    "spectune, preset: best",
]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_method_trains_what_the_size_allows(tiny: Ground, lora: int, name: str) -> None:
    found = run(tiny, METHODS[name], rank=2, rate=1e-3, seed=0, tests=True, points=2)
    assert {"exact_match", "eval_loss"} <= set(found["test"])
    if METHODS[name].kind == "frozen":
        assert found["parameters"] == 0
        return
    assert found["train_loss"] > 0
    assert [point["step"] for point in found["curve"]] == [4]
    if METHODS[name].kind != "full":
        # ranks differ in shape: a feed-forward triplet costs two and a half attention triplets
        assert found["parameters"] <= lora * 1.3
    if "ranks" in found and not METHODS[name].by_parameters:
        assert sum(found["ranks"].values()) == 2 * len(found["ranks"])


def test_a_run_is_a_function_of_its_seed(tiny: Ground) -> None:
    first, again, other = (
        run(tiny, METHODS["spectune"], rank=2, rate=1e-2, seed=seed, tests=False)["train_loss"] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_search_climbs_from_the_middle_and_ends(tmp_path: Path) -> None:
    merits = dict(zip(GRID, [(1.0,), (4.0,), (3.0,), (2.0,), (0.0,)], strict=True))
    found: dict[float, tuple[float, float]] = {}
    while (rate := next_rate(found)) is not None:
        found[rate] = (*merits[rate], 0.0)
    assert list(found) == [3e-3, 1e-2, 1e-3, 3e-4]


@pytest.mark.parametrize("seeds", [[0, 7], [7]])
def test_a_search_over_seeds_goes_by_their_mean_and_needs_all_of_them(tmp_path: Path, seeds: list[int]) -> None:
    path = tmp_path / "lines.jsonl"
    one = {3e-4: 0.1, 1e-3: 0.4, 3e-3: 0.5, 1e-2: 0.6, 3e-2: 0.2}
    other = {1e-3: 0.8, 3e-3: 0.7, 1e-2: 0.2, 3e-4: 0.3}
    lines = [line("search", "spectune", rate=rate, test=test) for rate, test in one.items()]
    confirmed = [line("confirm", "spectune", seed=1, rate=rate, test=rate) for rate in (1e-3, 1e-2)]
    path.write_text("\n".join(lines + confirmed))
    results = Results(path)
    value = TASKS["clinc150"].value
    assert results.best_rate(value, "clinc150", "spectune", 2) == 1e-2
    assert tables.scores(results, "clinc150", "spectune", 2) == {1: 1e-2}
    pool = Pool(results, Wanted("search", ["clinc150"], ["spectune"], [2], seeds), base="starter", jobs=1, points=0)
    (chain,) = Wanted("search", ["clinc150"], ["spectune"], [2], seeds).chains()
    asked = []
    while (key := pool._next(chain)) is not None:
        assert key.seed == 7
        asked.append(key.rate)
        results.add(key, json.loads(line("search", "spectune", test=other[key.rate])))
        if len(asked) < len(other):
            assert results.best_rate(value, "clinc150", "spectune", 2) is None
            assert tables.scores(results, "clinc150", "spectune", 2) == {}
    assert asked == [3e-3, 1e-2, 1e-3, 3e-4]
    assert results.best_rate(value, "clinc150", "spectune", 2) == 1e-3
    assert tables.scores(results, "clinc150", "spectune", 2) == {1: 1e-3}
    assert "0.600 (1e-03)" in tables.screened(results, 2)


def test_lines_that_are_there_are_kept_and_a_cut_one_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(line("search", "PEFT LoRA") + "\n" + line("search", "spectune")[:40])
    results = Results(path)
    key = Key("search", "clinc150", "PEFT LoRA", 2, 0, 1e-2)
    assert list(results) == [key]
    other = dataclasses.replace(key, method="spectune")
    results.add(other, {"validation": {"exact_match": 0.25}})
    assert list(Results(path)) == [key, other]


def test_tables_say_differences_seed_by_seed_and_what_is_covered(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    scores = {"frozen": (0.0, 0.0), "full fine-tuning": (0.8, 0.8), "PEFT LoRA": (0.4, 0.2), "spectune": (0.5, 0.5)}
    confirmed = [
        line("confirm", name, seed=seed, test=test) for name, pair in scores.items() for seed, test in enumerate(pair)
    ]
    path.write_text("\n".join([*confirmed, *(one for name in scores for one in searched(name))]))
    results = Results(path)
    assert "| spectune         | 0.500 ± 0.000 (+0.200) |" in tables.confirmed(results, 2)
    assert "PEFT LoRA | 38" in " ".join(tables.covered(results).split())
    assert "spectune | 62" in " ".join(tables.covered(results).split())
    assert tables.verdict(results, 2).splitlines()[2].split("|")[1:3] == [" clinc150: exact_match ", " +0.200         "]
    needed = " ".join(tables.examples_needed(results, 2).split())
    assert "| clinc150 | PEFT LoRA | 3,200 | 2 of 2 |" in needed


def test_a_curve_run_later_counts_in_place_of_the_confirmation(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    names = ("PEFT LoRA", "spectune")
    lines = [line("confirm", name, seed=seed, test=0.8) for name in names for seed in (1, 2)]
    lines += [one for name in names for one in searched(name)]
    path.write_text("\n".join(lines))
    results = Results(path)
    wanted = Wanted("curve", ["clinc150"], ["spectune"], [2], [1, 2])
    pool = Pool(results, wanted, base="starter", jobs=1, points=8)
    keys = [pool._next(chain) for chain in wanted.chains()]
    assert keys == [Key("curve", "clinc150", "spectune", 2, seed, 1e-2) for seed in (1, 2)]
    assert keys[0] is not None
    results.add(keys[0], json.loads(line("curve", "spectune", seed=1, test=1.6)))  # half of it is LoRA's 0.8
    assert pool._next(wanted.chains()[0]) is None
    needed = " ".join(tables.examples_needed(results, 2).split())
    assert "| clinc150 | spectune | 2,400 | 2 of 2 |" in needed  # 100 and 200 steps of 16 rows
    assert "| clinc150 | PEFT LoRA | 3,200 | 2 of 2 |" in needed
    assert tables.scores(results, "clinc150", "spectune", 2) == {1: 0.8, 2: 0.8}  # test rows: confirmations alone


def test_a_task_can_take_the_rates_of_another(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    longer, searches = "clinc150_3600", TASKS["clinc150_3600"].searched
    path.write_text("\n".join(searched("spectune", task=searches)))
    results = Results(path)
    pool = Pool(results, Wanted("confirm", [longer], ["spectune"], [2], [1]), base="starter", jobs=1, points=0)
    key = pool._next(Key("confirm", longer, "spectune", 2, 1, 0.0))
    assert key is not None
    assert key.rate == results.best_rate(TASKS[longer].value, searches, "spectune", 2)
    results.add(key, json.loads(line("confirm", "spectune", task=longer, seed=1, rate=key.rate, test=0.7)))
    assert tables.scores(results, longer, "spectune", 2) == {1: 0.7}


def test_a_shorter_run_is_compared_with_the_whole_run_of_lora_and_no_task_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [line("confirm", "PEFT LoRA", seed=seed, task="scan", test=0.5) for seed in (1, 2)]
    lines += [
        line("confirm", "spectune", seed=1, task="scan_560", test=0.6),
        line("confirm", "spectune", seed=2, task="scan_560", test=0.4),
    ]
    lines += [one for name in ("PEFT LoRA", "spectune") for one in searched(name, task="scan")]
    path.write_text("\n".join(lines))
    shown = " ".join(tables.in_shorter_runs(Results(path), 2).split())
    assert "| scan | spectune | 560 of 800 | 0.500 ± 0.141 (+0.000) | 1 of 2 |" in shown
    assert "scan_560" not in tables.confirmed(Results(path), 2) + tables.covered(Results(path))


def test_the_tables_are_put_between_the_marks(tmp_path: Path) -> None:
    page, lines = tmp_path / "page.md", tmp_path / "lines.jsonl"
    lines.write_text("\n".join([line("confirm", "spectune"), *searched("spectune")]))
    begin, end = marks("quality")
    page.write_text(f"above\n{begin}\nold\n{end}\nbelow\n")
    write_between(page, Results(lines))
    text = page.read_text()
    assert text.startswith(f"above\n{begin}\n")
    assert text.endswith(f"{end}\nbelow\n")
    assert "old" not in text
    assert "spectune" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="has none of the marks"):
        write_between(page, Results(lines))


def test_the_readme_leaves_out_what_ran_on_one_task_of_several(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    both = [line("confirm", "spectune", task=task) for task in ("clinc150", "scan")]
    both += [one for task in ("clinc150", "scan") for one in searched("spectune", task=task)]
    fast = [line("confirm", "spectune, preset: fast"), *searched("spectune, preset: fast")]
    path.write_text("\n".join([*both, *fast]))
    assert "preset: fast" in tables.confirmed(Results(path), 2)
    assert "preset: fast" not in summary(Results(path))
    assert "| spectune | 0.500" in " ".join(summary(Results(path)).split())
    path.write_text("\n".join([*fast, line("confirm", "spectune")]))
    assert "preset: fast" in summary(Results(path))


def test_the_main_budget_is_that_of_most_tasks(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    assert main_rank(Results(path)) is None
    path.write_text(line("confirm", "spectune", rank=1) + "\n" + line("search", "spectune", rank=1, task="scan"))
    assert main_rank(Results(path)) == 1
    more = [line("confirm", "spectune", rank=rank, task=task) for rank in (4, 2) for task in ("clinc150", "scan")]
    path.write_text("\n".join([line("confirm", "spectune", rank=1), *more]))
    assert main_rank(Results(path)) == 2


def test_the_ranks_are_drawn_and_compared(tmp_path: Path) -> None:
    names = ["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.2.DenseReluDense.wo"]
    found = {"a": [{names[0]: 1, names[1]: 3}, {names[0]: 0, names[1]: 4}], "b": [{names[0]: 3, names[1]: 1}]}
    assert rank_figure.agreement(found) == pytest.approx({"seeds of one task": 1.0, "different tasks": -1.0})
    assert rank_figure.parts(found)["feed-forward"] == pytest.approx(8 / 3)
    drawn = rank_figure.figure(found)
    assert drawn.count("<rect") == 1 + 2 * 2
    assert ">3.5<" in drawn  # the mean of 3 and 4


@pytest.mark.parametrize("page", ["README.md", "docs/quality.md"])
def test_the_pages_show_the_committed_lines(page: str, tmp_path: Path) -> None:
    written = ROOT / page
    (tmp_path / "page.md").write_text(written.read_text("utf-8"), "utf-8")
    write_between(tmp_path / "page.md", Results(ROOT / "benchmarks" / "results" / "quality.jsonl"))
    assert (tmp_path / "page.md").read_text("utf-8") == written.read_text("utf-8"), "run the command of docs/quality.md"
