"""Parts of a sequence on several cards compute what one process computes of the whole one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from provoke import provoke
from test_sharing import linked
from test_train_together import DENSE, MOE, ONE, TIED, YUAN, bench, plan_of
from torch.utils._python_dispatch import TorchDispatchMode
from train_world import halved

from danlu.model.context import CausalPart
from danlu.model.halves import Halves
from danlu.model.net import Causal, Decoder, init
from danlu.nouns import Card, Fleet, ModelSpec, Plan
from danlu.plan import text
from danlu.plan.candidates import Ask
from danlu.plan.forecast import forecast
from danlu.plan.memory import stage_bytes
from danlu.plan.operator import GLUE
from danlu.plan.ranks import step_search
from danlu.plan.ranks.cells import cells
from danlu.plan.ranks.context import held, pieces
from danlu.plan.ranks.context_cost import kept_of_others, part_costs
from danlu.plan.ranks.parts import Part, parts
from danlu.plan.ranks.seats import seats
from danlu.plan.ranks.sharing import part_of
from danlu.plan.ranks.step_search import Ways
from danlu.train.neighbours import RankNeighbours
from danlu.train.optim import AdamW

torch.set_num_threads(1)
PLAIN = replace(DENSE, qkv_bias=False, qk_norm=False)
WINDOW = replace(PLAIN, family="mistral", window=3)
TWO = (6, (2, 2), ())


def cut(spec: ModelSpec, pipes) -> Plan:
    """A plan of pipelines (stages as in plan_of, micro-batches, tokens of each sequence of 5)."""
    plan = plan_of(spec, [(pipe, count) for pipe, count, _ in pipes])
    rest = (replace(each, context=pipe[2]) for each, pipe in zip(plan.replicas, pipes[1:], strict=True))
    return replace(plan, context=pipes[0][2], replicas=tuple(rest))


CASES = {
    "3 + 2": (DENSE, [((ONE,), 2, 3), ((ONE,), 2, 2)]),
    "1 + 4, fused": (PLAIN, [((ONE,), 2, 1), ((ONE,), 2, 4)]),
    "1 + 3 + 1, tied": (TIED, [((ONE,), 2, 1), ((ONE,), 2, 3), ((ONE,), 2, 1)]),
    "a window of 3 over 1 + 2 + 2": (WINDOW, [((ONE,), 2, 1), ((ONE,), 2, 2), ((ONE,), 2, 2)]),
    "x pp": (DENSE, [(((3, (), ()), (6, (), ())), 3, 3), (((3, (), ()), (6, (), ())), 3, 2)]),
    "x tp of one part": (DENSE, [((TWO,), 2, 3), ((ONE,), 2, 2)]),
    "x dp, tied": (TIED, [((ONE,), 1, 0), ((ONE,), 2, 3), ((ONE,), 2, 2)]),
    "moe, experts 1 + 4": (MOE, [(((6, (2, 2), (1, 4)),), 2, 2), ((ONE,), 2, 3)]),
    "yuan, tp 1 + 3 and 2 + 2": (YUAN, [(((6, (1, 3), ()),), 2, 3), ((TWO,), 2, 2)]),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(case):
    assert bench.gradient_error(bench.job_of(cut(*CASES[case]))) < 1e-5


@pytest.mark.parametrize("case", ["x pp", "yuan, tp 1 + 3 and 2 + 2"])
def test_a_forward_that_runs_again_hears_its_neighbours_again(case):
    plan = cut(*CASES[case])

    def again(stages):
        return tuple(replace(stage, recompute="full") for stage in stages)

    plan = replace(plan, stages=again(plan.stages),
                   replicas=tuple(replace(each, stages=again(each.stages)) for each in plan.replicas))  # fmt: skip
    assert bench.gradient_error(bench.job_of(plan)) < 1e-5


def test_a_backward_in_halves_sends_with_its_first_half():
    plan = cut(*CASES["x pp"])
    orders = (halved(2, 3), halved(1, 3))
    plan = replace(plan, schedule="zb", orders=orders, replicas=(replace(plan.replicas[0], orders=orders),))
    assert bench.gradient_error(bench.job_of(plan)) < 1e-5


def test_losses_of_many_steps_are_those_of_one_process_and_the_same_every_time():
    job = bench.job_of(cut(*CASES["1 + 3 + 1, tied"]))
    (told, again), (losses, _) = (bench.run(job, bench.started(job), 0, 8) for _ in range(2)), bench.alone(job, 8)
    assert told == again
    np.testing.assert_allclose([loss for loss, _ in told], losses, rtol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.one_of(st.none(), st.integers(0, 9)), st.data())
def test_every_row_before_the_own_is_heard_once_in_every_column(contexts, reach, data):
    shares = [data.draw(st.sampled_from([(), (2, 2), (1, 3), (1, 1, 2)])) for _ in contexts]
    axis = data.draw(st.sampled_from(["", "kv_heads", "filter"]))
    pipes = [(((6, share, ()),), 1, context) for share, context in zip(shares, contexts, strict=True)]
    plan = replace(cut(YUAN, pipes), seq=sum(contexts))
    every = seats(plan)
    for seat in every:
        own, columns = parts(plan)[seat.replica], held(plan, seat, axis)
        first = 0 if reach is None else max(0, own.start - reach)
        due = {(row, column) for row in range(first, own.start) for column in range(*columns)}
        came = []
        for piece in pieces(plan, seat, axis, reach):
            sender = every[piece.sender]
            assert piece in pieces(plan, sender, axis, reach)
            lent, has = parts(plan)[sender.replica], held(plan, sender, axis)
            assert lent.start <= piece.rows[0] and piece.rows[1] <= lent.stop
            assert has[0] <= piece.columns[0] and piece.columns[1] <= has[1]
            if piece.receiver == seat.rank:
                came += [(row, column) for row in range(*piece.rows) for column in range(*piece.columns)]
        assert sorted(came) == sorted(due)


@pytest.mark.parametrize("pipes", [
    [((ONE,), 2, 3), ((ONE,), 2, 3)], [((ONE,), 2, 3)], [((ONE,), 2, 0), ((ONE,), 2, 2)], [((ONE,), 2, -1)],
    [((ONE,), 2, 3), ((ONE,), 3, 2)], [((ONE,), 2, 3), (((3, (), ()), (6, (), ())), 2, 2)],
])  # fmt: skip
def test_parts_that_are_no_sequence_or_not_in_step_are_refused(pipes):
    with provoke("DL-CFG-021") as caught:
        cells(cut(DENSE, pipes))
    assert "card" in caught.error.where


def test_a_plan_with_parts_survives_its_text_and_counts_its_sequences_once():
    plan = cut(*CASES["x dp, tied"])
    assert text.loads(text.dumps(plan)) == plan
    assert plan.sequences == 6
    assert [bench.started(bench.job_of(plan))[rank]._before for rank in range(3)] == [0, 2, 2]


@pytest.mark.parametrize("spec", [
    PLAIN, replace(DENSE, qkv_bias=False), replace(DENSE, qk_norm=False), WINDOW, MOE, YUAN
])  # fmt: skip
def test_a_part_keeps_as_many_bytes_as_forecast(spec):
    plan = replace(cut(spec, [((ONE,), 2, 16), ((ONE,), 2, 8)]), seq=24)
    for stage in bench.started(bench.job_of(plan)):
        own = parts(plan)[stage.seat.replica]
        kept = stage_bytes(plan.model, 0, 6, in_flight=1, micro_batch=2, seq=own.tokens).activations
        kept += kept_of_others(plan, stage.seat, part_of(plan.model, stage.decoder.share), 1)
        assert kept == pytest.approx(stage._activation_bytes, rel=0.06)


class Calls(TorchDispatchMode):
    """Counts what torch is asked for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_meeting_the_other_parts_is_as_many_calls_as_the_plan_charges():
    plan = cut(PLAIN, [((ONE,), 2, 3), ((ONE,), 2, 2)])
    for seat, part in zip(seats(plan), parts(plan), strict=True):
        counted = []
        for state in (Causal(1, part.tokens), CausalPart(1, part.start, part.stop, RankNeighbours(plan, seat))):
            decoder = Decoder(PLAIN, 1, 2)
            init(decoder, 0)
            AdamW(decoder, weight_decay=0.1)
            decoder.halve(Halves())
            x, meta = torch.randn(part.tokens, PLAIN.hidden).requires_grad_(), state.meta()
            decoder(x, state, meta)  # a mask is made the first time
            with Calls() as ahead:
                out = decoder(x, state, meta)
            gradient = torch.ones_like(out)
            with Calls() as behind:
                out.backward(gradient)
            counted.append((ahead.count, behind.count))
        (alone, alone_back), (met, met_back) = counted
        # the first part hears nobody, so that three calls of the others' are not its
        assert GLUE["part"][0] - 3 <= met - alone <= GLUE["part"][0]
        assert met_back - alone_back == GLUE["part"][1]


