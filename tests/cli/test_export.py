"""`spectune export` and `spectune ranks` as commands: what they print and write, and refusals in one line."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import RunCli
from tests.forms import adapter_of_peft
from transformers import PreTrainedTokenizerFast

import spectune
from spectune.adapter.roles import role_of
from spectune.formats.adapter_files import WEIGHTS
from spectune.report.rank_image import rank_png

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")


@pytest.fixture
def adapter(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter that plain PEFT made; the working directory is empty."""
    made = adapter_of_peft(tmp_path, tiny_tokenizer)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,target\nprofit rose,positive\nsales fell,negative\n,lost\n", encoding="utf-8")
    return path


def test_ranks_as_a_table(run_cli: RunCli, adapter: Path) -> None:
    finished = run_cli("ranks", adapter)
    assert finished.status == 0, finished.err
    ranks = spectune.ranks(adapter)
    assert sorted(set(ranks.values())) == [0, 1, 2, 3, 4]
    q = ranks["decoder.block.0.layer.0.SelfAttention.q"]
    line = next(line for line in finished.out.splitlines() if line.startswith("decoder 0"))
    assert line.split()[2] == str(q)
    assert f"{len(ranks)} matrices, total rank {sum(ranks.values())}" in finished.out
    assert "encoder self-attention" in finished.out


def test_a_merged_model_says_its_precision(run_cli: RunCli, adapter: Path) -> None:
    finished = run_cli("export", adapter, "--format", "merged", "--output", "whole")
    assert finished.status == 0, finished.err
    assert finished.out.endswith("weights in float32, as the run held its base\n")


def test_ranks_as_json(run_cli: RunCli, adapter: Path) -> None:
    answer = json.loads(run_cli("ranks", adapter, "--format", "json").out)
    assert answer["ranks"] == spectune.ranks(adapter)
    assert answer["total"] == sum(answer["ranks"].values()) == sum(group["total"] for group in answer["groups"])


def test_ranks_as_a_picture(run_cli: RunCli, adapter: Path) -> None:
    assert run_cli("ranks", adapter, "--format", "png").out == "wrote ranks.png\n"
    with Image.open("ranks.png") as image:
        image.verify()
    with Image.open("ranks.png") as image:
        assert image.format == "PNG"
        assert image.size[0] > image.size[1] > 100
        colours = image.convert("RGB").getcolors(maxcolors=100_000)
    assert colours is not None
    shades = {colour for count, colour in colours if count > 500}
    assert len(shades) >= 6, "paper and five ranks"


