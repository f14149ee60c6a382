"""A part of a weight beside the same rows or columns of the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.kernels import codebooks, linear, nf4, q4
from danlu.kernels.cut import cut
from danlu.kernels.huge import together


def matrix(rows: int, columns: int, mapped: bool, eight: bool, seed: int) -> q4.Q4:
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if mapped:
        return q4.of_nf4(nf4.quantize_nf4(w))
    made = codebooks.quantize(w)
    left = w - q4.dequantize(made)
    return replace(made, rest=codebooks.quantize(left)) if eight else made


@settings(max_examples=40, deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.integers(0, 1))
def test_a_part_has_the_bits_of_the_whole(data, mapped, eight, axis):
    rows, columns = data.draw(st.integers(1, 100), "rows"), data.draw(st.integers(1, 3000), "columns")
    whole = matrix(rows, columns, mapped, eight, 0)
    want, part = q4.dequantize_torch(whole), whole
    for _ in range(data.draw(st.integers(1, 2), "cuts")):  # a part of a part too
        step, size = (16, 64)[axis], part.shape[axis]
        start = step * data.draw(st.integers(0, (size - 1) // step), "start")
        ends = [*range(start + step, size, step), size]
        stop = ends[data.draw(st.integers(0, len(ends) - 1), "stop")]
        part, want = cut(part, axis, start, stop), want.narrow(axis, start, stop - start)
    x = torch.randn(3, part.shape[1])
    assert torch.equal(q4.dequantize(part), want)
    assert torch.equal(q4.dequantize_torch(part), want)
    assert torch.equal(q4.dequantize(together({"": part})[""]), want)
    for precision, error in (("fp32", 1e-5), ("int16", 1e-3)):
        got = linear.linear(x, part, precision=precision)
        torch.testing.assert_close(got, x @ want.T, atol=error * float(want.norm()), rtol=0)


@pytest.mark.parametrize("tokens", [1, 2])
def test_int8_reads_the_scales_of_its_own_spans(tokens):
    whole = matrix(100, 3000, False, False, 0)
    part = cut(replace(whole, scale=whole.scale * torch.tensor([1.0, 3.0, 9.0])[:, None]), 1, 640, 3000)
    x = torch.randn(tokens, 2360, generator=torch.Generator().manual_seed(1))
    exact = x.double() @ q4.dequantize_torch(part).double().T
    assert (linear.linear(x, part, precision="int8") - exact).norm() / exact.norm() < 1.2e-2


def test_rows_stay_where_they_lie():
    whole = matrix(64, 128, False, False, 0)
    part = cut(whole, 0, 16, 48)
    assert part.codes.data_ptr() == whole.codes.data_ptr() + whole.codes[0].nbytes
    assert part.codes.nbytes * 2 == whole.codes.nbytes


@pytest.mark.parametrize(("axis", "stop"), [(0, 24), (1, 96)])
def test_a_cut_inside_a_group_is_refused(axis, stop):
    with provoke("DL-CFG-020"):
        cut(matrix(64, 128, False, False, 0), axis, 0, stop)