def slowest(ask, cards, edges):
    """Seconds of a micro-batch on the slowest of cards that each have the whole model and a part of every sequence."""
    each = [part_costs(ask.spec, card, 2, Part(0, *span), "fp32", ask.seq)
            for card, span in zip(cards, itertools.pairwise((0, *edges, ask.seq)), strict=True)]  # fmt: skip
    return max(sum(unit.forward_s + unit.backward_s for unit in units) for units in each)


@pytest.mark.parametrize("speeds", [(1.0, 1.0), (0.3, 0.9), (0.9, 0.2, 0.4)])
def test_cards_get_the_tokens_that_end_together(speeds):
    ask = Ask(PLAIN, 2, 4, 24, "fp32")
    cards = tuple(Card(f"c{i}", "cpu", "", {"fp32": 1e9 * s}, 2**30, 1e9 * s, cores=s) for i, s in enumerate(speeds))
    plan = step_search.best(ask, Fleet("f", cards), Ways(len(speeds)))
    least = min(slowest(ask, order, edges) for order in itertools.permutations(cards)
                for edges in itertools.combinations(range(1, 24), len(speeds) - 1))  # fmt: skip
    held = [plan.fleet.card(each.stages[0].cards[0]) for each in plan.pipelines]
    edges = list(itertools.accumulate(each.context for each in plan.pipelines))[:-1]
    assert least <= slowest(ask, held, edges) < 1.03 * least
    spans = [(each.context, plan.fleet.card(each.stages[0].cards[0])) for each in plan.pipelines]
    assert plan.sequences == 8 and sum(tokens for tokens, _ in spans) == 24
    assert len(set(speeds)) < 2 or max(spans, key=lambda each: each[0])[1].cores == max(speeds)


