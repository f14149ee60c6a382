"""Products in 8-bit floats: rounding, sums, memory; what a card does and what is emulated are the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.model.fp8 import Float8, emulated, rounded, scaled
from danlu.model.halves import Halves
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import ModelSpec
from danlu.train.optim import AdamW

torch.set_num_threads(1)
HALF_STEP = {torch.float8_e4m3fn: 2**-4, torch.float8_e5m2: 2**-3}  # of half a unit in the last place, 3 and 2 bits
REACH = {torch.float8_e4m3fn: 2**-13, torch.float8_e5m2: 2**-28}  # of the largest: below it numbers are subnormal
SPEC = ModelSpec("llama", layers=2, hidden=48, heads=4, kv_heads=2, head_dim=16, ffn=40, vocab=61, positions=64)
sizes = st.integers(1, 40)


def draw(seed: int, *shape: int, dtype=torch.bfloat16) -> torch.Tensor:
    """Numbers of very unlike sizes."""
    random = np.random.default_rng(seed)
    found = random.standard_normal(shape) * np.exp(random.standard_normal((shape[0], 1))) * 10 ** random.uniform(-6, 6)
    return torch.from_numpy(found).to(dtype)


@settings(deadline=None)
@given(st.integers(0, 2**32), sizes, sizes, st.sampled_from(list(HALF_STEP)))
def test_rounding_loses_half_a_unit_in_the_last_place(seed, rows, columns, kind):
    x = draw(seed, rows, columns)
    x8, back = rounded(x, kind)
    again, real, largest = x8.double() * back.double(), x.double(), float(x.abs().max())
    bound = real.abs() * HALF_STEP[kind] + largest * REACH[kind] * HALF_STEP[kind]
    assert ((again - real).abs() <= bound).all()
    assert float(torch.log2(back)) % 1 == 0 and x8.double().abs().max() > torch.finfo(kind).max / 2.01


@settings(deadline=None)
@given(st.integers(0, 2**32), sizes, sizes, sizes)
def test_all_three_products_are_those_of_the_rounded_operands(seed, rows, inner, outer):
    """By rows and columns that a card's product cannot take as they are, too. Sums are fp32, results bf16."""
    x, w, g = draw(seed, rows, inner), draw(seed + 1, outer, inner), draw(seed + 2, rows, outer)
    x_, w_ = (
        each8.double() * by.double() for each8, by in (rounded(x, torch.float8_e4m3fn), rounded(w, torch.float8_e4m3fn))
    )
    g_ = (lambda each: each[0].double() * each[1].double())(rounded(g, torch.float8_e5m2))
    for multiply in (scaled, emulated):
        products = Float8(multiply=multiply)
        seen, back, total = products.seen(x), products.back(g), torch.zeros_like(w)
        products.add(total, back, seen)
        pairs = [(products.ahead(seen, w), x_ @ w_.t(), x_.abs() @ w_.t().abs()),
                 (products.behind(back, w), g_ @ w_, g_.abs() @ w_.abs()),
                 (total, g_.t() @ x_, g_.t().abs() @ x_.abs())]  # fmt: skip
        for ours, plain, size in pairs:
            assert ours.shape == plain.shape and ours.is_contiguous()
            assert ((ours.double() - plain).abs() <= plain.abs() * 2**-8 + size * 2**-18).all()


def test_a_part_of_a_tensor_is_rounded_as_it_is_in_the_whole():
    """Scales are powers of two, so shares of cards, uneven as they are, do not change the numbers."""
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    x[40] *= 7.0
    whole8, back = rounded(x, torch.float8_e4m3fn)
    for part in (slice(0, 12), slice(12, 64)):
        part8, own = rounded(x[part], torch.float8_e4m3fn)
        same = part8.float() * own == (whole8.float() * back)[part]
        normal = x[part].abs() >= float(x.abs().max()) * REACH[torch.float8_e4m3fn]
        assert same[normal].all() and normal.float().mean() > 0.99


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("multiply", [scaled, emulated])
def test_what_is_not_finite_stays_so(bad, multiply):
    x, w = torch.ones(3, 16).bfloat16(), torch.ones(4, 16).bfloat16()
    x[1, 2] = bad
    products = Float8(multiply=multiply)
    assert not products.ahead(products.seen(x), w)[1].isfinite().any()
    assert not products.ahead(products.seen(torch.zeros(3, 16).bfloat16()), w).any()


def test_weights_are_rounded_once_a_step():
    products, w = Float8(), torch.ones(16, 16).bfloat16()
    x = products.seen(torch.ones(2, 16).bfloat16())
    first = products.ahead(x, w)
    w *= 3
    assert torch.equal(products.ahead(x, w), first)
    products.fresh()
    assert torch.equal(products.ahead(x, w), 3 * first)


def gradient(dtype: torch.dtype, products: Float8 | None, later: bool = False) -> tuple[float, torch.Tensor]:
    decoder = Decoder(SPEC, dtype=dtype)
    init(decoder, 3)
    optimizer, halves, state = AdamW(decoder, weight_decay=0.1), Halves(), Causal(2, 13)
    halves.later = later
    decoder.halve(halves, products) if products else decoder.halve(halves)
    random = torch.Generator().manual_seed(5)
    ids, targets = (torch.randint(0, SPEC.vocab, (26,), generator=random) for _ in "xy")
    loss = F.cross_entropy(decoder(ids, state, state.meta()).float(), targets)
    loss.backward()
    for left in halves.take():
        left.run()
    optimizer.collect()
    return loss.item(), optimizer.total.clone()


def test_gradients_point_where_those_of_fp32_do():
    loss, exact = gradient(torch.float32, None)
    for multiply in (scaled, emulated):
        near, ours = gradient(torch.bfloat16, Float8(multiply=multiply))
        assert near == pytest.approx(loss, rel=0.01)
        assert F.cosine_similarity(ours, exact, dim=0) > 0.99 and not torch.equal(ours, exact)


def test_halves_of_a_backward_give_the_bits_of_a_whole_one():
    whole, halves = (gradient(torch.bfloat16, Float8(multiply=emulated), later) for later in (False, True))
    assert whole[0] == halves[0] and torch.equal(whole[1], halves[1])
