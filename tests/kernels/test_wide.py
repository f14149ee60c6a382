"""16-bit products and attention in fp32: one rounding from the exact result, and narrow in what they keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.kernels import rows, wide

torch.set_num_threads(1)
sizes = st.integers(1, 70)
ONE = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # half a step of the type, relative


def rounded(ours, exact, dtype, slack=1.0):
    """Every number is at most one rounding, and fp32's sum, from the exact one."""
    error = (ours.double() - exact).abs()
    return bool((error <= slack * ONE[dtype] * exact.abs() + 2e-5 * exact.abs().max()).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(sizes, sizes, sizes, st.integers(0, 2**30))
@settings(max_examples=25, deadline=None)
def test_products_are_one_rounding_from_exact(dtype, m, k, n, seed):
    random = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(*shape, generator=random).to(dtype) for shape in ((m, k), (n, k), (m, n)))
    exact = a.double() @ b.double().t()
    assert rounded(wide.mm(a, b.t()), exact, dtype)
    assert rounded(wide.addmm(c, a, b.t()), c.double() + exact, dtype)
    out, added = torch.empty_like(c), c.clone()
    assert wide.mm(a, b.t(), out) is out and torch.equal(out, wide.mm(a, b.t()))
    wide.add_mm_(added, a, b.t())
    assert torch.equal(added, wide.addmm(c, a, b.t()))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("groups", [6, 3, 1])
def test_attention_and_its_gradients_are_those_of_fp32_rounded(groups, window):
    random, dtype = torch.Generator().manual_seed(groups), torch.bfloat16
    narrow = [
        torch.randn(2, 19, heads, 16, generator=random).to(dtype).transpose(1, 2) for heads in (6, groups, groups)
    ]
    g = torch.randn(2, 6, 19, 16, generator=random).to(dtype)
    row = torch.arange(19)
    behind = row[:, None] - row[None, :]
    mask = None if window is None else (behind >= 0) & (behind < window)
    ours, exact = (
        [each.clone().requires_grad_() for each in narrow],
        [each.double().requires_grad_() for each in narrow],
    )
    made = wide.attention(*ours, mask, 0.3)
    reference = F.scaled_dot_product_attention(
        *exact, attn_mask=behind >= 0 if mask is None else mask, scale=0.3, enable_gqa=True
    )
    assert made.dtype == dtype and rounded(made, reference, dtype)
    for mine, theirs in zip(torch.autograd.grad(made, ours, g), torch.autograd.grad(reference, exact, g.double()),
                            strict=True):  # fmt: skip
        assert mine.dtype == dtype and float((mine.double() - theirs).norm() / theirs.norm()) < 0.005


def test_row_operators_of_16_bits_are_those_of_fp32_rounded():
    random, dtype = torch.Generator().manual_seed(1), torch.bfloat16
    x, g, other, ab = (torch.randn(7, n, generator=random).to(dtype) for n in (24, 24, 24, 48))
    w = torch.rand(24, generator=random).to(dtype)
    if not rows.native(x.float(), 24):
        pytest.skip("no native library here")
    h, rstd = rows.norm(x, w, 1e-5)
    wide_h, wide_rstd = rows.norm(x.float(), w.float(), 1e-5)
    assert torch.equal(h, wide_h.to(dtype)) and torch.equal(rstd, wide_rstd) and rstd.dtype == torch.float32
    dw, wide_dw = torch.ones(24, dtype=dtype), torch.ones(24)
    dx = rows.norm_back(x, w, rstd, g, other, dw)
    wide_dx = rows.norm_back(x.float(), w.float(), rstd, g.float(), other.float(), wide_dw)
    assert torch.equal(dx, wide_dx.to(dtype)) and torch.equal(dw, wide_dw.to(dtype))
    assert torch.equal(rows.gate(ab), rows.gate(ab.float()).to(dtype))
    for ours, theirs in zip(rows.gate_back(ab, g), rows.gate_back(ab.float(), g.float()), strict=True):
        assert torch.equal(ours, theirs.to(dtype))
    heads, cos, sin = x.view(7, 3, 8), torch.rand(7, 4).to(dtype), torch.rand(7, 4).to(dtype)
    turned, wide_turned = torch.empty_like(heads), torch.empty(7, 3, 8)
    rows.turn(heads, turned, cos, sin, back=True)
    rows.turn(heads.float(), wide_turned, cos.float(), sin.float(), back=True)
    assert torch.equal(turned, wide_turned.to(dtype))


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_one_rounding_from_exact(bias):
    random, dtype = torch.Generator().manual_seed(2), torch.bfloat16
    x, weight, b = (torch.randn(*shape, generator=random).to(dtype) for shape in ((2, 5, 24), (17, 24), (17,)))
    exact = F.linear(x.double(), weight.double(), b.double() if bias else None)
    assert rounded(wide.linear(x, weight, b if bias else None), exact, dtype)
