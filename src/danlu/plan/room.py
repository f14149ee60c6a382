"""Does a split fit its cards, and what would fit when none does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from danlu.errors import DoesNotFit, ShortBatch
from danlu.nouns import Card, Fleet, Plan
from danlu.plan.candidates import AGAIN, NOT, WHOLE, Ask, Cuts, Holds, Levels, Sums, orders, promising
from danlu.plan.memory import stage_bytes
from danlu.plan.schedule import depth_of, in_flight

GIB = 2**30


def holds(ask: Ask, cards: Sequence[Card], schedule: str) -> tuple[Holds, ...]:
    """For every stage, the question how its card has the memory for a range of units."""
    flights = in_flight(len(cards), ask.micro_batches, depth_of(schedule))
    return tuple(hold(levels(ask, card.mem_bytes, flight)) for card, flight in zip(cards, flights, strict=True))


def hold(found: Levels) -> Holds:
    """The question whose answers stand in a table by start and stop."""

    def how(start: Cuts, stop: Cuts) -> Levels:
        return np.asarray(found[start, stop], dtype=np.int8)

    return how


def levels(ask: Ask, room: int, flight: int, beside: int = 0) -> Levels:
    """How `room` bytes hold every range [start, stop) of units; `beside` bytes more are kept of each parameter."""
    # What is kept costs no time: forwards run again only where nothing else fits.
    plain = _table(ask, flight, None, beside)
    found = np.where(plain <= room, WHOLE, NOT).astype(np.int8)
    if plain[0, -1] > room:
        found[(found == NOT) & (_table(ask, flight, 1, beside) <= room)] = AGAIN
    return found


@lru_cache(maxsize=256)
def _table(ask: Ask, flight: int, recomputed: int | None, beside: int) -> npt.NDArray[np.int64]:
    """Bytes of every range [start, stop) of units; as many as nothing has where the range is empty."""
    units = len(ask.spec.units)
    found = np.full((units + 1, units + 1), np.iinfo(np.int64).max)
    params = [0, *accumulate(ask.spec.unit_params(unit) for unit in ask.spec.units)]
    for start in range(units):
        for stop in range(start + 1, units + 1):
            more = beside * (params[stop] - params[start])
            found[start, stop] = _bytes(ask, start, stop, flight, recomputed) + more
    return found


def _bytes(ask: Ask, start: int, stop: int, flight: int, recomputed: int | None = None) -> int:
    return stage_bytes(ask.spec, start, stop, in_flight=flight, micro_batch=ask.micro_batch, seq=ask.seq,
                       dtype=ask.dtype, recomputed=recomputed).total  # fmt: skip


def no_plan(ask: Ask, fleet: Fleet) -> DoesNotFit:
    """The error where no split fits, with the cheapest change that would fit."""
    fewest = range(ask.micro_batches + 1, min(len(ask.spec.units), len(fleet.cards)) + 1)
    longer = next((many for many in fewest if _possible(replace(ask, micro_batches=many), fleet)), None)
    if longer is None:
        return _does_not_fit(ask, fleet)
    return _short(ask.micro_batch, ask.micro_batches, longer, ", and the model fits no shorter pipeline of these cards",
                  _finer(ask, fleet) or f"--plan.micro_batches {longer}")  # fmt: skip


def check_length(plan: Plan, where: Callable[[int], str], fix: str) -> None:
    """Raise ShortBatch for a pipeline that is longer than its micro-batches; `where` names the place of a copy."""
    for copy, each in enumerate(plan.pipelines):
        stages = len(each.stages)
        if each.micro_batches < stages:
            raise _short(plan.micro_batch, each.micro_batches, stages, "; as many as stages keep all of them busy",
                         fix.format(stages=stages), where(copy))  # fmt: skip


def _short(size: int, count: int, stages: int, beside: str, fix: str, where: str = "") -> ShortBatch:
    return ShortBatch(
        f"{count} micro-batches are fewer than the pipeline's {stages} stages", where=where,
        why=f"a step has {size * count} sequences in micro-batches of {size}: at least {stages - count} of {stages} "
        f"stages wait at any time{beside}",
        fix=fix,
    )  # fmt: skip


def _does_not_fit(ask: Ask, fleet: Fleet) -> DoesNotFit:
    units = len(ask.spec.units)
    need, have = _bytes(ask, 0, units, 1), sum(card.mem_bytes for card in fleet.cards)
    return DoesNotFit(
        f"no split of {ask.spec.params / 1e6:.1f} M parameters and micro-batches of {ask.micro_batch} x {ask.seq} fits",
        why=f"training needs {need / GIB:.3f} GiB and more per stage; the cards have {have / GIB:.3f} GiB: "
        + ", ".join(f"{card.name} {card.mem_bytes / GIB:.3f}" for card in fleet.cards),
        fix=_cheapest(ask, fleet),
    )  # fmt: skip


def _cheapest(ask: Ask, fleet: Fleet) -> str:
    """A smaller micro-batch with the same step; else more memory; always something that was checked to fit."""
    if finer := _finer(ask, fleet):
        return finer
    least = replace(ask, micro_batch=1)
    for percent in (110, 125, 150, 200, 300, 400, 600, 800):
        grown = tuple(replace(card, mem_bytes=card.mem_bytes * percent // 100) for card in fleet.cards)
        if _possible(least, replace(fleet, cards=grown)):
            return f"cards with {percent / 100:g} times the memory (at micro-batch 1){_layers(ask, fleet)}"
    return f"use more cards{_layers(ask, fleet)}"


def _finer(ask: Ask, fleet: Fleet) -> str:
    """The largest smaller micro-batch with which the same step fits; nothing where none does."""
    for size in (size for size in range(ask.micro_batch - 1, 0, -1) if ask.micro_batch % size == 0):
        count = ask.micro_batches * ask.micro_batch // size
        if _possible(replace(ask, micro_batch=size, micro_batches=count), fleet):
            return f"--plan.micro_batch {size} --plan.micro_batches {count} fits, with the same step"
    return ""


def _layers(ask: Ask, fleet: Fleet) -> str:
    """What number of layers would fit at micro-batch 1; nothing if not even one does."""
    low, high = 0, ask.spec.layers
    while low < high - 1:
        middle = (low + high) // 2
        spec = replace(ask.spec, layers=middle)
        low, high = (middle, high) if _possible(replace(ask, spec=spec, micro_batch=1), fleet) else (low, middle)
    return f", or --model.layers {low} --plan.micro_batch 1" if low else ""


def _possible(ask: Ask, fleet: Fleet) -> bool:
    """True when some split of some order fits."""
    sums = {card.name: Sums(ask, card) for card in fleet.cards}
    return any(
        len(promising([sums[card.name] for card in cards], holds(ask, cards, "1f1b")))
        for cards in orders(fleet, ask.longest)
    )
