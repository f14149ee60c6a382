"""Perplexity over held-out batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from provoke import provoke

from danlu.model.net import Causal, Decoder, init
from danlu.model.score import loss, perplexity
from danlu.nouns import ModelSpec

SPEC = ModelSpec("llama", 2, 16, 2, 2, 8, 24, 37, 64)


def test_a_decoder_that_knows_nothing_is_as_undecided_as_the_vocabulary_is_large():
    decoder = Decoder(SPEC)
    init(decoder, 0)
    with torch.no_grad():
        decoder.head.weight.zero_()
    batches = np.random.default_rng(0).integers(0, 37, (3, 2, 9))
    assert perplexity(decoder, batches) == pytest.approx(37, rel=1e-6)


def test_batches_weigh_by_their_tokens():
    decoder = Decoder(SPEC)
    init(decoder, 1)
    rng = np.random.default_rng(1)
    large, small = rng.integers(0, 37, (4, 17)), rng.integers(0, 37, (1, 5))
    expected = (loss(decoder, [large]) * 64 + loss(decoder, [small]) * 4) / 68
    assert loss(decoder, [large, small]) == pytest.approx(expected, rel=1e-9)
    assert perplexity(decoder, [large, small]) == pytest.approx(math.exp(expected), rel=1e-9)
    state = Causal(4, 16)
    logits = decoder(torch.from_numpy(large[:, :-1]).flatten(), state, state.meta())
    direct = torch.nn.functional.cross_entropy(logits, torch.from_numpy(large[:, 1:]).flatten())
    assert loss(decoder, [large]) == pytest.approx(direct.item(), rel=1e-6)


def test_nothing_to_score_is_said():
    with provoke("DL-DATA-066"):
        loss(Decoder(SPEC), [])