def test_a_full_disk_is_named_and_leaves_nothing(
    run_cli: RunCli, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("ranks.json").write_text("old")

    def full(handle: int, content: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        finished = run_cli("ranks", adapter, "--format", "json", "--output", "ranks.json")
    assert finished.error() == "ranks.json: No space left on device; make room there, or name another place"
    assert [path.name for path in Path().iterdir()] == ["ranks.json"]
    assert Path("ranks.json").read_text() == "old"


def test_the_darkest_cell_has_the_highest_rank() -> None:
    names = [f"encoder.block.0.layer.0.SelfAttention.{role}" for role in "qkv"]
    roles = {name: role_of(name) for name in names}
    one, two = (
        Image.open(io.BytesIO(rank_png(dict(zip(names, ranks, strict=True)), roles)))
        for ranks in ([1, 9, 1], [9, 1, 1])
    )
    row = one.size[1] - 45
    dark = [[x for x in range(image.size[0]) if sum(image.getpixel((x, row))) < 180] for image in (one, two)]  # type: ignore[arg-type]
    assert min(dark[0]) == min(dark[1]) + 64, "one column to the right"
    assert rank_png({"own": 3}, {}), "a module without a role"


def test_a_plain_lora_adapter_and_a_smaller_one(run_cli: RunCli, adapter: Path, tmp_path: Path) -> None:
    finished = run_cli("export", adapter, "--output", tmp_path / "new" / "lora")
    assert finished.status == 0, finished.err
    size = (tmp_path / "new" / "lora" / WEIGHTS).stat().st_size
    assert finished.out == f"wrote {tmp_path / 'new' / 'lora'} (lora, {size / 1e3:,.0f} kB of weights)\n"
    smaller = run_cli("export", adapter, "--output", tmp_path / "small", "--format", "adalora", "--target-rank", "1")
    kept, before = (sum(spectune.ranks(place).values()) for place in (tmp_path / "small", adapter))
    assert smaller.out.startswith(f"kept {kept} of {before} triplets, chosen by their size s·|λ|·‖P‖·‖Q‖")


def test_a_sweep(run_cli: RunCli, adapter: Path, rows: Path) -> None:
    finished = run_cli("export", adapter, "--sweep", "--data", rows)
    assert finished.status == 0, finished.err
    content = json.loads(Path("sweep.json").read_text("utf-8"))
    points = content["points"]
    assert (content["rows"], content["ranked_by"], len(points)) == (2, "size", 5)
    sizes = [point["weights_bytes"] for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 5
    assert {"exact_match", "eval_loss"} <= points[0]["metrics"].keys()
    assert all("signature" in metric for metric in points[0]["metrics"].values())
    assert points[0]["metrics"]["eval_loss"]["value"] != points[-1]["metrics"]["eval_loss"]["value"]
    table = finished.out.splitlines()
    assert [line for line in table if line.startswith("whole ") and f"{sizes[0]:,}" in line]
    assert "left out" in finished.err, "a row without a text"

    refused = run_cli("export", adapter, "--sweep", "--data", rows).error()
    assert refused == "sweep.json is there already; name another file with --output, or give --overwrite"
    assert json.loads(Path("sweep.json").read_text("utf-8")) == content

    Path("own.json").write_text("{}")
    sweep = ["export", adapter, "--sweep", "--data", rows, "--budget", "12kB, 9kB", "-o", "own.json", "--overwrite"]
    asked = run_cli(*sweep)
    assert asked.status == 0, asked.err
    points = json.loads(Path("own.json").read_text("utf-8"))["points"]
    assert [point["limit"] for point in points] == ["12 kB", "9 kB"]
    assert points[0]["weights_bytes"] <= 12_000
    assert points[1]["weights_bytes"] <= 9_000


def test_the_data_is_not_replaced_by_what_is_made_of_it(run_cli: RunCli, adapter: Path, rows: Path) -> None:
    before = rows.read_bytes()
    sweep = run_cli("export", adapter, "--sweep", "--data", rows, "-o", rows, "--overwrite")
    for finished in (sweep, run_cli("predict", adapter, rows, "-o", rows)):
        assert finished.error() == f"{rows} is the data itself; name another file with --output"
    assert rows.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "ADAPTER"], "name the directory to write with --output"),
        (["export", "ADAPTER", "-o", "out", "--target-rank", "two"], "--target-rank 'two' is no number"),
        (["export", "ADAPTER", "-o", "out", "--target-rank", "2,1"], "several target ranks go with --sweep"),
        (["export", "ADAPTER", "-o", "out", "--data", "rows.csv"], "--data goes with --sweep"),
        (["export", "ADAPTER", "--sweep"], "--sweep needs rows to score"),
        (["export", "ADAPTER", "--sweep", "--data", "gone.csv"], "gone.csv"),
        (["export", "ADAPTER", "--sweep", "--data", "ROWS", "--budget", "3B"], "has room for none of"),
        (["export", "ADAPTER", "--sweep", "--data", "ROWS", "--format", "merged"], "a merged model has one size"),
        (["export", "ADAPTER", "--sweep", "--data", "ROWS", "-o", "gone/x.json"], "gone/x.json cannot be written"),
        (["export", "gone", "-o", "out"], "there is no directory gone"),
        (["ranks", "ADAPTER", "--format", "svg"], "there is no format 'svg'; name one of table, json, png"),
        (["ranks", "ADAPTER", "--format", "png", "-o", "gone/x.png"], "gone/x.png cannot be written"),
        (["ranks", "gone"], "there is no directory gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes(
    run_cli: RunCli, adapter: Path, rows: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectune.evaluation.trained.load_base", lambda *_, **__: pytest.fail("a base was loaded"))
    named = {"ADAPTER": str(adapter), "ROWS": str(rows)}
    assert message in run_cli(*[named.get(word, word) for word in words]).error()
    assert not list(Path.cwd().iterdir())


def test_mistakes_are_found_without_torch(adapter: Path) -> None:
    program = (
        "import sys; from spectune.cli import main; "
        f"status = main(['export', {str(adapter)!r}, '--output', {str(adapter)!r}]); "
        "sys.exit(status if 'torch' not in sys.modules else 9)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 2, answer.stderr
    assert "holds the adapter that is exported" in answer.stderr
