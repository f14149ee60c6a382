"""Seconds and bytes of a model's units on one kind of card: what a search over large fleets adds up.

The same amounts, rates and constants as in stack_time.py and stack_memory.py, so that the sum over a plan's units is
what `danlu plan check` is scored on. One call makes a table for many ways of running a unit on one kind of card:

    table = unit_table(spec, card, [Way(tp=t, micro_batch=b) for t in (1, 2, 4, 8) for b in (1, 2)], seq=4096)
    layer = table.forward_s[:, ATTN] + table.forward_s[:, MLP]

A stage's micro-batch takes the sum of its units' seconds and `sent_s`; its card needs the sum of `params` times
`state_bytes`, the sum of `kept_bytes` for every micro-batch in flight, and the largest `moment_bytes`. A whole step of
n cards takes stack_time.waiting(n, constants) times the sum, because each waits for the slowest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.nouns import Group, ModelSpec
from danlu.plan import flop
from danlu.plan.stated import stack_memory
from danlu.plan.stated.setup import Experts, Setup
from danlu.plan.stated.stack_time import Constants, Rated, between, once_seconds, prices, published
from danlu.plan.stated.stack_work import AMOUNTS, once, sent, unit

KINDS = ("embed", "attn", "mlp", "head", "dense")  # the last one: of a mixture's first layers, zeros where none is so
EMBED, ATTN, MLP, HEAD, DENSE = range(5)
Floats = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Way:
    """How cards run a unit: their tensor, context and expert parallelism, sequences at once, and what is made anew.

    recompute  "none", "selective" (attention's scores only), "mlp" (or experts) or "full"
    cp         parts that a sequence is cut into, each on `tp` cards of its own
    ep         parts that the experts are cut into, over the cards among which a sequence is cut: at most `cp` of them
    zero       what replicas share: 1 the optimizer's states, 2 gradients too, 3 weights too
    offload    where the optimizer's states lie, to pass through the card once a step: "", "host" or "disk"
    spill      what attention and MLP keep for their backward waits in the host's memory
    """

    tp: int = 1
    micro_batch: int = 1
    recompute: str = "none"
    cp: int = 1
    ep: int = 1
    zero: int = 1
    offload: str = ""
    spill: bool = False

    @property
    def cards(self) -> int:
        """Cards of one stage."""
        return self.tp * self.cp

    @property
    def words(self) -> str:
        """What is not the habit, for people: "", or as in "cp 4, ep 4, ZeRO-3"."""
        parts = [f"cp {self.cp}"] * (self.cp > 1) + [f"ep {self.ep}"] * (self.ep > 1)
        parts += [f"ZeRO-{self.zero}"] * (self.zero != 1) + [f"optimizer on {self.offload}"] * bool(self.offload)
        parts += ["activations on host"] * self.spill
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Stack:
    """What else decides seconds and bytes: the software, and the hosts of these cards.

    network    bytes/s of one card to other hosts, one way
    precision  "bf16", "fp16", "fp32", or "fp8": bf16 whose layers multiply in 8 bits
    apart      pipelines stand on cards of several groups, so that no host has all that share a gradient
    """

    cards_per_host: int = 8
    network: float = 25e9
    precision: str = "bf16"
    software: str = "Megatron-LM"
    compiled: bool = False
    flash: bool = True
    seq_parallel: bool = True
    overlap_dp: bool = True
    overlap_tp: bool = False
    apart: bool = False

    def on(self, group: Group) -> Stack:
        """The same on a group's hosts; its cards run bf16 where they do not multiply 8-bit floats."""
        narrow = self.precision == "fp8" and not group.fp8
        return replace(self, cards_per_host=group.per_host, network=group.network,
                       precision="bf16" if narrow else self.precision)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UnitTable:
    """One row per way, one column per KINDS; every figure is of one card.

    forward_s, backward_s  (ways, 5) seconds of one micro-batch; backward with what is computed again
    params        (ways, 5) parameters the card holds of the unit
    routed        (ways, 5) of them those of experts
    kept_bytes    (ways, 5) one micro-batch in flight keeps for its backward
    moment_bytes  (ways, 5) that live only while the unit runs backward
    sent_bytes    (ways,) to the next stage for one micro-batch, one way
    sent_s        (ways,) seconds of that to a stage of such cards, on the same host where both have room there
    away_s        (ways,) seconds of that over the network
    """

    ways: tuple[Way, ...]
    forward_s: Floats
    backward_s: Floats
    params: Floats
    routed: Floats
    kept_bytes: Floats
    moment_bytes: Floats
    sent_bytes: Floats
    sent_s: Floats
    away_s: Floats


def unit_table(
    spec: ModelSpec, card: Rated, ways: Sequence[Way], *, seq: int, stack: Stack | None = None,
    constants: Constants | None = None,
) -> UnitTable:  # fmt: skip
    """The table of a model's units on one kind of card; `seq` tokens a sequence.

    Cost: about 0.1 ms a way. Ways with a tp that does not divide the heads are answered as if it did.
    """
    chosen, known = stack or Stack(), constants or published()
    runs = [setup_of(spec, card, way, seq, chosen) for way in ways]
    none = np.zeros((2, len(AMOUNTS)))
    each = np.array([[unit(run, kind) if kind != "dense" or _dense(run) else none for kind in KINDS] for run in runs])
    each = each.reshape(-1, len(KINDS), 2, len(AMOUNTS))
    price = np.array([prices(run, card, known) for run in runs]).reshape(-1, len(AMOUNTS))
    seconds = np.einsum("wkda,wa->wkd", each, price)
    moved = np.array([sent(run) for run in runs])
    params, routed, kept, moment = (_by_kind(of, runs) for of in (_params, _routed, _kept, _moment))
    sent_s = moved * price[:, AMOUNTS.index("pp_bytes")]
    away_s = moved / [between(run, known, 1) for run in runs] * known.others.get(card.name, 1.0)
    return UnitTable(
        tuple(ways), seconds[:, :, 0], seconds[:, :, 1], params, routed, kept, moment, moved, sent_s, away_s
    )


def _by_kind(of: Callable[[Setup], list[float]], runs: Sequence[Setup]) -> Floats:
    return np.array([of(run) for run in runs]).reshape(-1, len(KINDS))


def state_bytes(stack: Stack, ranks: int, zero: int = 1) -> float:
    """Bytes of weight, gradient and optimizer of one parameter on one of `ranks` data-parallel cards."""
    run = Setup("", ranks, 1, None, 1, 1, 1, 1, 1, False, 1, 1, 1, zero=zero, precision=stack.precision)
    return stack_memory.bytes_per_param(run, ranks)


def step_seconds(
    spec: ModelSpec, card: Rated, way: Way, params: float, ranks: int, *, seq: int, stack: Stack | None = None,
    constants: Constants | None = None,
) -> float:  # fmt: skip
    """Seconds once a step on a card that holds `params`: gradients over `ranks` data-parallel cards, the optimizer."""
    chosen = stack or Stack()
    run = replace(setup_of(spec, card, way, seq, chosen), dp=ranks, cards=ranks * way.cards)
    dp_bytes, gathered, adam_bytes = once(run, params)
    return once_seconds(run, dp_bytes + gathered, adam_bytes, card, constants or published())


def setup_of(spec: ModelSpec, card: Rated, way: Way, seq: int, stack: Stack) -> Setup:
    """The model as a run of two stages on such cards, each on a host of its own."""
    experts = (Experts(spec.experts, spec.experts_used, spec.ffn, spec.shared_ffn, spec.dense_layers)
               if spec.experts else None)  # fmt: skip
    seen = flop.seen(spec, seq)
    return Setup(
        card=card.name, cards=2 * way.cards, cards_per_host=stack.cards_per_host, link=stack.network,
        layers=max(2, spec.layers), hidden=spec.hidden, heads=spec.heads, kv_heads=spec.kv_heads,
        ffn=spec.dense_ffn or spec.ffn, gated=spec.gated, vocab=spec.vocab, seq=seq, global_batch=way.micro_batch,
        micro_batch=way.micro_batch, tp=way.tp, pp=2, cp=way.cp, ep=way.ep, recompute=way.recompute,
        seq_parallel=stack.seq_parallel and way.tp > 1,
        zero=way.zero, precision=stack.precision, software=stack.software, compiled=stack.compiled,
        flash=stack.flash, overlap_dp=stack.overlap_dp, overlap_tp=stack.overlap_tp, experts=experts,
        head_dim=spec.head_dim, latent=spec.latent, seen=0.0 if seen == seq / 2 else seen,
    )  # fmt: skip


def _params(run: Setup) -> list[float]:
    table = run.padded_vocab * run.hidden
    mlp = stack_memory.mlp_params(run) + stack_memory.expert_params(run) / run.ep
    dense = stack_memory.mlp_params(run, True) * _dense(run)
    return [each / run.tp for each in (table, stack_memory.attention_params(run), mlp, table, dense)]


def _routed(run: Setup) -> list[float]:
    return [0.0, 0.0, stack_memory.expert_params(run) / run.ep / run.tp, 0.0, 0.0]


def _kept(run: Setup) -> list[float]:
    attention, mlp = stack_memory.half_bytes(run)
    rows = run.seq * run.micro_batch / run.cp
    head = rows * run.hidden * run.bytes_each / (run.tp if run.seq_parallel else 1)
    return [0.0, attention, mlp, head, stack_memory.half_bytes(run, True)[1] * _dense(run)]


def _moment(run: Setup) -> list[float]:
    mlp, head = stack_memory.moments(run)
    return [0.0, mlp, mlp, head, stack_memory.moments(replace(run, experts=None))[0] * _dense(run)]


def _dense(run: Setup) -> bool:
    """Whether the first layers have no experts where the others do."""
    return run.experts is not None and run.experts.dense_layers > 0
