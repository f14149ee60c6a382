"""NF4: every path against fp64 numpy on the same quantized weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu import native
from danlu.kernels import nf4, ops

PATHS = [("torch", 2e-6), ("ref", 1e-6), ("avx2", 2e-4)]  # how far each may be from fp64, relative


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # so that the kernels' own team is at work
    yield
    torch.set_num_threads(before)


def product(path: str, x: torch.Tensor, w: nf4.Nf4, bias: torch.Tensor | None) -> torch.Tensor:
    """The same product by one named path."""
    if path == "torch":
        return nf4.linear_torch(x, w, bias)
    function = ops.implementation("linear_nf4", path)
    if function is None:
        pytest.skip(f"{path} does not run on this machine")
    return nf4.linear_native(function, x, w, bias)


def by_hand(w: nf4.Nf4) -> np.ndarray:
    """The matrix, element by element in fp64, as docs/formats.md describes it."""
    rows, columns = w.shape
    blocks = w.absmax.shape[1]
    levels, table = nf4.LEVELS.double().numpy(), nf4.ABSMAX_LEVELS.double().numpy()
    packed, absmax, scale = w.packed.numpy(), w.absmax.numpy(), w.scale.double().numpy()
    out = np.empty((rows, columns))
    for n in range(rows):
        for k in range(columns):
            byte = int(packed[n, k // 2])
            index = n * blocks + k // 64
            code = byte >> 4 if k % 2 == 0 else byte & 15
            out[n, k] = levels[code] * (table[absmax[n, k // 64]] * scale[index // 256] + float(w.offset))
    return out


@pytest.mark.parametrize(("path", "most"), PATHS)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 400), st.integers(1, 19), st.booleans(), st.integers(0, 999))
def test_every_path_equals_fp64(path, most, rows, columns, x_rows, bias, seed):
    make = torch.Generator().manual_seed(seed)
    w = nf4.quantize_nf4(torch.randn(rows, columns, generator=make))
    x, b = torch.randn(x_rows, columns, generator=make), torch.randn(rows, generator=make) if bias else None
    weight = nf4.dequantize_torch(w, 0, rows).double().numpy()  # held to by_hand below
    exact = torch.from_numpy(x.double().numpy() @ weight.T) + (b.double() if b is not None else 0)
    # Relative to the largest the product could be: a sum that cancels out may be arbitrarily small.
    largest = torch.from_numpy(np.outer(np.linalg.norm(x.double(), axis=1), np.linalg.norm(weight, axis=1)))
    assert ((product(path, x, w, b) - exact).abs() <= most * (largest + exact.abs())).all()


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 700), first=st.integers(0, 39), seed=st.integers(0, 99))
def test_unpacking_is_bit_equal_in_torch_and_native(rows, columns, first, seed):
    w = nf4.quantize_nf4(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    first %= rows
    assert torch.equal(nf4.dequantize(w, first), nf4.dequantize_torch(w, first, rows))
    # A small absmax is the difference of two larger numbers, so its own error is theirs.
    np.testing.assert_allclose(nf4.dequantize(w).numpy(), by_hand(w), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("columns", [8200, 20000])
def test_rows_longer_than_a_tile_add_up(columns):
    w, x = nf4.quantize_nf4(torch.randn(5, columns)), torch.randn(9, columns)
    exact = x.double() @ nf4.dequantize(w).double().T
    assert (nf4.linear(x, w) - exact).norm() / exact.norm() < 2e-4


def test_gaussian_weights_keep_their_published_quality_and_size():
    weight = torch.randn(1024, 4096, generator=torch.Generator().manual_seed(0))
    w = nf4.quantize_nf4(weight)
    noise = (nf4.dequantize(w) - weight).square().sum()
    assert 10 * torch.log10(weight.square().sum() / noise) > 20.7
    assert nf4.bits_per_weight(w) < 4.1275


def test_zeros_stay_exactly_zero():
    weight = torch.randn(8, 640)
    weight[3] = 0
    weight[5, 64:128] = 0
    w = nf4.quantize_nf4(weight)
    assert torch.equal(nf4.dequantize(w) == 0, (weight == 0) | (nf4.dequantize(w) == 0))
    assert not nf4.dequantize(w)[3].any() and not nf4.dequantize(w)[5, 64:128].any()
    assert not nf4.dequantize(nf4.quantize_nf4(torch.zeros(4, 64))).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    weight = torch.ones(4, 64)
    weight[2, 7] = bad
    with provoke("DL-DATA-040") as caught:
        nf4.quantize_nf4(weight)
    assert "1 weights of 256" in str(caught.error)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_show_in_the_output(bad):
    w, x = nf4.quantize_nf4(torch.randn(6, 200)), torch.randn(3, 200)
    x[1, 70] = bad
    out = nf4.linear(x, w)
    assert not out[1].isfinite().any() and out[[0, 2]].isfinite().all()


def test_tiny_huge_and_zero_inputs_keep_their_precision():
    w = nf4.quantize_nf4(torch.randn(6, 256))
    for size in (1e-20, 1e20, 0.0):
        x = torch.randn(2, 256) * size
        exact = x.double() @ nf4.dequantize(w).double().T
        assert (nf4.linear(x, w) - exact).norm() <= 2e-4 * exact.norm()


def test_parts_that_do_not_belong_together_are_refused():
    w = nf4.quantize_nf4(torch.randn(8, 128))
    with provoke("DL-DATA-041") as caught:
        nf4.Nf4(w.packed[:, :-1], w.absmax, w.scale, w.offset, w.shape)
    assert "packed" in str(caught.error) and "(8, 63)" in str(caught.error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_output_has_the_dtype_and_axes_of_the_input(dtype):
    w = nf4.quantize_nf4(torch.randn(6, 64))
    out = nf4.linear(torch.randn(2, 3, 64, dtype=dtype), w, torch.zeros(6))
    assert out.dtype == dtype and out.shape == (2, 3, 6)
    assert nf4.linear(torch.empty(0, 64), w).shape == (0, 6)


def test_gradients_flow_to_the_input():
    w, x = nf4.quantize_nf4(torch.randn(6, 64)), torch.randn(2, 64, requires_grad=True)
    nf4.linear(x, w).sum().backward()
    torch.testing.assert_close(x.grad, nf4.dequantize(w).sum(0).expand(2, -1))


def test_copies_own_their_bytes():
    w = nf4.quantize_nf4(torch.randn(6, 64))
    x = torch.randn(1, 64)
    out = nf4.linear(x, w)
    for other in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert other.packed.data_ptr() != w.packed.data_ptr()
        assert torch.equal(nf4.linear(x, other), out)


def test_wrong_sizes_are_refused_by_the_library():
    w = nf4.quantize_nf4(torch.randn(6, 64))
    for isa in ("ref", "avx2"):
        function = ops.implementation("linear_nf4", isa)
        if function is None:
            continue
        lies = {"rows": (7, 0, 2**62), "cols": (65, -1), "packed_bytes": (1,), "absmax_bytes": (0,), "scales": (2,)}
        for field, value in ((field, value) for field, values in lies.items() for value in values):
            w.__dict__.pop("view", None)
            setattr(w.view, field, value)
            with pytest.raises(RuntimeError, match="refused its sizes"):
                nf4.linear_native(function, torch.randn(1, 64), w, None)
    w.__dict__.pop("view")


def test_the_choice_of_kernels_is_explained():
    choices = {choice.operator: choice for choice in ops.describe()}
    assert set(choices) == set(ops.OPERATORS)
    assert (choices["linear_nf4"].isa == "avx2") == native.runs("avx2") or native.runs("avx512")
