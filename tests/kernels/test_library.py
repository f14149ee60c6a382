"""The 4-bit product as torch's operator: shapes without data, gradients, and torch's own checks."""

from __future__ import annotations

import torch

from danlu.kernels import codebooks, linear, q4
from danlu.kernels.library import linear_q4


def parts(w: q4.Q4, bias: torch.Tensor | None, precision: str = "fp32") -> tuple[object, ...]:
    return w.codes, w.absmax, w.scale, w.levels, *w.shape, w.map, w.offset, bias, precision


def test_it_is_the_same_product():
    w, x, bias = codebooks.quantize(torch.randn(20, 130)), torch.randn(2, 3, 130), torch.randn(20)
    for precision in linear.PRECISIONS:
        with torch.no_grad():
            assert torch.equal(linear_q4(x, *parts(w, bias, precision)), linear.linear(x, w, bias, precision))


def test_gradients_reach_input_and_bias():
    w = codebooks.quantize(torch.randn(20, 130))
    x, bias = torch.randn(5, 130, requires_grad=True), torch.zeros(20, requires_grad=True)
    weights = torch.randn(5, 20)
    (linear_q4(x, *parts(w, bias)) * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights @ q4.dequantize(w))
    torch.testing.assert_close(bias.grad, weights.sum(0))


def test_torch_finds_nothing_wrong_with_it():
    w = codebooks.quantize(torch.randn(20, 130))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(linear_q4, (torch.randn(3, 130, requires_grad=True), *parts(w, None)), test_utils=checks)
