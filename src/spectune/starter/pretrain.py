"""Pre-train the starter: ``python -m spectune.starter.pretrain --corpus FILE --output DIR``.

Trains a tokenizer, builds a small T5 and teaches it span corruption. DIR receives ``tokenizer/``, ``checkpoint/``
(replaced as a whole), ``log.jsonl`` and at the end ``model/``, the half-precision export. ``--resume`` continues
from the checkpoint; ``--export CHECKPOINT`` turns any checkpoint into a model directory.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from spectune.adapter.state import optimizer_state, restore_optimizer
from spectune.files import write_json, write_new
from spectune.manifest import whole_directory
from spectune.starter.corpus import SpanBatches, read_lines, token_stream
from spectune.starter.export import STATE, TENSORS, export_checkpoint, load_model, read_checkpoint
from spectune.starter.head_start import give_head_start
from spectune.starter.scaled_adamw import ScaledAdamW
from spectune.starter.tokenizer import train_tokenizer
from spectune.starter.word_vectors import start_from_word_vectors, word_vectors

CHECKPOINT = "checkpoint"
HELD_OUT_LINES = 2000
WARM_UP, DECAY = 0.02, 0.5
FLOOR = 0.02


def t5_config(vocabulary: int, width: int = 256) -> T5Config:
    """The starter's architecture: at ``width`` 256 and 6,100 ids, 6.0 million parameters."""
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=32,
        num_heads=width // 32,
        d_ff=2 * width,
        num_layers=4,
        num_decoder_layers=3,
        feed_forward_proj="relu",
        dropout_rate=0.0,
        **ids,
    )


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up, a plateau, then a cosine over the last half; ``progress`` is the share done, 0 to 1."""
    if progress < WARM_UP:
        return peak * max(progress / WARM_UP, FLOOR)
    falling = max(0.0, min(1.0, (progress - (1 - DECAY)) / DECAY))
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * falling)))


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run; the length is in steps, or in minutes if these are not 0."""

    steps: int
    minutes: float
    seed: int
    lr: float
    batch: int
    chunk: int
    mixed_from: int
    width: int
    held_out_lines: int
    bf16: bool


@dataclass
class Run:
    """Everything that advances during pre-training; ``seconds`` is the time spent training, over all resumptions."""

    model: T5ForConditionalGeneration
    optimizer: ScaledAdamW
    settings: Settings
    step: int = 0
    seconds: float = 0.0

    @property
    def progress(self) -> float:
        """The share of the run done: of its minutes if it was given minutes, else of its steps."""
        if self.settings.minutes:
            return min(1.0, self.seconds / (60 * self.settings.minutes))
        return self.step / self.settings.steps

    def save(self, directory: Path) -> None:
        """Write a checkpoint; the directory appears whole or not at all."""
        moments, rest = optimizer_state(self.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.named_parameters()} | moments
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        state = {
            "optimizer": rest,
            "config": self.model.config.to_dict(),
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
        }
        with whole_directory(directory) as partial:
            write_new(partial / TENSORS, content)
            write_json(partial / STATE, state)

    def load(self, directory: Path) -> None:
        """Continue from a checkpoint. The length of the run may be set anew; what a step is may not."""
        state, tensors = read_checkpoint(directory)
        free = ("steps", "minutes")
        stored = {name: value for name, value in state["settings"].items() if name not in free}
        changed = [name for name, value in stored.items() if value != getattr(self.settings, name)]
        if changed:
            options = ", ".join(f"--{name.replace('_', '-')} {stored[name]}" for name in changed)
            raise SystemExit(f"{directory} was made with other settings; resume with {options}")
        load_model(self.model, tensors)
        restore_optimizer(self.optimizer, state["optimizer"], tensors)
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def train_step(run: Run, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One update; returns the batch's mean cross entropy per target token, still a tensor."""
    rate = learning_rate(run.progress, run.settings.lr)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16, enabled=run.settings.bf16):
        loss: torch.Tensor = run.model(**batch).loss
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.step += 1
    return loss.detach()


@torch.no_grad()
def held_out_loss(model: T5ForConditionalGeneration, held_out: SpanBatches, batches: int = 16) -> float:
    """Mean cross entropy per target token over fixed spans of text never trained on."""
    device = model.device
    losses = [model(**_to(batch, device)).loss for batch in held_out.in_order(batches)]
    return float(torch.stack(losses).mean())


