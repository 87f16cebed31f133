"""The run's configuration: five sections of plain values, checked when they are made.

Names are those of transformers' `TrainingArguments` and PEFT's `AdaLoraConfig`. Nothing here imports torch, and no
state of a run is ever written into these objects. `spectune.runfile` reads them from YAML and the command line.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from spectune.config_adapter import AdapterConfig
from spectune.config_data import DataConfig
from spectune.config_values import MOST, TAKEN_NAMES, LocalPath, Name, PositiveInt, Probability, Section, Task
from spectune.presets import PresetName, filled_in

__all__ = [
    "TAKEN_NAMES",
    "AdapterConfig",
    "CheckpointingConfig",
    "DataConfig",
    "EvaluationConfig",
    "ModelConfig",
    "RunConfig",
    "Task",
    "TrainConfig",
]


class ModelConfig(Section):
    """Which base model, and how its weights are held."""

    model_name_or_path: Name
    """A directory, a hub id, or `starter` (the bundled base model)."""
    revision: Name | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen base; `auto` takes bfloat16 where this machine multiplies it faster."""
    quantization: Literal["int8", "nf4"] | None = None
    """Linear maps of the frozen base in 8 or 4 bits, by the bitsandbytes library (`pip install bitsandbytes`)."""
    trust_remote_code: bool = False
    """Let the base model bring code of its own from the hub."""
    global_attention: Literal["auto", "none"] = "auto"
    """LED: `auto` lets the first token see all others and be seen by them, in training and generation; `none` leaves
    the local windows alone. Other models have no such choice."""

    @model_validator(mode="after")
    def _precision(self) -> ModelConfig:
        if self.quantization == "int8" and self.dtype not in ("auto", "float32"):
            raise ValueError(
                f"quantization int8 does not go with dtype {self.dtype}, PEFT's 8-bit layer returns float32; "
                "use dtype auto, or quantization nf4"
            )
        return self


class CheckpointingConfig(Section):
    """What transformers passes on to torch's checkpoint."""

    use_reentrant: bool = False
    """The older kind of checkpoint, which recomputes inside a backward pass of its own."""


class TrainConfig(Section):
    """The training loop; names of transformers' `TrainingArguments`."""

    output_dir: LocalPath = "runs/run"
    """The run directory: checkpoints, journal, predictions, adapter, summary."""
    num_train_epochs: float = Field(default=3.0, gt=0.0, le=1e6)
    """Passes over the training rows; fractions are allowed."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; overrides num_train_epochs."""
    learning_rate: float = Field(default=1.0e-3, gt=0.0, le=100.0)
    """The peak. AdaLoRA wants about 1e-3, since λ starts at 0."""
    per_device_train_batch_size: PositiveInt = 8
    """Rows of a micro-batch."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches of an optimizer step; the loss is averaged over the target tokens of all of them."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the fall after the peak; none falls below 10 % of it before freeze_step."""
    warmup_ratio: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of the run in which the learning rate rises; at most tinit. Default: half of tinit."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=100.0)
    """AdamW's, on the adapter's own numbers."""
    adam_beta1: Probability = 0.9
    """AdamW's."""
    adam_beta2: Probability = 0.999
    """AdamW's."""
    adam_epsilon: float = Field(default=1.0e-8, gt=0.0, le=1.0)
    """AdamW's."""
    max_grad_norm: float | None = Field(default=1.0, gt=0.0)
    """Gradients are clipped to this norm; null: not at all."""
    label_smoothing_factor: Probability = 0.0
    """In the training loss only; reported evaluation losses have none."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping what it computed: time for memory."""
    gradient_checkpointing_kwargs: CheckpointingConfig | None = None
    """`{use_reentrant: true | false}`; left out, false."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast of the computation; model.dtype decides how the frozen weights are held."""
    fsdp: bool = False
    """Several processes: share the layers of the frozen base out among them (torch's FSDP2), for a base that does not
    fit one device. Each layer is gathered while it computes."""
    use_cpu: bool = False
    """Train on the CPU even where there is a GPU."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    """Of splits, order of rows, the start of the adapter, and dropout."""
    logging_steps: PositiveInt = 10
    """Steps between two lines of the journal."""
    save_steps: PositiveInt | None = None
    """Steps between checkpoints; default: at every evaluation."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept beside the best one."""
    report_to: Name | list[Name] = "none"
    """Trackers by accelerate's names (tensorboard, wandb, trackio, mlflow, comet_ml, …): they get what the journal
    gets."""

    @model_validator(mode="after")
    def _checkpointing(self) -> TrainConfig:
        if self.gradient_checkpointing_kwargs is not None and not self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing_kwargs goes with gradient_checkpointing: true")
        return self

    @model_validator(mode="after")
    def _sharding(self) -> TrainConfig:
        if self.fsdp and self.mixed_precision != "no":
            raise ValueError(
                f"fsdp does not go with mixed_precision {self.mixed_precision}, which keeps a whole cast copy of each "
                "layer for the backward pass; use model.dtype bfloat16 instead"
            )
        return self

    @property
    def use_reentrant(self) -> bool:
        """Which kind of checkpoint, where there are any."""
        return self.gradient_checkpointing_kwargs is not None and self.gradient_checkpointing_kwargs.use_reentrant


