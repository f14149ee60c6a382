"""Checks a certificate, sharing no code with the search: its plan anew, and fair bounds for any number of pipelines."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.errors import UnprovedPlan

CLOSE = 1e-9
Floats = npt.NDArray[Any]
Table = dict[str, Any]  # what a stage costs by way, sums over the first units; docs/formats.md, "certificate"


def checked(text: dict[str, Any]) -> float:
    """By how much at most the plan is slower than any other of its classes; UnprovedPlan says what does not hold."""
    try:
        return _checked(json.loads(json.dumps(text, allow_nan=False)))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        raise _unproved(f"it cannot be read: {error!r}") from error


def _checked(text: dict[str, Any]) -> float:
    if text["certificate"] != 4 or not 0 < text["model"]["layers"] < 1 << 16:
        raise _unproved(f"version {text['certificate']} is not 4, or its model has {text['model']['layers']} layers")
    units = ["embed", *text["model"]["recipe"] * text["model"]["layers"], "head"]
    cards, reached = np.array(text["cards"], dtype=float), 0.0
    seconds = _plan(text, units, cards)
    for each in text["bounds"]:
        if each["fewest"] != reached + 1:
            raise _unproved(f"no bound for {reached + 1} to {each['fewest'] - 1} pipelines")
        reached = each["most"]
        _bound(each, units, cards, text["batch"], min(text["stages"], len(units)))
    if reached < min(cards.sum(), text["batch"]):  # each has a card and a sequence of its own
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
        if [0, *(stop for _, _, stop in stages)] != sorted({*(start for _, start, _ in stages), len(units)}):
            raise _unproved(f"the stages of pipeline {number} do not cover the model's {len(units)} units")
        if any(type(each[name]) is not int or each[name] < 1 for name in ("copies", "micro_batch", "micro_batches")):
            raise _unproved(f"pipeline {number} has no whole number of copies, micro-batches or sequences")
        fill, longest, to = 0.0, 0.0, [int(table["group"][way]) for way, _, _ in stages[::-1]]
        for behind, (way, start, stop) in zip(range(len(stages))[::-1], stages, strict=True):
            time, ahead, after, held, kept = (float(table[name][way, stop] - table[name][way, start])
                                              for name in ("time", "fill", "after", "held", "kept"))  # fmt: skip
            if held + (behind + 1) * kept > table["room"][way, int(behind == 0)] * (1 + CLOSE):
                raise _unproved(f"units {start} to {stop} in pipeline {number} need {held + (behind + 1) * kept:g} B")
            hops = float(table["hops"][way, to[max(0, behind - 1) : behind] + to[behind + 1 : behind + 2]].sum())
            fill += hops + ahead
            longest = max(longest, (each["micro_batches"] - 1) * (time + hops) + after)
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
    spent = prices @ cards + max(place * each["fewest"], place * each["most"])
    if min(prices) < 0 or not spent < batch:
        raise _unproved(f"all cards come to {spent} sequences, which is not below {batch}")
    for text, ends in zip(each["tables"], each["intervals"], strict=True):
        table, ends = _table(text, units), [math.inf if end is None else end for end in ends]
        price = prices[table["group"].astype(int)] * table["cards"]
        if ends[-1] != math.inf or sorted(ends) != ends:
            raise _unproved("the intervals leave bottlenecks out")
        reach = [_last(table["held"] + n * table["kept"], table["room"][:, [int(n < 2)]]) for n in range(1, stages + 1)]
        alone = table["size"] * np.floor((seconds * (1 + CLOSE) - table["step"][:, -1]) / table["time"][:, -1])
        able = (reach[0][:, 0] == len(units)) & (alone > 0)  # one stage: in whole micro-batches
        if (alone - place > price * (1 + CLOSE) + CLOSE)[able].any():
            raise _unproved(f"a pipeline of one stage does {max(alone[able])}, which costs less")
        for low, high in zip([0.0, *ends], ends, strict=False):
            most = min(len(reach), 1 + int(seconds / low * (1 + CLOSE))) if low else len(reach)  # a micro-batch each
            done = table["size"] * (1.0 + (seconds / low if low else math.inf)) - place
            if low < seconds and _least(table, price, reach[:most], low, high, seconds) < done * (1 - CLOSE):
                raise _unproved(f"a pipeline of bottleneck {low} to {high} s may do {done}, which costs less")


def _least(table: Table, price: Floats, reach: list[Floats], low: float, high: float, seconds: float) -> float:
    """The least cost of a cover of two stages or more that take at most `high`; infinity where there is none."""
    weight, places = table["size"] / low if low else 0.0, np.arange(table["time"].shape[1])
    load, least = table["time"] + table["after"] * (low / seconds), math.inf
    hops = [table["hop"][:, None] * ((places > 0).astype(float) + behind) for behind in (0, 1)]
    within = [_last(load, high * (1 + CLOSE) - each) for each in hops]
    covered = np.where(places == places[-1], 0.0, math.inf)
    for behind, end in enumerate(reach):
        end = np.minimum(end, within[behind > 0])
        end[:, 0] -= (end[:, 0] == places[-1]) & (behind == 0)
        rest = _least_between(weight * table["fill"] + covered, places + 1, end)
        covered = (price[:, None] + weight * (hops[behind > 0] - table["fill"]) + rest).min(axis=0, initial=math.inf)
        least = min(least, float(covered[0]))
        if covered.min() >= least:
            break
    return least


def _last(sums: Floats, room: Floats) -> Floats:
    """(ways, starts): the last stop before which a stage's sum, which never falls, is within its room."""
    limits = zip(sums, sums + room + CLOSE * abs(room), strict=True)
    return np.array([np.searchsorted(*each, side="right") - 1 for each in limits], dtype=int).reshape(sums.shape)