def pretrain(run: Run, train: SpanBatches, held_out: SpanBatches, output: Path, options: argparse.Namespace) -> None:
    """Train to the end of the run, logging every ``log_every`` steps and saving every ``save_every``."""
    run.model.train()
    device, start_step, window = run.model.device, run.step, []
    tokens_per_step = train.chunk * train.batch
    started, before = time.monotonic(), run.seconds
    mark = (started, run.step)
    while run.progress < 1.0 and (not options.stop_after or run.step - start_step < options.stop_after):
        window.append(train_step(run, _to(train.at(run.step), device)))
        now = time.monotonic()
        run.seconds = before + now - started
        if run.step % options.log_every == 0:
            speed = tokens_per_step * (run.step - mark[1]) / (now - mark[0])
            record = _record(run, tokens_per_step, float(torch.stack(window).mean()), speed)
            if run.step % options.save_every == 0:
                record["held_out_loss"] = round(held_out_loss(run.model, held_out), 4)
                run.save(output / CHECKPOINT)
            _log(output / "log.jsonl", record)
            window, mark = [], (time.monotonic(), run.step)
    record = _record(run, tokens_per_step, None, None)
    record["held_out_loss"] = round(held_out_loss(run.model, held_out, 64), 4)
    run.save(output / CHECKPOINT)
    _log(output / "log.jsonl", record)


def _record(run: Run, tokens_per_step: int, loss: float | None, speed: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "step": run.step,
        "tokens": run.step * tokens_per_step,
        "seconds": round(run.seconds, 1),
        "progress": round(run.progress, 4),
        "lr": round(learning_rate(run.progress, run.settings.lr), 6),
    }
    if loss is not None and speed is not None:
        record |= {"loss": round(loss, 4), "tokens_per_second": round(speed)}
    return record


def _log(path: Path, record: dict[str, Any]) -> None:
    line = json.dumps(record)
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _to(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _tokenizer(lines: list[str], output: Path, pieces: int) -> PreTrainedTokenizerFast:
    """The run's tokenizer; learned from a third of the lines, which is plenty for 6,000 pieces."""
    if not (output / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(lines[::3], pieces).save_pretrained(output / "tokenizer")
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(output / "tokenizer")
    return tokenizer


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m spectune.starter.pretrain", description=__doc__)
    parser.add_argument("--corpus", type=Path, help="text, one passage a line, plain or .gz")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--export", type=Path, metavar="CHECKPOINT", help="write a model directory to --output, and stop"
    )
    parser.add_argument(
        "--sources", type=Path, help="Markdown about the corpus (attributions), put into the model card"
    )
    parser.add_argument("--resume", action="store_true", help="continue from DIR/checkpoint")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=0.0, help="lay the schedule over this time instead of --steps")
    parser.add_argument("--stop-after", type=int, default=0, help="stop (resumably) after so many steps")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--lr", type=float, default=2e-2)
    parser.add_argument("--batch", type=int, default=24, help="chunks a step")
    parser.add_argument("--chunk", type=int, default=128, help="tokens in a chunk before corruption")
    parser.add_argument(
        "--mixed-from", type=int, default=0, help="step from which whole texts and bare fillings are asked for too"
    )
    parser.add_argument("--pieces", type=int, default=6000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--held-out-lines", type=int, default=HELD_OUT_LINES)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=250, help="a multiple of --log-every")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16; slower on a CPU without bf16 units")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.corpus is None and options.export is None:
        parser.error("--corpus is needed (or --export)")
    return options


def main(arguments: list[str] | None = None) -> None:
    """The program; ``arguments`` default to the command line's."""
    options = _options(arguments)
    if options.export is not None:
        export_checkpoint(options.export, options.output, options.sources)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    lines = read_lines(options.corpus)
    tokenizer = _tokenizer(lines[options.held_out_lines :], options.output, options.pieces)
    torch.manual_seed(options.seed)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    train, held_out = (
        SpanBatches(
            token_stream(part, tokenizer), tokenizer, options.chunk, options.batch, options.seed, options.mixed_from
        )
        for part in (lines[options.held_out_lines :], lines[: options.held_out_lines])
    )
    model = T5ForConditionalGeneration(t5_config(len(tokenizer), options.width))
    give_head_start(model)
    if not options.resume:
        start_from_word_vectors(model.shared, word_vectors(train.stream, len(tokenizer), options.width))
    run = Run(model.to(options.device), ScaledAdamW(model.parameters()), settings)
    if options.resume:
        run.load(options.output / CHECKPOINT)
    pretrain(run, train, held_out, options.output, options)
    export_checkpoint(options.output / CHECKPOINT, options.output / "model", options.sources)


if __name__ == "__main__":
    main()
