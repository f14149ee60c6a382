"""Every way a stage may run at one micro-batch size, as arrays over the ways and the places a pipeline may be cut.

A way is a group of cards, how they share its units (way_choices.py), and what they compute again. A stage of units
[start, stop) costs the difference of two prefix sums, so that a search looks at all stages of all ways at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu import native
from danlu.nouns import Group, GroupedFleet, ModelSpec
from danlu.plan import flop
from danlu.plan.groups import zero as sharded
from danlu.plan.groups.unit_cost import ATTN, DENSE, HEAD, KINDS, MLP, Stack, UnitTable, Way, state_bytes, unit_table
from danlu.plan.groups.way_choices import MOST_CARDS, choices
from danlu.plan.stated.stack_memory import CONTEXT_BYTES
from danlu.plan.stated.stack_time import Constants, Rated, published

USABLE = 0.95  # of a card's memory: what the allocator's blocks leave
SCHEDULES = ("1f1b", "zb-h1")
ARRAYS = ("group", "cards", "time", "fill", "hops", "step", "held", "kept", "room")  # of StageWays

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageWays:
    """The ways at one micro-batch size; prefix sums over units have one more column than the model has units.

    micro_batch  sequences
    group, cards  (ways,) index of the group, and cards of it that one stage takes
    time         prefix sums of seconds of one micro-batch, forward and backward
    fill         the same of the seconds by which a stage delays the first micro-batch's way there and back
    hops         (ways, groups) seconds of one message to a stage on cards of each group
    step         prefix sums of seconds once a step: its gradients over the replicas, its optimizer
    held, kept   prefix sums of bytes: states; activations of one micro-batch in flight
    room         (ways, 2) bytes for both, of a stage without and with the head
    chunks       pieces of the model that each stage holds (chunks.py); 1 for one
    places       units of the model before each place a pipeline may be cut; empty where that is before every unit
    dear         what looks at one stage at a time (covers.py) takes messages for the longest there are, not the least
    """

    micro_batch: int
    ways: tuple[Way, ...]
    group: Ints
    cards: Ints
    time: Floats
    fill: Floats
    hops: Floats
    step: Floats
    held: Floats
    kept: Floats
    room: Floats
    chunks: int = 1
    places: tuple[int, ...] = ()
    dear: bool = False

    @property
    def units(self) -> int:
        """Units of the model, or what lies between the places where it may be cut."""
        return int(self.time.shape[1]) - 1

    @property
    def hop(self) -> Floats:
        """(ways,) seconds of a message where its other end is not known: the least to a group of these ways, or most.

        A pipeline's own messages (pipelines.py) go by both ends.
        """
        to = self.hops[:, np.unique(self.group)]
        return np.asarray(to.max(axis=1, initial=0.0) if self.dear else to.min(axis=1, initial=np.inf))

    @property
    def more(self) -> Floats:
        """(ways,) seconds of messages of a stage's micro-batch beside those of its first and last chunk's ends."""
        return 2.0 * (self.chunks - 1) * self.hop

    @property
    def after(self) -> Floats:
        """Prefix sums of seconds of a stage behind its last but one micro-batch and the way there and back of one:
        weight gradients that a zero-bubble order has put off, or chunks; and what is done once a step."""
        return self.step + self.time - self.fill

    def unit(self, place: int) -> int:
        """Units of the model before a place where it may be cut."""
        return self.places[place] if self.places else place

    def in_flight(self, stages: Any, place: Any) -> Any:
        """Micro-batches, whole ones, that a stage keeps; of so many stages, with `place` of them behind it.

        1F1B and ZB-H1 keep one for the stage and each behind it; interleaved, the chunks ahead of the way back.
        """
        return (2 * place + 1 + (self.chunks - 1) * stages) / self.chunks if self.chunks > 1 else place + 1

    def only(self, keep: Any) -> StageWays:
        """Some of the ways, by mask or index."""
        at = np.arange(len(self.ways))[keep]
        arrays = {name: getattr(self, name)[at] for name in ARRAYS}
        return replace(self, ways=tuple(self.ways[i] for i in at), **arrays)


def rated(group: Group) -> Rated:
    """The card of a group as the cost model knows it."""
    return Rated(group.card, group.flops, group.mem_bytes, group.mem_bw, group.link, None)


def stage_ways(
    spec: ModelSpec, fleet: GroupedFleet, *, micro_batch: int, seq: int, replicas: int, most: int | None = None,
    schedule: str = "1f1b", stack: Stack | None = None, constants: Constants | None = None, zero: int = 1,
    every: bool = False,
) -> StageWays:  # fmt: skip
    """The ways of all groups in which a card holds some unit and that no other beats in everything; `every` of them.

    replicas  data-parallel pipelines that share optimizer states and sum gradients
    zero      most of what they share: 1, or also 2 gradients, 3 weights
    most      where the number of them is open, up to this: bytes and seconds are the least that any of them has
    """
    open_ = replicas, replicas if most is None else most
    parts = [_of_group(spec, group, micro_batch, seq, open_, schedule, stack or Stack(), constants, zero)
             for group in fleet.groups]  # fmt: skip
    arrays: dict[str, Any] = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(ARRAYS[1:], 1)}
    at = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    arrays["hops"] = _hops(fleet.groups, at, arrays["hops"])
    whole = StageWays(micro_batch, tuple(way for part in parts for way in part[0]), at, **arrays)
    return whole if every else whole.only(_useful(whole))


def _hops(groups: Sequence[Group], at: Ints, each: Floats) -> Floats:
    """(ways, groups) seconds of a message: to the way's own group, or over the slower of two networks to another.

    each   (ways, 2) seconds to a stage of the same group, and over the network
    Cards of two groups are never on one host.
    """
    network = np.array([group.network for group in groups])
    slower = np.maximum(1.0, network[:, None] / network)
    own = np.arange(len(groups)) == at[:, None]
    return np.where(own, each[:, :1], each[:, 1:] * slower[at])


def _of_group(
    spec: ModelSpec, group: Group, micro_batch: int, seq: int, replicas: tuple[int, int], schedule: str, plain: Stack,
    constants: Constants | None, zero: int,
) -> tuple[Any, ...]:  # fmt: skip
    """The ways of one group and the fields of StageWays from `cards` on; of `hops` as _hops takes them."""
    # A search asks again and again; a count matters up to the largest stage.
    return _figures(spec, replace(group, count=min(group.count, MOST_CARDS)), micro_batch, seq, replicas, schedule,
                    plain.on(group), constants, zero)  # fmt: skip


@lru_cache(maxsize=64)
def _table(
    spec: ModelSpec, card: Rated, ways: tuple[Way, ...], seq: int, here: Stack, constants: Constants | None
) -> UnitTable:  # fmt: skip
    return unit_table(spec, card, ways, seq=seq, stack=here, constants=constants)


@lru_cache(maxsize=256)
def _figures(
    spec: ModelSpec, group: Group, micro_batch: int, seq: int, replicas: tuple[int, int], schedule: str, here: Stack,
    constants: Constants | None, zero: int,
) -> tuple[Any, ...]:  # fmt: skip
    card, known = rated(group), constants or published()
    ways = choices(spec, group, micro_batch, seq, zero, here)
    table = _table(spec, card, ways, seq, here, constants)
    kinds = np.array([KINDS.index(unit.rsplit(".", 1)[-1]) for unit in spec.units])
    once, each = _shared(spec, group, ways, replicas, seq, here, known)
    held = np.array(
        [[state_bytes(here, replicas[1] * n, way.zero) for n in (way.cp, way.cp // way.ep)] for way in ways]
    )
    for at, way in enumerate(ways):
        for part, alike in enumerate((way, replace(way, cp=way.cp // way.ep))):
            if way.offload:
                of = sharded.away(group, alike, replicas[1], float(held[at, part]), USABLE * group.mem_bytes)
                held[at, part], once[at, part] = of[0], once[at, part] + of[1]
    both = np.stack([table.params - table.routed, table.routed], axis=2)  # (ways, kinds, 2)
    hidden = known.contended if here.overlap_dp else 1.0
    sent = np.einsum("wkp,wpd->dwk", both, each)
    kept = table.kept_bytes.copy()
    for at in [at for at, way in enumerate(ways) if way.spill]:
        for kind in (ATTN, MLP, DENSE):
            kept[at, kind], seconds = sharded.spilled(group, float(kept[at, kind]), USABLE * group.mem_bytes)
            sent[:, at, kind] += seconds
    forward, backward = (np.maximum(own, moved) + hidden * np.minimum(own, moved)
                         for own, moved in zip((table.forward_s, table.backward_s), sent, strict=True))  # fmt: skip
    time = forward + backward
    fill = time - 2 * _weight_gradient(spec, table, seq) if schedule == "zb-h1" else time

    def summed(found: Any) -> Floats:
        return np.concatenate([np.zeros((len(ways), 1)), np.cumsum(found[:, kinds], axis=1)], axis=1)

    return (ways, np.array([way.cards for way in ways]), summed(time), summed(fill),
            np.stack([table.sent_s, table.away_s], axis=1),
            summed(np.einsum("wkp,wp->wk", both, once)), summed(np.einsum("wkp,wp->wk", both, held)),
            summed(kept), _room(group, ways, table))  # fmt: skip


def _shared(
    spec: ModelSpec,
    group: Group,
    ways: Sequence[Way],
    replicas: tuple[int, int],
    seq: int,
    here: Stack,
    known: Constants,
) -> tuple[Floats, Floats]:
    """Seconds of a parameter's sharing over the replicas, the least of any number of them: (ways, 2) once a step, and
    (ways, 2, 2) of every micro-batch, forward and backward; of parameters every card needs, and of experts'."""
    once, each = np.zeros((len(ways), 2)), np.zeros((len(ways), 2, 2))
    card = rated(group)
    for at, way in enumerate(ways):
        for part, alike in enumerate((way, replace(way, cp=way.cp // way.ep))):
            if part and not spec.experts:
                continue
            counts = _telling(replicas, max(1, group.per_host // alike.cards))
            asked = [(spec, card, alike, count) for count in counts]
            once[at, part] = min(sharded.once(*one, seq=seq, stack=here, constants=known) for one in asked)
            found = [sharded.each(*one, seq=seq, stack=here, constants=known) for one in asked]
            each[at, part] = np.min(found, axis=0)
    return once, each


def _room(group: Group, ways: Sequence[Way], table: UnitTable) -> Floats:
    """(ways, 2) bytes for states and activations, beside what lives for a moment: without and with the head."""
    moment = table.moment_bytes
    passing = np.array([sharded.PASSING[way.zero] for way in ways])
    # Of spilled activations those of one layer leave while the next one makes its own.
    leaving = np.array([sharded.LAYERS * way.spill for way in ways]) * table.kept_bytes[:, [ATTN, MLP]].sum(axis=1)
    layers = sharded.LAYERS * table.params[:, [ATTN, MLP]].sum(axis=1)
    body = moment[:, [ATTN, MLP, DENSE]].max(axis=1) + passing * layers + leaving
    head = np.maximum(body, moment[:, HEAD] + passing * np.maximum(layers, table.params[:, HEAD]))
    return np.asarray(USABLE * group.mem_bytes - CONTEXT_BYTES - np.stack([body, head], axis=1))


def moment_of(group: Group, room: float) -> int:
    """Bytes that live for a moment on a card whose room they leave."""
    return max(0, int(USABLE * group.mem_bytes - CONTEXT_BYTES - room))


def _telling(replicas: tuple[int, int], inside: int) -> set[int]:
    """Numbers of replicas among which one has the least seconds once a step.

    Those are linear in 1 / replicas, for as many as fit `inside` a host and for more.
    """
    fewest, most = replicas
    return {fewest, most, *(n for n in (inside, inside + 1) if fewest < n < most)}


def _weight_gradient(spec: ModelSpec, table: UnitTable, seq: int) -> Floats:
    """Seconds of the gradient of a unit's weights: those of the forward's matmuls, without attention's scores.

    No more than half of a backward: a head's forward may be mostly its loss, which has no weights.
    """
    weights = 2.0 * spec.unit_params("layers.0.attn")
    scores = 4.0 * flop.score_width(spec) * flop.seen(spec, seq)
    share = np.array([0.0, weights / (weights + scores), 1.0, 1.0, 1.0])
    return np.asarray(np.minimum(table.forward_s * share, table.backward_s / 2))


def _useful(ways: StageWays) -> npt.NDArray[np.bool_]:
    """Ways in which a card holds some unit, and that no other way of as many cards beats in everything."""
    least = (ways.held + ways.kept)[:, 1:] - (ways.held + ways.kept)[:, :-1]
    good: npt.NDArray[np.bool_] = np.asarray((least <= ways.room[:, :1]).any(axis=1))
    sums = (ways.time, ways.fill, ways.step, ways.held, ways.kept)
    figures = np.concatenate([*(np.diff(each, axis=1) for each in sums), ways.hops, -ways.room], axis=1)
    figures = np.unique(figures, axis=1)
    for i in np.flatnonzero(good):
        rivals = good & (ways.group == ways.group[i]) & (ways.cards == ways.cards[i])
        rivals[i] = False
        better = (figures[rivals] <= figures[i]).all(axis=1)
        same = (figures[rivals] == figures[i]).all(axis=1) & (np.flatnonzero(rivals) > i)
        good[i] = not (better & ~same).any()
    return good


def memory_ends(ways: StageWays, depth: int, stages: int = 1) -> Ints:
    """(depth, ways, units + 1): the furthest stop of a stage by memory, by its place from the pipeline's end.

    stages   of the pipeline, or more of them where it has more
    """
    places = np.arange(depth)
    flight = np.asarray(ways.in_flight(np.maximum(stages, places + 1), places), dtype=np.float64)
    library = native.library()
    if library is None:
        return ends_in_numpy(ways, flight)
    found = np.empty((depth, *ways.time.shape), dtype=np.int64)
    given = [np.ascontiguousarray(each) for each in (ways.held, ways.kept, ways.room, flight)]
    data = (ctypes.c_void_p(each.ctypes.data) for each in given)
    sizes = (ctypes.c_int64(size) for size in found.shape)
    status = library.danlu_memory_ends(*data, *sizes, ctypes.c_void_p(found.ctypes.data))
    assert status == 0 and given, f"danlu_memory_ends answered {status}"
    return found


def ends_in_numpy(ways: StageWays, flight: Floats) -> Ints:
    """The same where stages of each place keep so many micro-batches, without a compiler."""
    found = np.empty((len(flight), *ways.time.shape), dtype=np.int64)
    for place, many in enumerate(flight):
        need = ways.held + many * ways.kept
        room = ways.room[:, 1 if place == 0 else 0]
        for i, row in enumerate(need):
            found[place, i] = np.searchsorted(row, row + room[i], side="right") - 1
    return found


def micro_batch_sizes(batch: int, most: int = 8) -> Sequence[int]:
    """Powers of two that a batch may be cut into."""
    return [size for size in (1, 2, 4, 8, 16) if size <= min(batch, most)]
