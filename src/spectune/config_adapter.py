"""The section `adapter` of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from spectune.budget import parse_budget
from spectune.config_values import TAKEN_NAMES, LocalPath, Name, OpenUnit, PositiveInt, Probability, Rank, Section

WIDER, WIDE = 4, 16
"""`init_r: auto`: times target_r, and the least (docs/quality.md has the evidence)."""


class AdapterConfig(Section):
    """AdaLoRA: PEFT's option names; steps may be given as fractions of the run."""

    init_r: Rank | Literal["auto"] = "auto"
    """Rank of every adapted matrix at the start; `auto` is 4 × target_r, at least 16. A wide start learns faster, and
    only what is kept after the freeze is saved."""
    target_r: Rank | None = 8
    """Average rank per adapted matrix after the freeze; excludes `budget`."""
    budget: PositiveInt | Name | None = None
    """Instead of target_r: the most that the saved weights may take, in bytes (`400kB`) or parameters (`120000`). Ranks
    then go where a parameter is worth most: a feed-forward triplet costs several attention triplets."""
    tinit: int | float = 0.10
    """Length of the warm-up: a fraction of the run (strictly between 0 and 1) or steps (an integer)."""
    tfinal: int | float = 0.25
    """Length of the frozen phase, as in PEFT: a fraction of the run or steps."""
    deltaT: PositiveInt | Literal["auto"] = "auto"
    """Steps between two allocations; `auto` is about 1/200 of the decreasing span."""
    beta1: OpenUnit = 0.85
    """Of the moving average of sensitivity |θ·∂L/∂θ|."""
    beta2: OpenUnit = 0.85
    """Of the moving average of its uncertainty."""
    orth_reg_weight: float = Field(default=0.05, ge=0.0, le=1e6)
    """Weight of the orthogonality penalty (the paper's γ, there mostly 0.1; docs/quality.md has the evidence)."""
    lora_alpha: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = "auto"
    """ΔW = lora_alpha / init_r · PΛQ; `auto` is 2 · init_r."""
    lora_dropout: Probability = 0.0
    """Dropout of what the low-rank maps read."""
    target_modules: Name | list[Name] = "auto"
    """`auto` (all attention and feed-forward matrices), `attention`, `feed_forward`, names, or a regular expression."""
    exclude_modules: Name | list[Name] | None = None
    """Matrices that are left out: names, or a regular expression."""
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = None
    """Numbers of the layers to adapt, of encoder and decoder alike; all unless given."""
    modules_to_save: list[Name] | None = None
    """Modules trained in full and saved beside the adapter."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases trained beside the matrices: none, all of the model's, or those of the adapted maps."""
    trainable_token_indices: list[Annotated[int, Field(ge=0)]] | None = None
    """Ids of tokens whose embeddings are trained."""
    adapter_name: str = Field(default="default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]*$", max_length=64)
    """PEFT's name of the adapter in the model; files do not depend on it."""
    init: Literal["random", "orthonormal", "gradient"] = "gradient"
    """Start of the triplets: as in PEFT, orthonormal P and Q, or the leading singular vectors of the gradient over the
    rows of eight steps. λ starts at 0."""
    init_from: LocalPath | None = None
    """Directory or hub id of a finished AdaLoRA adapter to go on from, under this run's own schedule."""
    importance: Literal["elementwise", "triplet"] = "elementwise"
    """A triplet's score: of λ and the means over P's column and Q's row (the paper), or of λ alone."""
    pruning: Literal["revivable", "permanent"] = "revivable"
    """Whether a cut triplet may come back before the freeze (the paper), or stays cut."""
    penalty_in_scores: bool = True
    """Whether the gradient that importance is read from has the penalty in it (the paper), or the cross entropy
    alone."""
    call_order: Literal["paper", "peft"] = "paper"
    """Importance before the optimizer's step (the paper) or after it (PEFT's users)."""

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, values: Any) -> Any:
        """A budget stands in the place of target_r's default."""
        if not isinstance(values, dict):
            return values
        if values.get("budget") is None:
            if "target_r" in values and values["target_r"] is None:
                raise ValueError("target_r is null; give target_r or budget")
            return values
        if values.get("target_r") is not None:
            raise ValueError("give either target_r or budget, not both; target_r: null leaves it to the budget")
        return values | {"target_r": None}

    @model_validator(mode="before")
    @classmethod
    def _one_start(cls, values: Any) -> Any:
        """A finished adapter stands in the place of init's default."""
        if isinstance(values, dict) and values.get("init_from") is not None and "init" not in values:
            return values | {"init": "random"}
        return values

    @model_validator(mode="after")
    def _ranks(self) -> AdapterConfig:
        if self.budget is not None:
            parse_budget(self.budget)
        if self.adapter_name in TAKEN_NAMES:
            raise ValueError(
                f"adapter_name {self.adapter_name} is the name of a method that PEFT's containers have; choose another"
            )
        if self.target_r is not None and self.resolved_init_r < self.target_r:
            raise ValueError(
                f"init_r {self.init_r} is below target_r {self.target_r}; leave init_r out, or give a larger one"
            )
        if self.init_from is not None and self.init != "random":
            raise ValueError(f"init {self.init} would overwrite what init_from brings; give one of the two")
        if self.call_order == "peft" and not self.penalty_in_scores:
            raise ValueError(
                "penalty_in_scores false does not go with call_order peft, which reads importance after the update, "
                "from the gradient that it was made with; use call_order paper"
            )
        for name in ("tinit", "tfinal"):
            value = getattr(self, name)
            if isinstance(value, float) and not 0.0 < value < 1.0:
                raise ValueError(f"{name} {value} is neither a fraction strictly between 0 and 1 nor whole steps")
            if isinstance(value, int) and (isinstance(value, bool) or value < 0):
                raise ValueError(f"{name} {value} must not be negative")
        return self

    @property
    def target(self) -> str:
        """What the ranks are cut to, in words."""
        if self.budget is None:
            return f"target_r {self.target_r}"
        return f"budget {self.budget}" + (" parameters" if str(self.budget).isdecimal() else "")

    @property
    def resolved_init_r(self) -> int:
        """init_r with `auto` resolved; a budget leaves it at the least."""
        return max(WIDER * (self.target_r or 0), WIDE) if self.init_r == "auto" else self.init_r

    @property
    def resolved_lora_alpha(self) -> int:
        """lora_alpha with `auto` resolved to 2 · init_r."""
        return 2 * self.resolved_init_r if self.lora_alpha == "auto" else self.lora_alpha
