"""AdaLoRA written from the paper (Zhang et al., ICLR 2023, arXiv 2303.10512), plainly: the reference of the engine.

Two deviations, both documented where the engine makes them: the penalty has PEFT's form, γ times the mean of
‖G − I‖_F over all P and Q (the paper sums squares), and dead triplets leave it once the survivors are fixed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Triplets(nn.Module):
    """y = W x + s · P (λ ∘ (Q x)), with P (out, r), λ (r,), Q (r, in)."""

    def __init__(self, base: nn.Linear, p: Tensor, values: Tensor, q: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.p, self.values, self.q = nn.Parameter(p), nn.Parameter(values), nn.Parameter(q)
        self.alive = torch.ones(len(values), dtype=torch.bool)

    @property
    def weight(self) -> Tensor:  # T5 asks for its precision
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.scale * ((x @ self.q.T) * self.values) @ self.p.T
        return out


class PaperAdaLora:
    """Algorithm 1 over the triplets of a model."""

    def __init__(self, layers: list[Triplets], schedule: Any, beta1: float, beta2: float, gamma: float) -> None:
        self.layers, self.schedule, self.beta1, self.beta2, self.gamma = layers, schedule, beta1, beta2, gamma
        self.parameters = [t for layer in layers for t in (layer.p, layer.values, layer.q)]
        self.mean = {t: torch.zeros_like(t) for t in self.parameters}  # sensitivity, equation 9
        self.spread = {t: torch.zeros_like(t) for t in self.parameters}  # uncertainty, equation 10
        self.frozen = False

    def penalty(self) -> Tensor:
        terms = []
        for layer in self.layers:
            counted = layer.alive if self.frozen else torch.ones_like(layer.alive)
            p, q = layer.p[:, counted], layer.q[counted]
            identity = torch.eye(p.shape[1])
            terms += [torch.linalg.norm(p.T @ p - identity), torch.linalg.norm(q @ q.T - identity)]
        return self.gamma * torch.stack(terms).mean()

    @torch.no_grad()
    def observe(self) -> None:
        """Smoothed sensitivity and uncertainty of the weights that made the gradient."""
        for t in self.parameters:
            assert t.grad is not None
            importance = (t * t.grad).abs()  # equation 8
            self.mean[t] = self.beta1 * self.mean[t] + (1 - self.beta1) * importance
            self.spread[t] = self.beta2 * self.spread[t] + (1 - self.beta2) * (importance - self.mean[t]).abs()

    def scores(self, layer: Triplets) -> Tensor:
        """Equation 7 of every triplet of a matrix, with s = mean · spread (equation 11)."""
        p, values, q = (self.mean[t] * self.spread[t] for t in (layer.p, layer.values, layer.q))
        return values + p.mean(0) + q.mean(1)

    @torch.no_grad()
    def allocate(self, step: int) -> None:
        """Keep exactly the best budget(step) triplets; set the λ of the others to 0."""
        schedule = self.schedule
        if not self.frozen and (schedule.allocates(step) or step > schedule.freeze_step):
            scores = torch.cat([self.scores(layer) for layer in self.layers])
            budget = schedule.budget(step, len(scores), schedule.target_r * len(self.layers))
            alive = torch.zeros(len(scores), dtype=torch.bool)
            alive[sorted(range(len(scores)), key=lambda number: (-float(scores[number]), number))[:budget]] = True
            for layer, mask in zip(self.layers, alive.split([len(x.values) for x in self.layers]), strict=True):
                layer.alive = mask
                layer.values[~mask] = 0.0
            self.frozen = step >= schedule.freeze_step
        elif self.frozen:
            for layer in self.layers:
                layer.values[~layer.alive] = 0.0
