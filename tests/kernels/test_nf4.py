"""bitsandbytes' NF4, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.kernels import nf4, q4


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


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 700), seed=st.integers(0, 99))
def test_unpacking_equals_the_format_by_hand(rows, columns, seed):
    w = nf4.quantize_nf4(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    # A small absmax is the difference of two larger numbers, so its own error is theirs.
    np.testing.assert_allclose(nf4.dequantize(w).numpy(), by_hand(w), rtol=1e-6, atol=1e-6)


def test_gaussian_weights_keep_their_published_quality_and_size():
    weight = torch.randn(1024, 4096, generator=torch.Generator().manual_seed(0))
    w = nf4.quantize_nf4(weight)
    noise = (nf4.dequantize(w) - weight).square().sum()
    assert 10 * torch.log10(weight.square().sum() / noise) > 20.7
    assert q4.bits_per_weight(q4.of_nf4(w)) < 4.1275


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


def test_parts_that_do_not_belong_together_are_refused():
    w = nf4.quantize_nf4(torch.randn(8, 128))
    with provoke("DL-DATA-041") as caught:
        nf4.Nf4(w.packed[:, :-1], w.absmax, w.scale, w.offset, w.shape)
    assert "packed" in str(caught.error) and "(8, 63)" in str(caught.error)
