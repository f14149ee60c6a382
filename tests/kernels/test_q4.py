"""4-bit matrices of interleaved rows: every path against fp64 on the same quantized weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.kernels import linear, nf4, ops, q4

# How far each path may be from fp64, relative to |x| |w|: the sums of a row cancel, so its own size says nothing.
PATHS = [("ref", "fp32", 1e-7), ("avx2", "fp32", 4e-7), ("avx2", "int16", 1.5e-4), ("avx2", "int8", 1.2e-2)]


def matrix(rows: int, columns: int, seed: int, mapped: bool = True) -> q4.Q4:
    """A random matrix; without a map its absmax are linear codes with a scale of their own per span."""
    make = torch.Generator().manual_seed(seed)
    w = q4.of_nf4(nf4.quantize_nf4(torch.randn(rows, columns, generator=make)))
    if mapped:
        return w
    scale = torch.rand(q4.parts_of(rows, columns)["scale"][1], generator=make) / 100
    return q4.Q4(w.codes, w.absmax, scale, w.levels, w.shape)


def product(
    isa: str, x: torch.Tensor, w: q4.Q4, bias: torch.Tensor | None, precision: linear.Precision
) -> torch.Tensor:
    """The same product by one named path."""
    function = ops.implementation("linear_q4", isa)
    if function is None:
        pytest.skip(f"{isa} does not run on this machine")
    return linear.linear_native(function, x, w, bias, precision, 2)


@pytest.mark.parametrize(("isa", "precision", "most"), PATHS)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 1300), st.integers(1, 19), st.booleans(), st.booleans(), st.integers(0, 999))
def test_every_path_equals_fp64(isa, precision, most, rows, columns, tokens, bias, mapped, seed):
    make = torch.Generator().manual_seed(seed)
    w = matrix(rows, columns, seed, mapped)
    x, b = torch.randn(tokens, columns, generator=make), torch.randn(rows, generator=make) if bias else None
    weight = q4.dequantize_torch(w).double().numpy()
    exact = torch.from_numpy(x.double().numpy() @ weight.T) + (b.double() if b is not None else 0)
    largest = torch.from_numpy(np.outer(np.linalg.norm(x.double(), axis=1), np.linalg.norm(weight, axis=1)))
    assert ((product(isa, x, w, b, precision) - exact).abs() <= most * (largest + exact.abs())).all()


@pytest.mark.parametrize(("precision", "most"), [("fp32", 3e-7), ("int16", 2.5e-4), ("int8", 1.1e-2)])
@pytest.mark.parametrize("tokens", [1, 4, 70])
def test_the_precision_ladder_holds_its_error(precision, most, tokens):
    w, x = matrix(256, 4096, 0), torch.randn(tokens, 4096, generator=torch.Generator().manual_seed(1))
    exact = x.double() @ q4.dequantize(w).double().T
    assert (linear.linear(x, w, precision=precision) - exact).norm() / exact.norm() < most


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("int16", 1e-5), ("int8", 0.01)])
def test_the_largest_inputs_and_levels_do_not_overflow(precision, most):
    """All inputs and all levels at their ends, signs mixed by row: the integer sums are the largest there can be."""
    codes = torch.full((16, 256), 15, dtype=torch.uint8)
    codes[1::2] = 0
    ones = torch.full((1, 4, 16), 255, dtype=torch.uint8)
    w = q4.Q4(q4.interleave(codes), ones, torch.tensor([[[1 / 255, 0.0]]]), nf4.LEVELS, (16, 256))
    x = torch.cat([torch.full((5, 256), 3.0), torch.full((4, 256), -3.0)])
    exact = x.double() @ q4.dequantize_torch(w).double().T
    torch.testing.assert_close(linear.linear(x, w, precision=precision).double(), exact, rtol=most, atol=0)
    torch.testing.assert_close(linear.linear(x[:2], w, precision=precision).double(), exact[:2], rtol=most, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 1300), st.integers(0, 39), st.booleans(), st.integers(0, 99))
def test_unpacking_is_bit_equal_in_torch_and_native(rows, columns, first, mapped, seed):
    w = matrix(rows, columns, seed, mapped)
    assert torch.equal(q4.dequantize(w, first % rows), q4.dequantize_torch(w)[first % rows :])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 99))
def test_nf4_comes_back_bit_for_bit(rows, columns, seed):
    before = nf4.quantize_nf4(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    w = q4.of_nf4(before)
    assert torch.equal(q4.dequantize(w), nf4.dequantize(before))
    after = q4.to_nf4(w)
    for part in ("packed", "absmax", "scale", "offset"):
        assert torch.equal(getattr(before, part), getattr(after, part))


@pytest.mark.parametrize("precision", linear.PRECISIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_show_in_the_output(precision, bad):
    w, x = matrix(6, 200, 0), torch.randn(6, 200)
    x[1, 70] = bad
    for rows in (3, 6):
        out = linear.linear(x[:rows], w, precision=precision)
        assert not out[1].isfinite().any() and out[[0, 2]].isfinite().all()


def test_what_does_not_belong_together_is_refused():
    w = matrix(8, 128, 0)
    with provoke("DL-DATA-041") as caught:
        q4.Q4(w.codes[:, :-1], w.absmax, w.scale, w.levels, w.shape, w.map, w.offset)
    assert "codes" in str(caught.error)
    with provoke("DL-DATA-041"):
        q4.to_nf4(matrix(8, 128, 0, mapped=False))


def test_gradients_flow_to_the_input():
    w, x = matrix(6, 64, 0), torch.randn(2, 64, requires_grad=True)
    linear.linear(x, w).sum().backward()
    torch.testing.assert_close(x.grad, q4.dequantize(w).sum(0).expand(2, -1))


def test_copies_own_their_bytes():
    w, x = matrix(6, 64, 0), torch.randn(1, 64)
    other = copy.deepcopy(w)
    assert other.codes.data_ptr() != w.codes.data_ptr()
    assert torch.equal(linear.linear(x, other), linear.linear(x, w))


def test_wrong_sizes_are_refused_by_the_library():
    w, function = matrix(20, 64, 0), ops.implementation("linear_q4", "ref")
    if function is None:
        pytest.skip("no native library")
    lies = {"rows": (37, 0, 2**62), "cols": (65, -1), "codes_bytes": (1,), "absmax_bytes": (0,), "scales": (2,)}
    for field, value in ((field, value) for field, values in lies.items() for value in values):
        w.__dict__.pop("view", None)
        setattr(w.view, field, value)
        with pytest.raises(RuntimeError, match="refused its sizes"):
            linear.linear_native(function, torch.randn(1, 64), w, None, "fp32")
