"""AdamW whose step is measured in units of each parameter's own size.

T5's initialisation spans three orders of magnitude (embeddings of standard deviation 1, attention queries of 0.01), so
no single learning rate suits plain AdamW: it stalls. Multiplying the step by the parameter's root mean square, as
Adafactor does (Shazeer & Stern, 2018, section 8, "relative step size"), makes one rate fit all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class ScaledAdamW(torch.optim.Optimizer):
    """p ← (1 − lr · weight_decay) · p − lr · max(floor, rms(p)) · m̂ / (√v̂ + eps).

    ``lr`` is relative: 2e-2 moves an entry by about 2 % of its parameter's root mean square. ``floor`` lets a parameter
    of zeros leave zero. Reads one number a parameter on the host; meant for the recipe, not for large models.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2e-2,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        floor: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "floor": floor, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, param.grad, group)
        return loss

    def _update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(param)
            state["square"] = torch.zeros_like(param)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # Bias corrections folded into scalars: m̂ / (√v̂ + eps).
        root = (1 - beta2 ** state["step"]) ** 0.5
        scale = group["lr"] * max(group["floor"], float(param.square().mean().sqrt()))
        if group["weight_decay"]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        denominator = state["square"].sqrt().div_(root).add_(group["eps"])
        param.addcdiv_(state["mean"], denominator, value=-scale / (1 - beta1 ** state["step"]))
