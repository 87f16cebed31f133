"""One type of model through everything a run does with it; what held is the row of the table in the documentation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING as PEFT_DEFAULTS
from tests.architectures.builders import VOCABULARY, build
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

import spectune
from spectune.adapter.roles import role_of
from spectune.config import TrainConfig
from spectune.data.loader import Window
from spectune.evaluation.bases import load_base, without_peft_chatter
from spectune.evaluation.decoding import greedy
from spectune.evaluation.generation import GenerationSettings, generation_config, generation_model
from spectune.evaluation.loss import evaluation_loss
from spectune.formats.plain_lora import write_plain_lora
from spectune.planning import count_roles
from spectune.training.optimizer import make_optimizer
from spectune.training.step import StepOptions, training_step

SCHEDULE = {"total_step": 8, "tinit": 2, "tfinal": 2, "deltaT": 1, "init_r": 3, "target_r": 2}
OPTIONS = StepOptions(
    device=torch.device("cpu"),
    autocast=contextlib.nullcontext,
    label_smoothing=0.0,
    max_grad_norm=1.0,
    penalty_in_scores=True,
    call_order="paper",
)
CHECKS = {
    "attach": "every adapted matrix has its stack, layer, block and role, and `attach` takes them all",
    "phases": "the real training step through warm-up, decrease and frozen phase; every loss finite",
    "budget": "live triplets == the schedule's budget after every allocation, and after compaction",
    "reload": "plain PEFT loads the adapter on a fresh base: logits equal within 1e-5, in evaluations bit for bit",
    "generate": "our greedy search, transformers' own, and the reloaded adapter's give the same tokens",
    "loss": "the evaluation loss of the live and of the reloaded adapter are the same number",
    "merge": "the merged model's logits are equal within 1e-5",
    "lora": "the plain-LoRA export's logits are equal within 1e-5",
}


@dataclass(frozen=True)
class Row:
    """What held for one type."""

    name: str
    class_name: str
    matrices: dict[str, dict[str, int]]
    """Stack and block → role → number, of what is adapted."""
    left_out: list[str]
    """Linear maps that are not adapted, layer numbers replaced by `*`."""
    peft_alone: int | None
    """Of the adapted matrices, those that PEFT's own defaults adapt; None where PEFT has none for the type."""
    checks: dict[str, bool]

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return asdict(self)


def examine(name: str, directory: Path) -> Row:
    """Take one type through everything, in `directory`."""
    build(name).save_pretrained(directory / "base")
    base = _our_base(directory)
    targets = spectune.default_targets(base)
    model, engine = attached(base, targets)
    checks = {"attach": sorted(engine.ranks()) == sorted(targets) and all(map(_has_its_place, targets))}
    checks |= train(model, engine)
    checks |= _forms(model.eval(), directory)
    return Row(
        name=name,
        class_name=type(base).__name__,
        matrices=count_roles(targets),
        left_out=_left_out(build(name), targets),
        peft_alone=_peft_alone(base.config.model_type, targets),
        checks={check: checks[check] for check in CHECKS},
    )


def attached(base: Any, targets: list[str], **schedule: Any) -> tuple[Any, spectune.AdaLoraEngine]:
    """The model with an adapter and its engine, for our own loop."""
    options = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM", target_modules=targets, lora_alpha=6, orth_reg_weight=0.1, **{**SCHEDULE, **schedule}
    )
    torch.manual_seed(1)
    with without_peft_chatter():
        model: Any = get_peft_model(base, options)
    return model, spectune.attach(model, penalty="step")