def test_four_cards_are_two_stages_of_two_parts():
    cards = tuple(Card(f"c{i}", "cpu", "", {"fp32": s}, 2**30, s, cores=1) for i, s in enumerate((4e9, 2e9, 4e9, 2e9)))
    plan = step_search.best(Ask(PLAIN, 2, 4, 24, "fp32"), Fleet("f", cards), Ways(2))
    assert [len(each.stages) for each in plan.pipelines] == [2, 2] and len({seat.card for seat in seats(plan)}) == 4
    assert bench.gradient_error(bench.job_of(plan)) < 1e-5


def test_parts_that_cards_cannot_take_are_refused():
    cards = tuple(Card(f"c{i}", "cpu", "", {"fp32": 1e9}, 2**16, 1e9, cores=1) for i in range(3))
    for count, code in ((2, "DL-CFG-021"), (4, "DL-CFG-021"), (3, "DL-MEM-001")):
        with provoke(code):
            step_search.best(Ask(PLAIN, 2, 4, 24, "fp32"), Fleet("f", cards), Ways(count))


def test_later_tokens_cost_more_and_a_slow_link_is_waited_for():
    pipes = [((ONE,), 2, 12), ((ONE,), 2, 12)]

    def step_s(first):
        pipes = [((ONE,), 2, first), ((ONE,), 2, 24 - first)]
        return forecast(replace(cut(PLAIN, pipes), seq=24)).forecast.step_s

    busy = {first: step_s(first) for first in (4, 12, 14, 20)}
    assert busy[14] < busy[12] < busy[4] and busy[14] < busy[20]
    plan = replace(cut(PLAIN, pipes), seq=24)
    slow = forecast(linked(plan, 0.5)).forecast.step_s
    moments = 2 * 2 * (1 + 2) + 3  # two micro-batches of two passes over two layers; gradients, norm, weights
    assert slow == pytest.approx(0.5 * moments, rel=0.2)
