"""Checks a certificate of a plan's gap. Shares no code with the search: numpy and the certificate's own figures only.

It computes the plan's step anew from the listed costs, looks at memory, cards and completeness, and then at the bound:
that the ranges cover every number of pipelines, that all cards at their prices come to less than the batch, and that in
every interval of the bottleneck no cover of the model, of any class, does more than its cards cost (bound.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.errors import UnprovedPlan

CLOSE = 1e-9
Floats = npt.NDArray[Any]
Table = dict[str, Any]  # what a stage costs by way, sums over the first units; docs/formats.md, "certificate"


def checked(text: dict[str, Any]) -> float:
    """The gap that a certificate proves: the plan is at most so much slower than any other of its classes.

    Raises UnprovedPlan with the first thing that does not hold.
    """
    try:
        return _checked(text)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _unproved(f"it cannot be read: {error!r}") from error


def _checked(text: dict[str, Any]) -> float:
    if text["certificate"] != 1:
        raise _unproved(f"version {text['certificate']} is not 1")
    layer = [part for _ in range(text["model"]["layers"]) for part in text["model"]["recipe"]]
    units, cards = ["embed", *layer, "head"], np.array(text["cards"], dtype=float)
    seconds = _plan(text, units, cards)
    reached = 0.0
    for each in text["bounds"]:
        if each["fewest"] != reached + 1:
            raise _unproved(f"no bound for {reached + 1} to {each['fewest'] - 1} pipelines")
        reached = math.inf if each["most"] is None else each["most"]
        _bound(each, units, cards, text["batch"], text["stages"])
    if reached != math.inf:
        raise _unproved(f"no bound for more than {reached} pipelines")
    least = min(seconds, *(each["seconds"] for each in text["bounds"]))
    if abs(least - text["bound_s"]) > CLOSE * least:
        raise _unproved(f"the bounds come to {least} s, not to {text['bound_s']} s")
    return float(seconds / least - 1.0)


def _plan(text: dict[str, Any], units: list[str], cards: Floats) -> float:
    """Seconds of the plan's step, from its stages."""
    tables = {each["micro_batch"]: _table(each, units) for each in text["plan"]["tables"]}
    used, done, seconds = np.zeros(len(cards)), 0, 0.0
    for number, each in enumerate(text["plan"]["replicas"]):
        table, stages = tables[each["micro_batch"]], each["stages"]
        if [0, *(stop for _, _, stop in stages)] != [*(start for _, start, _ in stages), len(units)]:
            raise _unproved(f"the stages of pipeline {number} do not cover the model's {len(units)} units")
        fill, longest = 0.0, 0.0
        for at, (way, start, stop) in enumerate(stages):
            last = at == len(stages) - 1
            need = _of(table["held"], way, start, stop) + (len(stages) - at) * _of(table["kept"], way, start, stop)
            room = table["room"][way, int(last)]
            if need > room * (1 + CLOSE):
                raise _unproved(f"stage {at} of pipeline {number} needs {need:.0f} bytes of {room:.0f}")
            hops = table["hop"][way] * ((at > 0) + (not last))
            time = _of(table["time"], way, start, stop) + hops
            fill += time if last else _of(table["fill"], way, start, stop) + hops
            longest = max(longest, (each["micro_batches"] - 1) * time + _of(table["step"], way, start, stop))
            used[int(table["group"][way])] += each["copies"] * table["cards"][way]
        done += each["copies"] * each["micro_batch"] * each["micro_batches"]
        seconds = max(seconds, longest + fill)
    if (used > cards).any() or done < text["batch"]:
        raise _unproved(f"the plan uses {used.tolist()} of {cards.tolist()} cards and does {done} of {text['batch']}")
    if abs(seconds - text["plan"]["seconds"]) > 1e-6 * seconds:
        raise _unproved(f"the plan's step is {seconds} s, not {text['plan']['seconds']} s")
    return seconds


def _bound(each: dict[str, Any], units: list[str], cards: Floats, batch: int, stages: int) -> None:
    """No plan with so many pipelines has a step of each["seconds"]."""
    prices, place, seconds = np.array(each["prices"]), each["place"], each["seconds"]
    most = 0.0 if each["most"] is None else place * each["most"]
    if min(*prices, place) < 0 or (each["most"] is None and place) or prices @ cards + most >= batch:
        raise _unproved(f"all cards come to {prices @ cards + most} sequences, which is not below {batch}")
    for text, ends in zip(each["tables"], each["intervals"], strict=True):
        table = _table(text, units)
        ends = [math.inf if end is None else end for end in ends]
        if ends[-1] != math.inf or sorted(ends) != ends:
            raise _unproved("the intervals leave bottlenecks out")
        for low, high in zip([0.0, *ends], ends, strict=False):
            done = table["size"] * (1.0 + (seconds / low if low else math.inf)) - place
            least = _least(table, prices[table["group"].astype(int)] * table["cards"], low, high, seconds, done, stages)
            if len(table["group"]) and done > 0 and least < done * (1 - CLOSE):
                raise _unproved(f"a pipeline with a bottleneck of {low} to {high} s may do {done}, which costs {least}")


def _least(
    table: Table, price: Floats, low: float, high: float, seconds: float, done: float, stages: int
) -> float:  # fmt: skip
    """The least cost of a cover whose stages take at most `high`; infinity where there is none."""
    weight = table["size"] / low if low else 0.0
    load = table["time"] + table["step"] * (low / seconds)
    places = np.arange(load.shape[1])
    covered, least = np.full(len(places), math.inf), math.inf
    covered[-1] = 0.0
    for behind in range(stages):
        hop = table["hop"][:, None] * ((places > 0).astype(float) + (behind > 0))
        room = table["room"][:, [1 if behind == 0 else 0]]
        need, fill = table["held"] + (behind + 1) * table["kept"], table["fill"] if behind else table["time"]
        before, covered = covered, np.full(len(places), math.inf)
        for long in places[1:]:
            start, stop = slice(0, len(places) - long), slice(int(long), None)
            fits = load[:, stop] - load[:, start] + hop[:, start] <= high * (1 + CLOSE)
            fits &= need[:, stop] - need[:, start] <= room * (1 + CLOSE)
            if not fits.any():
                break
            cost = price[:, None] + weight * (fill[:, stop] - fill[:, start] + hop[:, start]) + before[None, stop]
            covered[start] = np.minimum(covered[start], np.where(fits, cost, math.inf).min(axis=0))
        least = min(least, float(covered[0]))
        if covered.min() >= min(least, done):
            break
    return least


def _of(sums: Floats, way: int, start: int, stop: int) -> float:
    return float(sums[way, stop] - sums[way, start])


def _table(text: dict[str, Any], units: list[str]) -> Table:
    at = [text["kinds"].index(unit) for unit in units]

    def summed(name: str) -> Floats:
        each = np.array(text[name], dtype=float).reshape(-1, len(text["kinds"]))
        if not (each >= 0).all() and name != "fill":
            raise _unproved(f"a {name} is negative")
        return np.concatenate([np.zeros((len(each), 1)), np.cumsum(each[:, at], axis=1)], axis=1)

    found: Table = {name: np.array(text[name], dtype=float) for name in ("group", "cards", "hop")}
    found |= {name: summed(name) for name in ("time", "fill", "step", "held", "kept")}
    return found | {"size": text["micro_batch"], "room": np.array(text["room"], dtype=float).reshape(-1, 2)}


def _unproved(why: str) -> UnprovedPlan:
    return UnprovedPlan("the certificate proves nothing", why=why, fix="danlu plan MODEL FLEET --certificate CERT.json")
