"""Sampling draws what it says, and a seed fixes it."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.serve.sample import Sampling, sample

LOGITS = torch.tensor([0.0, 1.0, 2.0, 3.0])


def draws(sampling: Sampling, count: int = 2000) -> list[float]:
    generator = sampling.generator()
    found = [0] * len(LOGITS)
    for _ in range(count):
        (pick,) = sample(LOGITS[None], [(sampling, generator)])
        assert pick is not None
        found[pick.token] += 1
    return [n / count for n in found]


def test_frequencies_follow_the_softmax():
    for temperature in (1.0, 0.5):
        want = (LOGITS / temperature).softmax(-1).tolist()
        got = draws(Sampling(temperature, seed=7))
        assert all(abs(a - b) < 0.04 for a, b in zip(got, want, strict=True)), (got, want)


def test_top_k_and_top_p_keep_the_likeliest():
    assert draws(Sampling(top_k=1, seed=0), 50) == [0, 0, 0, 1]
    assert draws(Sampling(top_k=2, seed=0), 300)[:2] == [0, 0]
    # softmax of 0..3 is .03 .09 .24 .64: 0.6 is crossed by the first token, 0.7 by the second
    assert draws(Sampling(top_p=0.6, seed=0), 300)[:3] == [0, 0, 0]
    only = draws(Sampling(top_p=0.7, seed=0), 300)
    assert only[:2] == [0, 0] and only[2] > 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9),
    st.floats(0, 2), st.floats(1e-9, 1), st.integers(0, 12), st.integers(), st.none() | st.integers(0, 20),
)  # fmt: skip
def test_every_setting_draws_a_token_and_the_same_one_again(logits, temperature, top_p, top_k, seed, logprobs):
    sampling = Sampling(temperature, top_p, top_k, seed, logprobs)
    rows = torch.tensor([logits])
    (pick,) = sample(rows, [(sampling, sampling.generator())])
    assert pick is not None and 0 <= pick.token < len(logits)
    assert sample(rows, [(sampling, sampling.generator())]) == [pick]
    if logprobs is None:
        assert pick.logprob is None
    else:
        assert pick.logprob is not None and len(pick.top) == min(logprobs, len(logits))
        assert all(a[1] >= b[1] for a, b in zip(pick.top, pick.top[1:], strict=False))


def test_rows_that_are_no_numbers_draw_nothing():
    rows = torch.stack([LOGITS, torch.tensor([0.0, math.nan, 1.0, 2.0]), torch.tensor([0.0, math.inf, 1.0, 2.0])])
    how = Sampling(0.0)
    picks = sample(rows, [(how, how.generator())] * 3)
    assert picks[0] is not None and picks[0].token == 3
    assert picks[1:] == [None, None]


def test_probabilities_are_those_of_the_model():
    how = Sampling(0.0, logprobs=2)
    (pick,) = sample(LOGITS[None], [(how, how.generator())])
    want = LOGITS.log_softmax(-1)
    assert pick is not None and abs((pick.logprob or 0) - float(want[3])) < 1e-6
    assert [token for token, _ in pick.top] == [3, 2]
