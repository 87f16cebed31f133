"""The results as the page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.architectures.builders import REFUSED, type_of
from tests.architectures.trial import CHECKS, Row

RESULTS = Path(__file__).with_name("RESULTS.json")
PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
_BLOCKS = ["self_attention", "cross_attention", "feed_forward"]
_ROLES = ["q", "k", "v", "qkv", "kv", "o", "in", "gate", "out"]
_REMARKS = {
    "bigbird_pegasus": "A base that spectune loads decides batch by batch between block-sparse and full attention; by "
    "itself it stays with full attention after its first short batch.",
    "encoder-decoder": "Its `config.json` must have `decoder_start_token_id` and `pad_token_id`, or `plan` refuses it.",
    "encoder-decoder (GPT-2)": "GPT-2 has one matrix for q, k and v (`qkv`), and one for k and v.",
    "fsmt": "Its own `loss` counts padding as targets and shifts no labels: in a loop of your own pass "
    "`decoder_input_ids` and compute the loss over `logits`.",
    "led": "The matrices of global attention have a gradient only where the batch has a `global_attention_mask`; "
    "`spectune train` gives it to the first token (`model.global_attention`); in a loop of your own pass it.",
    "mvp (prompts)": "The prompts are not adapted. transformers multiplies them in float32 alone, so "
    "`model.dtype: auto` is float32.",
    "nllb-moe": "Routers are not adapted. An expert without tokens has no gradient, which counts as zero; so does a "
    "layer that layer dropout skips. The routers' own losses are not trained on.",
    "prophetnet": "`spectune train` learns the next token alone, not the n-grams of ProphetNet's own loss. "
    "`relative_pos_embeddings` is not adapted.",
    "seamless_m4t": "Text encoder and text decoder.",
    "seamless_m4t_v2": "Text encoder and text decoder.",
    "switch_transformers": "As for nllb-moe.",
    "t5 (v1.1)": "Also FLAN-T5. PEFT's defaults miss `wi_0` and `wi_1` without a word.",
    "t5gemma2": "The vision tower is left out. The decoder's self-attention reads the encoder, too: there is no "
    "cross-attention of its own.",
}


def render(rows: Sequence[Row]) -> str:
    """The whole page."""
    return "\n".join(_lines(rows)) + "\n"


def load() -> list[Row]:
    """The committed results."""
    return [Row(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))]


def save(rows: Sequence[Row]) -> None:
    """Write the results, and the page made of them."""
    RESULTS.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n", encoding="utf-8")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(rows), encoding="utf-8")


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "# Architectures"
    yield ""
    yield "<!-- written by `python -m tests.architectures`; do not edit -->"
    yield ""
    yield (
        "Every text-to-text type of transformers' `AutoModelForSeq2SeqLM`, built tiny from its configuration and taken "
        f"through everything: {len({type_of(row.name) for row in rows})} types, {len(rows)} rows. "
        "`tests/test_architectures.py` repeats each row; a type that is new in transformers fails there until it has "
        "one."
    )
    yield ""
    yield f"| type | adapted | PEFT alone | {' | '.join(CHECKS)} |"
    yield f"|---|---|---|{'---|' * len(CHECKS)}"
    for row in rows:
        marks = " | ".join("✓" if row.checks[check] else "✗" for check in CHECKS)
        alone = "–" if row.peft_alone is None else f"{row.peft_alone}"
        yield f"| {row.name}<br>`{row.class_name}` | {_count(row)} | {alone} | {marks} |"
    yield ""
    for check, meaning in CHECKS.items():
        yield f"- **{check}**: {meaning}."
    yield (
        "- **adapted**: matrices that `target_modules: auto` takes of the tiny model; **PEFT alone**: how many of them "
        "PEFT's own AdaLoRA defaults take, – where it has none for the type and refuses to start."
    )
    yield from _matrices(rows)
    yield from _choice()
    yield from _refused()


def _count(row: Row) -> int:
    return sum(sum(roles.values()) for roles in row.matrices.values())


def _matrices(rows: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield "## What is adapted"
    yield ""
    yield "Roles with their numbers in two encoder and two decoder layers, and linear maps that are left out."
    yield ""
    yield "| type | encoder | decoder | left out | remarks |"
    yield "|---|---|---|---|---|"
    for row in rows:
        stacks = [_stack(row, stack) for stack in ("encoder", "decoder")]
        left_out = "<br>".join(f"`{name}`" for name in row.left_out)
        yield f"| {row.name} | {' | '.join(stacks)} | {left_out} | {_REMARKS.get(row.name, '')} |"


def _stack(row: Row, stack: str) -> str:
    blocks = {key.removeprefix(f"{stack} "): roles for key, roles in row.matrices.items() if key.startswith(stack)}
    return "<br>".join(
        f"{block.replace('_', '-')}: {', '.join(f'{role} {roles[role]}' for role in sorted(roles, key=_ROLES.index))}"
        for block, roles in sorted(blocks.items(), key=lambda item: _BLOCKS.index(item[0]))
    )


def _choice() -> Iterator[str]:
    yield ""
    yield "## How matrices are found"
    yield ""
    yield (
        "By structure, not by a table of types: linear maps inside repeated blocks (`nn.ModuleList`) of what the model "
        "itself returns from `get_encoder()` and `get_decoder()`. Left out are embeddings, heads (outside the blocks), "
        "routers, and weights that another module shares, which a merge would change twice."
    )
    yield ""
    yield (
        "Towers for other senses (a part of the name says `vision`, `image`, `video`, `audio` or `speech`) see no "
        "text: their matrices would only take rank from the others. They are adapted where `target_modules` names "
        "them, as in `vision_tower.encoder.layers.0.mlp.fc1` or `.*vision.*fc1`; `q_proj` alone means those of the "
        "text. So T5Gemma 2 trains its text encoder and decoder. SeamlessM4T's text-to-text class holds no "
        "speech encoder; of the whole `SeamlessM4TModel`, too, only text encoder and text decoder are taken."
    )


def _refused() -> Iterator[str]:
    yield ""
    yield "## Refused"
    yield ""
    yield (
        "`spectune plan` and `spectune train` end with one line (exit status 2) before any weight is read. Also "
        "refused are decoder-only and encoder-only models, and encoder-decoder models that `AutoModelForSeq2SeqLM` "
        "does not have (Whisper, VisionEncoderDecoder, …)."
    )
    yield ""
    yield "| type | reason |"
    yield "|---|---|"
    for name, reason in REFUSED.items():
        yield f"| {name} | {reason} |"