def rows(seed: int, *, longest: int = 30) -> dict[str, Tensor]:
    """Random tokens of four rows, of different lengths; every other seed's are short."""
    generator = torch.Generator().manual_seed(seed)
    width = longest if seed % 2 == 0 else 7
    ids = torch.randint(3, VOCABULARY - 4, (4, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, width - 2 :] = 0
    labels = torch.randint(3, VOCABULARY - 4, (4, 5), generator=generator)
    labels[:, -1] = 1
    labels[2, 3:] = -100
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": labels}


def train(model: Any, engine: spectune.AdaLoraEngine) -> dict[str, bool]:
    """Every step of the schedule; `phases` and `budget`."""
    schedule, optimizer = engine.schedule, make_optimizer(engine.parameters(), TrainConfig())
    seen, finite, exact = set(), True, True
    for step in range(1, schedule.total_step + 1):
        result = training_step(model.train(), engine, optimizer, window(step), step=step, rate=2e-2, options=OPTIONS)
        seen.add(schedule.phase(step))
        finite &= not bool(result.skipped)
        if schedule.allocates(step):
            expected = schedule.budget(step, engine.initial_budget, engine.target_budget)
            exact &= result.budget == expected == sum(engine.ranks().values())
        if step == schedule.freeze_step:
            engine.compact(optimizer)
    exact &= len(engine.store.values.rows) == sum(engine.ranks().values()) == engine.target_budget
    return {"phases": seen == {"warm-up", "decrease", "frozen"} and finite, "budget": exact}


def window(step: int) -> Window:
    """One batch as the loader gives it."""
    batch = rows(step)
    return Window([batch], int((batch["labels"] != -100).sum()), 1, 1, 0.0)


def _forms(model: Any, directory: Path) -> dict[str, bool]:
    """All forms of the trained adapter against the live model."""
    live = list(_logits(model))
    with generation_model(model):
        exact, tokens, loss = list(_logits(model)), _generated(model), evaluation_loss(model, _batches())
    model.save_pretrained(directory / "adapter")
    plain = _loaded(directory / "adapter")
    (directory / "lora").mkdir()
    write_plain_lora(directory / "adapter", directory / "lora")
    changed = not _same(live, list(_logits(_plain_base(directory))))
    again = _generated(plain)["theirs"].tolist()
    reloaded = list(_logits(plain))
    return {
        "reload": changed and _same(reloaded, live) and all(map(torch.equal, reloaded, exact)),
        "generate": tokens["ours"].tolist() == tokens["theirs"].tolist() == again,
        "loss": loss == evaluation_loss(_loaded(directory / "adapter", _our_base), _batches()),
        "merge": _same(list(_logits(copy.deepcopy(model).merge_and_unload())), live),
        "lora": _same(list(_logits(_loaded(directory / "lora"))), live),
    }


def _batches() -> list[dict[str, Tensor]]:
    return [rows(100), rows(101)]


def _plain_base(directory: Path) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(directory / "base").eval()


def _our_base(directory: Path) -> Any:
    return load_base(str(directory / "base"), dtype=torch.float32, device="cpu")


def _loaded(adapter: Path, base: Callable[[Path], Any] = _plain_base) -> Any:
    with without_peft_chatter():
        return PeftModel.from_pretrained(base(adapter.parent), adapter).eval()


def _logits(model: Any) -> Iterator[Tensor]:
    for batch in _batches():
        labels = batch.pop("labels")
        with torch.inference_mode():
            yield model(**batch, decoder_input_ids=labels.clamp(min=3)).logits


def _generated(model: Any) -> dict[str, Tensor]:
    """Tokens of the longer batch: our greedy search and transformers'."""
    batch = rows(100)
    del batch["labels"]
    config = generation_config(model, GenerationSettings(max_new_tokens=6))
    with torch.inference_mode():
        theirs = model.generate(**batch, generation_config=config)
        return {"theirs": theirs, "ours": model.generate(**batch, generation_config=config, custom_generate=greedy)}


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(found, expected, strict=True))


def _has_its_place(name: str) -> bool:
    place = role_of(name)
    return place.stack in ("encoder", "decoder") and place.layer is not None and bool(place.block and place.role)


def _left_out(base: Any, targets: list[str]) -> list[str]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    others = [name for name, module in base.named_modules() if isinstance(module, kinds) and name not in targets]
    return sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in others})


def _peft_alone(model_type: str, targets: list[str]) -> int | None:
    ends = PEFT_DEFAULTS.get(model_type)
    return None if ends is None else sum(name.rsplit(".", 1)[-1] in ends for name in targets)
