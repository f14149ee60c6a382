"""Uneven shares of the axes, summed, are the whole model; shares that cut a head are refused."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.families import shapes
from danlu.model.export import export
from danlu.model.load import load
from danlu.model.net import Causal, Decoder, init
from danlu.model.shard import Share, cut
from danlu.nouns import ModelSpec

torch.set_num_threads(1)

SPEC = ModelSpec("qwen3", 2, 24, 6, 3, 8, 29, 31, 64, tied=True, qkv_bias=True, out_bias=True, qk_norm=True)


class Sum:
    """Adds the partial results of threads that stand for cards; each gets the same total."""

    def __init__(self, cards: int) -> None:
        self.parts: list[torch.Tensor | None] = [None] * cards
        self.barrier = threading.Barrier(cards)

    def of(self, card: int):
        def reduce(part: torch.Tensor) -> torch.Tensor:
            self.parts[card] = part
            self.barrier.wait(10)
            total = sum(self.parts)
            self.barrier.wait(10)
            return total

        return reduce


def together(shares: tuple[Share, ...], make) -> torch.Tensor:
    """Logits of one decoder per share, each in its own thread, their parts of the vocabulary side by side."""
    add, ids, found = Sum(len(shares)), torch.arange(14) % SPEC.vocab, [None] * len(shares)

    def run(card: int) -> None:
        state = Causal(2, 7)
        with torch.no_grad():
            found[card] = make(shares[card], add.of(card))(ids, state, state.meta())

    threads = [threading.Thread(target=run, args=(card,)) for card in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.cat(found, -1)


def started(spec: ModelSpec, share: Share | None = None, reduce=None) -> Decoder:
    decoder = Decoder(spec, share=share, reduce=reduce)
    init(decoder, 4)
    return decoder


@pytest.mark.parametrize("heads", [(6,), (4, 2), (2, 2, 2)])
@pytest.mark.parametrize("tied", [True, False])
def test_uneven_shares_summed_are_the_whole_model(heads, tied):
    spec, state = replace(SPEC, tied=tied), Causal(2, 7)
    with torch.no_grad():
        whole = started(spec)(torch.arange(14), state, state.meta())
    found = together(cut(spec, heads), lambda share, reduce: started(spec, share, reduce))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_shares_load_only_their_part_of_a_folder(tmp_path):
    whole, state = started(SPEC), Causal(2, 7)
    with torch.no_grad():
        for parameter in whole.parameters():  # biases too, or one added twice would not show
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) * 0.1
        expected = whole(torch.arange(14), state, state.meta())
    export(whole.state_dict(), SPEC, tmp_path / "m")
    found = together(cut(SPEC, (2, 4)), lambda share, reduce: load(tmp_path / "m", share=share, reduce=reduce))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(8, 300), st.integers(8, 300),
       st.sampled_from([1, 4, 64]))  # fmt: skip
def test_shares_part_every_axis_without_gap_or_overlap(groups, group, ffn, vocab, grain):
    kv = sum(groups)
    spec = ModelSpec("llama", 1, 16, kv * group, kv, 4, max(ffn, grain * kv), vocab + kv, 64)
    shares = cut(spec, [count * group for count in groups], grain)
    for name, shape in shapes(spec).items():
        spans = [share.span(spec, name) for share in shares]
        if spans[0] is None:
            continue
        axis = spans[0][0]
        assert [span[1] for span in spans] == [0, *(span[2] for span in spans[:-1])] and spans[-1][2] == shape[axis]
    assert all(share.ffn[0] % grain == 0 for share in shares)
    held = [sum(p.numel() for p in Decoder(spec, share=share, device="meta").parameters()) for share in shares]
    norms = sum(shape[0] for name, shape in shapes(spec).items() if "norm" in name)
    assert sum(held) == spec.params + (len(shares) - 1) * norms


@pytest.mark.parametrize("heads", [(3, 3), (6, 2), (6, 0), (), (8, -2)])
def test_shares_that_cut_a_head_or_miss_one_are_refused(heads):
    with provoke("DL-CFG-020") as caught:
        cut(SPEC, heads)
    assert "multiple of 2" in caught.error.why


def test_more_cards_than_ffn_is_refused():
    with provoke("DL-CFG-020"):
        cut(replace(SPEC, ffn=64), (2, 2, 2), grain=64)
