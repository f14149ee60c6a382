"""Uneven shares of the axes, summed, are the whole model; shares that cut a head are refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke

from danlu.families import shapes
from danlu.model.export import export
from danlu.model.load import load
from danlu.model.net import Causal, Decoder, init
from danlu.model.parallel import cross_entropy
from danlu.nouns import ModelSpec
from danlu.recipe import weight_of
from danlu.shares import Share, cut, whole

torch.set_num_threads(1)

SPEC = ModelSpec("qwen3", 2, 24, 6, 3, 8, 29, 31, 64, tied=True, qkv_bias=True, out_bias=True, qk_norm=True)


MOE = replace(SPEC, experts=5, experts_used=2, shared_ffn=17, recipe=("attn", "moe"), tied=False)
YUAN = replace(SPEC, qk_norm=False, kv_heads=6, recipe=("lfa", "mlp"))
MODELS = {"dense": SPEC, "untied": replace(SPEC, tied=False), "moe": MOE, "yuan": YUAN}


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


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / (expected.norm() + 1e-12))


def gradients(spec: ModelSpec, shares: tuple[Share, ...]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and whole gradients of one decoder per share, forward and backward each in its own thread.

    Parts are joined along their cut axis; what every card holds must have one gradient on all of them.
    """
    add, ids, decoders, losses = Sum(len(shares)), torch.arange(14) * 5 % spec.vocab, {}, {}
    targets = ids.roll(-1)
    targets[5] = -100  # a place that no token fills

    def run(card: int) -> None:
        reduce = add.of(card) if len(shares) > 1 else None
        state, decoder = Causal(2, 7), random(spec, shares[card], reduce)
        logits = decoder(ids, state, state.meta())
        if reduce is None:
            loss = F.cross_entropy(logits, targets, reduction="sum")
        else:
            loss = cross_entropy(logits, targets, shares[card].vocab[0], card, len(shares), reduce)
        loss.backward()
        decoders[card], losses[card] = decoder, loss.item()

    with ThreadPoolExecutor(len(shares)) as pool:
        for done in [pool.submit(run, card) for card in range(len(shares))]:
            done.result(60)
    assert len(set(losses.values())) == 1
    found = {}
    for name in {name for each in decoders.values() for name, _ in each.named_parameters()}:
        held = [dict(decoders[card].named_parameters()).get(name) for card in range(len(shares))]
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in held if p is not None]
        span = shares[0].span(spec, name)
        if span is None:
            assert all(relative(grad, grads[0]) < 1e-6 for grad in grads), name
        whole = len(grads) == 1 or span is None
        found[name] = grads[0] if whole else torch.cat(grads, span[0])
    return losses[0], found


def random(spec: ModelSpec, share: Share | None = None, reduce=None) -> Decoder:
    """A decoder whose norms and biases are not at their start either."""
    decoder = started(spec, share, reduce)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim == 1:
                shape = weight_of(spec, name).shape
                noise = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
                span = decoder.share.span(spec, name)
                parameter += noise if span is None else noise.narrow(span[0], span[1], span[2] - span[1])
    return decoder


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("groups", "experts"), [((1, 2), None), ((1, 1, 1), None), ((2, 1), (1, 4)),
                                                 ((1, 1, 1), (2, 1, 2))])  # fmt: skip
def test_gradients_of_uneven_shares_are_those_of_one_card(model, groups, experts):
    spec = MODELS[model]
    if experts and not spec.experts:
        pytest.skip("it has no experts")
    heads = [count * 2 for count in groups]
    loss, expected = gradients(spec, (whole(spec),))
    told, found = gradients(spec, cut(spec, heads, experts=experts))
    assert told == pytest.approx(loss, rel=1e-6) and found.keys() == expected.keys()
    for name, grad in expected.items():
        assert relative(found[name], grad) < 1e-5, name


def started(spec: ModelSpec, share: Share | None = None, reduce=None) -> Decoder:
    decoder = Decoder(spec, share=share, reduce=reduce)
    init(decoder, 4)
    return decoder


@pytest.mark.parametrize("heads", [(6,), (4, 2), (2, 2, 2)])
@pytest.mark.parametrize("model", MODELS)
def test_uneven_shares_summed_are_the_whole_model(heads, model):
    spec, state = MODELS[model], Causal(2, 7)
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
    least = grain * len(groups)  # a step for every card is enough, however uneven they are
    spec = ModelSpec("llama", 1, 16, kv * group, kv, 4, max(ffn, least), max(vocab, least), 64)
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


@pytest.mark.parametrize("experts", [(5,), (3, 3), (5, 0), (2, 2, 1)])
def test_experts_that_do_not_sum_or_leave_a_card_none_are_refused(experts):
    with provoke("DL-CFG-020") as caught:
        cut(MOE, (4, 2), experts=experts)
    assert "at least 1" in caught.error.why


def test_more_cards_than_ffn_is_refused():
    with provoke("DL-CFG-020"):
        cut(replace(SPEC, ffn=64), (2, 2, 2), grain=64)
