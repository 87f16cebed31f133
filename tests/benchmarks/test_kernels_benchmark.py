"""The contenders of the kernels benchmark compute one function."""

from __future__ import annotations

import torch

from benchmarks import kernels


def test_a_row_of_the_table() -> None:
    row = kernels.measure(kernels.attentions(torch.bfloat16, 2, 3), 2, tokens="2 × 3")
    assert row["tokens"] == "2 × 3"
    assert all(row[f"{name}, ms"] > 0 for name in ("fused", "torch's products", "ours"))


def test_attentions_agree() -> None:
    fused, products, ours = (work() for work in kernels.attentions(torch.float32, 4, 7).values())
    assert fused[0].shape == (kernels.ROWS, kernels.HEADS, 4, kernels.WIDTH)
    torch.testing.assert_close(fused, products, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, products, rtol=1e-5, atol=1e-6)
    assert list(kernels.attentions(torch.float32, 4, 7, 0.1)) == ["torch's products", "ours"]
    low = kernels.attentions(torch.bfloat16, 4, 7)
    for one, other in zip(low["torch's products"](), low["ours"](), strict=True):
        assert float((one - other).float().norm() / one.float().norm()) < 0.02


def test_dropouts_agree_in_what_they_scale_and_how_much_they_drop() -> None:
    torch.manual_seed(0)
    for out, gradient in (work() for work in kernels.dropouts(torch.float32, (200, 300)).values()):
        assert torch.equal(out, gradient)
        assert 0.09 < float((out == 0).double().mean()) < 0.11
        torch.testing.assert_close(out.amax(), torch.tensor(1 / 0.9), rtol=2e-5, atol=0)
