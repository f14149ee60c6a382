"""Quantizing by any codebook: the native search against torch's, the quality it promises, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.kernels import codebooks, ops, q4


def sqnr_db(weight: torch.Tensor, w: q4.Q4) -> float:
    """Energy of the weights over that of what quantizing changed, in dB."""
    return 10 * math.log10(weight.square().sum() / (q4.dequantize(w) - weight).square().sum())


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "least"), [("nf4", 21.37), ("fitted", 21.8), ("fp4", 20.3), ("iq4nl", 21.0)])
def test_gaussian_weights_keep_their_quality_at_their_size(name, least):
    weight = gaussian(512, 4096)
    w = codebooks.quantize(weight, name)
    assert sqnr_db(weight, w) > least and q4.bits_per_weight(w) < 4.13


def test_the_search_gains_on_heavy_tails_too():
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(5.0).sample((256, 2048))
    for name in codebooks.CODEBOOKS:
        assert sqnr_db(weight, codebooks.quantize(weight, name)) > sqnr_db(weight, codebooks.quantize(weight, name, ()))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 1300), st.sampled_from(sorted(codebooks.CODEBOOKS)), st.integers(0, 99))
def test_native_and_torch_search_alike(rows, columns, name, seed):
    """Tries that differ by less than 16-bit integers can tell may be taken for each other, so errors are compared."""
    weight = gaussian(rows, columns, seed)
    book = codebooks.codebook(name)
    ours = codebooks.quantize(weight, name)
    theirs = codebooks.quantize_torch(weight, book, codebooks.TRIES)
    noise = [(q4.dequantize(w) - weight).square().sum() for w in (ours, theirs)]
    assert abs(noise[0] - noise[1]) <= 0.02 * noise[1] + 1e-6


@pytest.mark.parametrize("isa", ["ref", "avx2"])
@pytest.mark.parametrize("name", ["nf4", "fitted"])
def test_without_a_search_every_path_gives_the_same_bytes(isa, name, monkeypatch):
    function = ops.implementation("quantize_q4", isa)
    if function is None:
        pytest.skip(f"{isa} does not run on this machine")
    monkeypatch.setattr(ops, "find", lambda operator: function)
    weight = gaussian(37, 1100)
    ours = codebooks.quantize(weight, name, (), 2)
    theirs = codebooks.quantize_torch(weight, codebooks.codebook(name), ())
    assert torch.equal(q4.separate(ours.codes)[:37, :1100], q4.separate(theirs.codes)[:37, :1100])
    assert torch.equal(q4.absmax_codes(ours)[:37], q4.absmax_codes(theirs)[:37])
    torch.testing.assert_close(ours.scale, theirs.scale)


@pytest.mark.parametrize("name", ["nf4", "fp4", "fitted"])
def test_zeros_stay_exactly_zero(name):
    weight = gaussian(20, 640)
    weight[3], weight[5, 64:128] = 0, 0
    back = q4.dequantize(codebooks.quantize(weight, name))
    assert not back[3].any() and not back[5, 64:128].any()
    assert not q4.dequantize(codebooks.quantize(torch.zeros(4, 64), name)).any()


def test_bad_weights_and_unknown_codebooks_are_refused():
    weight = torch.ones(4, 64)
    weight[2, 7] = float("nan")
    with provoke("DL-DATA-040") as caught:
        codebooks.quantize(weight)
    assert "1 weights of 256" in str(caught.error)
    with provoke("DL-CFG-004") as caught:
        codebooks.quantize(torch.ones(4, 64), "nf5")
    assert "fitted" in str(caught.error)


def test_large_finite_weights_are_no_error():
    weight = torch.full((4, 128), 1e36)
    assert torch.allclose(q4.dequantize(codebooks.quantize(weight)), weight, rtol=1e-2)
