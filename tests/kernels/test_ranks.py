"""A model shared by ranks beside the whole one; the ranks are threads here, each with its own end of the segment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import test_program as programs
import torch
from provoke import provoke

from danlu.comm.mesh import PeerLost
from danlu.comm.shm import Segment, ShmGroup, usable
from danlu.kernels import nf4, q4
from danlu.kernels.interpret import Weight
from danlu.kernels.lower import lower
from danlu.kernels.program import Code
from danlu.kernels.runner import Runner
from danlu.kernels.step import Cache
from danlu.model.quantized import ROUTING
from danlu.model.shared import cache_widths, own
from danlu.nouns import ModelSpec
from danlu.shares import Share, cut

pytestmark = pytest.mark.skipif(not usable(), reason="needs shared memory")


def cache(spec: ModelSpec, share: Share) -> Cache:
    """Pages of one rank, as test_program has them for the whole."""
    heads, edges = cache_widths(spec, share)
    narrow = programs.cache(replace(spec, kv_heads=heads))
    kept = [[torch.full((24, width), float("nan")) for width in edges] for _ in range(spec.layers)]
    return Cache(narrow.layers, narrow.page, kept)


def groups(ranks: int, limit_s: float = 20.0) -> list[ShmGroup]:
    """An end for every rank."""
    first = Segment(ranks)
    segments = [first, *(Segment(ranks, first.address) for _ in range(ranks - 1))]
    return [ShmGroup(each, range(ranks), rank, limit_s=limit_s) for rank, each in enumerate(segments)]


def runners(spec: ModelSpec, weights: dict[str, Weight], shares: tuple[Share, ...], isa: str = "auto") -> list[Runner]:
    """One for every rank."""
    ends = groups(len(shares))
    return [Runner(lower(spec, shares[rank]), own(spec, weights, shares, rank), cache(spec, shares[rank]), isa,
                   precision="fp32", ranks=ends[rank]) for rank in range(len(shares))]  # fmt: skip


def together(every: list[Runner], do: Callable[[Runner], torch.Tensor]) -> torch.Tensor:
    """What the first rank has of a step that all make."""
    with ThreadPoolExecutor(len(every)) as pool:
        waiting = [pool.submit(do, each) for each in every]
        found = [each.result(timeout=30) for each in waiting]
    return found[0]


@pytest.mark.parametrize("isa", ["auto", "torch"])
@pytest.mark.parametrize("name", programs.SPECS)
def test_shares_together_have_the_logits_of_the_whole(name, isa):
    spec = programs.SPECS[name]
    if spec.kv_heads == 1:
        spec = replace(spec, heads=6, kv_heads=3)
    made, group = programs.decoder(spec), spec.heads // spec.kv_heads
    shares = cut(spec, (3, 2, 1) if group == 1 else (spec.heads - group, group))
    every, alone = runners(spec, programs.weights(made), shares, isa), programs.runner(made)
    a, b = programs.sequence(70, 1), programs.sequence(40, 2)
    for step in (((a, [9, 8, 7, 6, 5], 0, 69),), ((b, [3, 0, 2], 0, 30), (a, [9, 8, 7, 6, 5], 69, 70)),
                 ((b, [3, 0, 2], 30, 31),)):  # fmt: skip
        got = together(every, lambda run, step=step: programs.say(run, *step))
        torch.testing.assert_close(got, programs.say(alone, *step), atol=1e-5, rtol=1e-5)
    sums = sum(op.code == Code.REDUCE for op in every[0].program.ops)
    assert sums == spec.layers * (3 if "lfa" in spec.recipe else 2)


@pytest.mark.parametrize("isa", ["auto", "torch"])
@pytest.mark.parametrize(("name", "experts"), [("mixtral", (1, 4)), ("qwen2_moe", (7, 2))])
def test_whole_experts_of_each_rank_have_the_logits_of_all(name, experts, isa):
    spec = programs.SPECS[name]
    made, group = programs.decoder(spec), spec.heads // spec.kv_heads
    shares = cut(spec, (spec.heads - group, group), experts=experts)
    every, alone = runners(spec, programs.weights(made), shares, isa), programs.runner(made)
    tokens = programs.sequence(70, 1)
    for step in ((tokens, [4, 3, 2, 1, 0], 0, 69), (tokens, [4, 3, 2, 1, 0], 69, 70)):
        got = together(every, lambda run, step=step: programs.say(run, step))
        torch.testing.assert_close(got, programs.say(alone, step), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["wide", "yuan", "qwen2_moe"])
def test_shares_of_4_bit_weights(name):
    spec = replace(programs.SPECS[name], heads=3, kv_heads=3, head_dim=64, hidden=384, ffn=192,
                   shared_ffn=128 if name == "qwen2_moe" else 0)  # fmt: skip
    made = programs.decoder(spec)
    small = {key: q4.of_nf4(nf4.quantize_nf4(weight)) if weight.dim() == 2 and not key.endswith(ROUTING) else weight
             for key, weight in programs.weights(made).items()}  # fmt: skip
    every = runners(spec, small, cut(spec, (2, 1), 64))
    alone = Runner(lower(spec), small, programs.cache(spec), precision="fp32")
    step = (programs.sequence(40, 1), [2, 1, 0], 0, 40)
    got = together(every, lambda run: programs.say(run, step))
    torch.testing.assert_close(got, programs.say(alone, step), atol=1e-4, rtol=1e-5)


def test_a_cut_head_is_refused():
    with provoke("DL-CFG-020"):
        cut(programs.SPECS["llama3"], (4, 2))


def test_a_rank_that_left_is_named_within_a_second():
    spec = programs.SPECS["llama2"]
    made = programs.decoder(spec)
    shares = cut(spec, (3, 3))
    ends = groups(2)
    run = Runner(lower(spec, shares[0]), own(spec, programs.weights(made), shares, 0), cache(spec, shares[0]),
                 ranks=ends[0])  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(programs.say, run, ([1, 2, 3], [0], 0, 3))
        ends[1].close()
        with pytest.raises(PeerLost, match="rank 1"):
            step.result(timeout=1)


def test_a_rank_that_does_not_come_is_named():
    spec = programs.SPECS["llama2"]
    made = programs.decoder(spec)
    shares = cut(spec, (3, 3))
    ends = groups(2, limit_s=0.2)
    run = Runner(lower(spec, shares[0]), own(spec, programs.weights(made), shares, 0), cache(spec, shares[0]),
                 ranks=ends[0])  # fmt: skip
    with provoke("DL-RUN-011") as caught:
        programs.say(run, ([1, 2, 3], [0], 0, 3))
    assert "rank 1" in str(caught.error)
    ends[1].close()
