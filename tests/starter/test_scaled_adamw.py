"""The scaled optimizer: AdamW's direction, a step in units of the parameter's size."""

from __future__ import annotations

import copy

import torch

from spectune.starter.scaled_adamw import ScaledAdamW


def test_the_step_is_adams_times_the_size_of_the_parameter() -> None:
    torch.manual_seed(0)
    scaled = torch.nn.Parameter(3 * torch.randn(5, 4))
    size = float(scaled.detach().square().mean().sqrt())
    plain = copy.deepcopy(scaled)
    gradient = torch.randn(5, 4)
    ours = ScaledAdamW([scaled], lr=0.01, betas=(0.9, 0.98))
    theirs = torch.optim.Adam([plain], lr=0.01 * size, betas=(0.9, 0.98), eps=1e-8)
    for parameter, optimizer in ((scaled, ours), (plain, theirs)):
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(scaled, plain)


def test_a_parameter_of_zeros_still_moves() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    ScaledAdamW([parameter], lr=0.1, floor=1e-3).step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), -1e-4))


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.randn(6))
    parts = copy.deepcopy(whole)
    gradients = torch.randn(4, 6)
    optimizer = ScaledAdamW([whole])
    for gradient in gradients:
        whole.grad = gradient.clone()
        optimizer.step()
    first = ScaledAdamW([parts])
    for index, gradient in enumerate(gradients):
        if index == 2:
            second = ScaledAdamW([parts])
            second.load_state_dict(first.state_dict())
            first = second
        parts.grad = gradient.clone()
        first.step()
    assert torch.equal(whole, parts)