class EvaluationConfig(Section):
    """Evaluation by generation."""

    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """Evaluate at the end of every epoch, every eval_steps, or only after training."""
    eval_steps: PositiveInt | None = None
    """Optimizer steps between evaluations; goes with `eval_strategy: steps`."""
    eval_on_start: bool = True
    """Score the untrained model first, so that the gain is visible."""
    metrics: Annotated[list[Name], Field(min_length=1)] | Literal["auto"] = "auto"
    """Names of metrics (docs/metrics.md); `auto` is those of the task."""
    metric_for_best_model: Name | None = None
    """Default: the task's first metric. Only evaluations after the freeze are candidates; of equal ones that of the
    lower loss is the best."""
    load_best_model_at_end: bool = True
    """Save the best checkpoint instead of the last."""
    early_stopping_patience: PositiveInt | None = None
    """Evaluations after the freeze without a better metric before the run ends."""
    num_beams: PositiveInt = 1
    """Beams of the search; 1 is greedy."""
    max_new_tokens: PositiveInt | Literal["auto"] = "auto"
    """`auto`: the longest target, or other right output of the rows for validation, plus 2."""
    max_length: Annotated[int, Field(ge=2, le=MOST)] | None = None
    """Of the generated sequence, the start token included; excludes max_new_tokens."""
    length_penalty: float = Field(default=1.0, ge=-100.0, le=100.0)
    """Exponent of the length in the score of a beam; above 0 prefers longer outputs. Needs num_beams above 1."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=MOST)] = 0
    """No output repeats a run of so many tokens; 0: no such rule."""
    per_device_eval_batch_size: PositiveInt = 32
    """Rows generated together."""
    constrain_labels: bool = False
    """Classification: also decode under the label words alone, with a probability for each label. Beside the free
    decoding: `constrained_prediction`, `label_probabilities`, `constrained_accuracy`, `constrained_macro_f1`."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_metric(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value not in ("", "auto") else value

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationConfig:
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ValueError("eval_strategy steps needs eval_steps")
        if self.eval_strategy != "steps" and self.eval_steps is not None:
            raise ValueError(f"eval_steps goes with eval_strategy: steps, not {self.eval_strategy}")
        if self.eval_strategy == "no" and self.early_stopping_patience is not None:
            raise ValueError("early_stopping_patience counts evaluations, and eval_strategy: no makes none")
        if self.max_length is not None and self.max_new_tokens != "auto":
            raise ValueError("give either max_length or max_new_tokens, not both")
        return self


class RunConfig(Section):
    """A whole run."""

    preset: PresetName | None = None
    """Whose values stand where nothing is written; they are in the sections below, so that it says no more."""
    model: ModelConfig
    data: DataConfig
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, values: Any) -> Any:
        """The sections with the preset's values where they say nothing."""
        return filled_in(values)
