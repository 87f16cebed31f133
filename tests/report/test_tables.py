from __future__ import annotations

from typing import Any

from rich.cells import cell_len

from spectune.adapter.roles import TargetRole, role_of
from spectune.report.tables import (
    confusion_table,
    metrics_table,
    predictions_table,
    rank_table,
    role_summary,
    role_table,
    shorten,
)

T5_NAMES = [
    *(f"encoder.block.{n}.layer.0.SelfAttention.{r}" for n in range(11) for r in "qkvo"),
    *(f"encoder.block.{n}.layer.1.DenseReluDense.{r}" for n in range(11) for r in ("wi_0", "wi_1", "wo")),
    *(f"decoder.block.{n}.layer.0.SelfAttention.{r}" for n in range(2) for r in "qkvo"),
    *(f"decoder.block.{n}.layer.1.EncDecAttention.{r}" for n in range(2) for r in "qkvo"),
    *(f"decoder.block.{n}.layer.2.DenseReluDense.{r}" for n in range(2) for r in ("wi_0", "wi_1", "wo")),
]


def cells(line: str) -> list[str]:
    return line.split()


def test_every_rank_stands_at_its_layer_and_role() -> None:
    ranks = {name: index % 100 for index, name in enumerate(T5_NAMES)}
    table = rank_table(ranks, {name: role_of(name) for name in T5_NAMES})
    lines = table.splitlines()
    assert max(cell_len(line) for line in lines) <= 100
    assert "\x1b" not in table
    encoder = next(line for line in lines if cells(line)[:2] == ["encoder", "2"])
    assert cells(encoder)[2:] == ["8", "9", "10", "11", "·", "·", "·", "·", "51", "50", "52"]
    decoder = next(line for line in lines if cells(line)[:2] == ["decoder", "1"])
    assert cells(decoder)[2:] == [
        str(ranks[name]) for name in T5_NAMES if "decoder.block.1" in name and "SelfA" in name
    ] + [str(ranks[f"decoder.block.1.layer.1.EncDecAttention.{role}"]) for role in "qkvo"] + [
        str(ranks[f"decoder.block.1.layer.2.DenseReluDense.{role}"]) for role in ("wi_1", "wi_0", "wo")
    ]
    order = [cells(line)[:2] for line in lines if cells(line)[:1] in (["encoder"], ["decoder"])]
    assert order == [["encoder", str(n)] for n in range(11)] + [["decoder", "0"], ["decoder", "1"]]
    assert f"{len(ranks)} matrices, total rank {sum(ranks.values())}" in lines[-1]


def test_columns_that_nothing_has_are_left_out() -> None:
    name = "encoder.block.0.layer.0.SelfAttention.q"
    table = rank_table({name: 3}, {name: role_of(name)})
    assert table.splitlines()[0].split() == ["self"]
    assert "cross" not in table
    assert "ffn" not in table


def test_modules_without_a_place_are_listed_by_name() -> None:
    ranks = {"encoder.block.0.experts.0.wi": 4, "encoder.block.0.experts.1.wi": 5, "odd.thing": 6}
    role = TargetRole(stack="encoder", layer=0, block="feed_forward", role="in")
    roles = {name: role for name in ranks if name != "odd.thing"}
    lines = rank_table(ranks, roles).splitlines()
    assert ["encoder", "0", "4"] in [cells(line) for line in lines]
    assert ["encoder.block.0.experts.1.wi", "5"] in [cells(line) for line in lines]
    assert ["odd.thing", "6"] in [cells(line) for line in lines]


def test_no_ranks_at_all() -> None:
    assert rank_table({}, {}) == "0 matrices, total rank 0, none adapted"


def test_summary_by_stack_and_block() -> None:
    ranks = {
        "encoder.layers.0.self_attn.q_proj": 2,
        "encoder.layers.0.self_attn.k_proj": 4,
        "decoder.layers.0.encoder_attn.v_proj": 0,
        "odd.thing": 9,
    }
    roles = {name: role_of(name) for name in ranks if name != "odd.thing"}
    assert role_summary(ranks, roles) == [
        {"group": "other", "matrices": 1, "total": 9, "mean": 9.0, "min": 9, "max": 9},
        {"group": "encoder self-attention", "matrices": 2, "total": 6, "mean": 3.0, "min": 2, "max": 4},
        {"group": "decoder cross-attention", "matrices": 1, "total": 0, "mean": 0.0, "min": 0, "max": 0},
    ]
    assert "encoder self-attention" in role_table(ranks, roles)


def test_metrics_carry_their_signatures() -> None:
    table = metrics_table({"bleu": {"value": 23.456789, "signature": "bleu|nrefs:1|[case]:mixed"}})
    assert ["bleu", "23.46", "bleu|nrefs:1|[case]:mixed"] in [cells(line) for line in table.splitlines()]


def test_predictions_are_shortened_and_marked() -> None:
    records: list[dict[str, Any]] = [
        {"text": "word " * 100, "target": "positive", "prediction": " positive"},
        {"text": "[red]x[/red]\nsecond line", "target": "neutral", "prediction": "negative"},
        {"text": "third", "target": "a", "references": ["a", "b"], "prediction": "b"},
        {"text": "not shown", "target": "a", "prediction": "a"},
    ]
    table = predictions_table(iter(records), rows=3)
    assert max(cell_len(line) for line in table.splitlines()) <= 100
    assert table.count("=") == 2
    assert table.count("≠") == 1
    assert "[red]x[/red] second line" in table
    assert "…" in table
    assert "not shown" not in table


def test_a_text_cannot_speak_to_the_terminal() -> None:
    table = predictions_table([{"text": "\x1b[31mred\x07", "target": "a\u202eb", "prediction": "c"}])
    assert "\x1b" not in table
    assert "\x07" not in table
    assert "\u202e" not in table
    assert "�[31mred�" in table


def test_wide_characters_fit() -> None:
    table = predictions_table([{"text": "漢字" * 60, "target": "漢字" * 60, "prediction": "漢字" * 60}])
    assert max(cell_len(line) for line in table.splitlines()) <= 100


def test_shorten() -> None:
    assert shorten("short", 10) == "short"
    assert shorten("exactly ten", 11) == "exactly ten"
    assert shorten("one two three", 8) == "one two…"


def test_confusion_has_a_row_for_each_target() -> None:
    confusion = {
        "rows": ["bad", "very good"],
        "columns": ["bad", "very good", "other"],
        "counts": [[5, 1, 0], [2, 7, 3]],
    }
    lines = confusion_table(confusion).splitlines()
    assert lines[0].split() == ["target", "\\", "predicted", "bad", "very", "good", "other"]
    assert [cells(line) for line in lines[2:]] == [["bad", "5", "1", "0"], ["very", "good", "2", "7", "3"]]
