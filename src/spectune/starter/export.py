"""Turn a pre-training checkpoint into a model directory: half-precision weights, tokenizer, card and log."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from spectune.files import read_json
from spectune.manifest import verify_manifest

LOG = "pretraining_log.jsonl"
TENSORS, STATE = "state.safetensors", "state.json"

CARD = Template("""\
# spectune starter

A small encoder-decoder language model of the T5 architecture ($parameters parameters, bfloat16 weights) with its own
unigram tokenizer ($vocabulary ids), made so that spectune's demonstration and tests need no download. It is a toy next
to T5, which has read tens of thousands of times as much: it knows little about the world, and gives no useful output
before it is fine-tuned. For real work start from a real pre-trained model.

## Training

Span corruption only (15 % of the tokens; spans of 3 on average), $tokens tokens in $steps steps of $batch chunks of
$chunk tokens. The first $mixed_from steps asked for the fillings behind their sentinels; after them, of four batches
two did, one asked for the whole text with its gaps filled, one for the bare filling of a single gap. The embeddings
started from counts of which words stand together (`spectune.starter.word_vectors`), the attention from weights that
lean towards a token's neighbours (`spectune.starter.head_start`). AdamW with steps scaled by each parameter's root mean
square, peak rate $lr. Cross entropy per target token on lines never trained on: **$loss** (a uniform guess has
$uniform). The log is in `$log`.

    $command

The text is English; anything in it (old books, film reviews, everyday sentences) may show through.
$sources""")


def export_checkpoint(checkpoint: Path, directory: Path, sources: Path | None = None) -> None:
    """Write the model of ``checkpoint`` to ``directory``, with the tokenizer and the log that lie beside it.

    ``sources`` is Markdown about the corpus (attributions, licences), put at the end of the card.
    """
    state, tensors = read_checkpoint(checkpoint)
    model = T5ForConditionalGeneration(T5Config.from_dict(state["config"]))
    load_model(model, tensors)
    model.generation_config = GenerationConfig(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    directory.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(directory)
    _load_as_float32(directory / "config.json")
    PreTrainedTokenizerFast.from_pretrained(checkpoint.parent / "tokenizer").save_pretrained(directory)
    records = _until(checkpoint.parent / "log.jsonl", int(state["step"]))
    (directory / LOG).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (directory / "README.md").write_text(_card(state, model, records, sources), encoding="utf-8")


def read_checkpoint(directory: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What `Run.save` wrote: plain values, and tensors by name. Raises RunError for a damaged one."""
    verify_manifest(directory)
    state: dict[str, Any] = read_json(directory / STATE)
    return state, load_file(directory / TENSORS)


@torch.no_grad()
def load_model(model: T5ForConditionalGeneration, tensors: dict[str, torch.Tensor]) -> None:
    """Copy a checkpoint's weights into a model; tied ones are in it once."""
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model.{name}"])


def _load_as_float32(config: Path) -> None:
    """The stored precision saves space; computing in it is slow on most CPUs, and transformers would follow it."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _until(log: Path, step: int) -> list[dict[str, Any]]:
    """The log's records up to ``step``; where a resumed run repeated steps, the later record counts."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["step"] <= step:
            by_step[record["step"]] = by_step.get(record["step"], {}) | record
    return [by_step[key] for key in sorted(by_step)]


def _card(
    state: dict[str, Any], model: T5ForConditionalGeneration, records: list[dict[str, Any]], sources: Path | None
) -> str:
    settings = state["settings"]
    losses = [record["held_out_loss"] for record in records if "held_out_loss" in record]
    vocabulary = int(model.config.vocab_size)
    return CARD.substitute(
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        vocabulary=f"{vocabulary:,}",
        tokens=f"{state['step'] * settings['batch'] * settings['chunk']:,}",
        steps=f"{state['step']:,}",
        batch=settings["batch"],
        chunk=settings["chunk"],
        lr=settings["lr"],
        mixed_from=f"{settings['mixed_from']:,}",
        loss=f"{losses[-1]:.2f}" if losses else "not measured",
        uniform=f"{torch.tensor(float(vocabulary)).log().item():.2f}",
        log=LOG,
        command=_command(settings),
        sources="\n" + sources.read_text(encoding="utf-8") if sources else "",
    )


def _command(settings: dict[str, Any]) -> str:
    length = f"--minutes {settings['minutes']:g}" if settings["minutes"] else f"--steps {settings['steps']}"
    names = ("seed", "lr", "batch", "chunk", "mixed_from", "width")
    rest = " ".join(f"--{name.replace('_', '-')} {settings[name]}" for name in names)
    bf16 = " --bf16" if settings["bf16"] else ""
    return f"python -m spectune.starter.pretrain --corpus FILE --output DIR {length} {rest}{bf16}"