def _least_between(values: Floats, first: Floats, last: Floats) -> Floats:
    """(ways, starts): the least of values[way, first[start]] to values[way, last[way, start]]; infinity of none."""
    ways, wide = values.shape
    least = np.full((wide.bit_length(), ways, wide), math.inf)  # each level the least of twice as many from one on
    least[0] = values
    for level, half in enumerate(2 ** np.arange(len(least) - 1), 1):
        np.minimum(least[level - 1, :, :-half], least[level - 1, :, half:], out=least[level, :, :-half])
    level = np.frexp(np.maximum(last - first + 1, 1))[1] - 1  # the largest within
    row = (level * ways + np.arange(ways)[:, None]) * wide
    found = np.minimum(*(least.take(row + at) for at in (np.minimum(first, wide - 1), last + 1 - 2**level)))
    return np.where(last >= first, found, math.inf)


def _table(text: dict[str, Any], units: list[str]) -> Table:
    found: Table = {"size": text["micro_batch"], "room": np.array(text["room"], dtype=float).reshape(-1, 2)}
    at, ways = [text["kinds"].index(unit) for unit in units], len(text["group"])
    text = text | {"after": np.array(text["step"]) + np.array(text["time"]) - np.array(text["fill"])}
    for name in ("group", "cards", "hops", "time", "fill", "step", "after", "held", "kept"):
        each = np.array(text[name], dtype=float)
        if not (each >= (name == "cards")).all() or (name == "group" and np.array(text[name]).dtype.kind != "i"):
            raise _unproved(f"a figure of {name} is {each.min()}")
        found[name] = each if name in ("group", "cards", "hops") else np.pad(
            np.cumsum(each.reshape(ways, len(text["kinds"]))[:, at], axis=1), ((0, 0), (1, 0)))  # fmt: skip
    return found | {"hop": found["hops"].reshape(ways, -1).min(axis=1, initial=math.inf)}


def _unproved(why: str) -> UnprovedPlan:
    return UnprovedPlan("the certificate proves nothing", why=why, fix="danlu plan MODEL FLEET --certificate CERT.json")
