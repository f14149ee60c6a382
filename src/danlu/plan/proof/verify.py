"""Checks a certificate, sharing no code with the search: its plan anew, and fair bounds for any number of pipelines."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from danlu.errors import UnprovedPlan

CLOSE, FIX, SUMS = 1e-9, "danlu plan MODEL FLEET --certificate CERT.json", ("time", "fill", "step", "held", "kept")
Floats = np.ndarray[Any, Any]
Table = dict[str, Any]  # what a stage costs by way, sums over the first units; docs/formats.md, "certificate"


def checked(text: dict[str, Any]) -> float:
    """By how much at most the plan is slower than any other of its classes; UnprovedPlan says what does not hold."""
    try:
        return _checked(json.loads(json.dumps(text, allow_nan=False)))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        raise UnprovedPlan("the certificate proves nothing", why=f"not readable: {error!r}", fix=FIX) from error


def _checked(text: dict[str, Any]) -> float:
    _demand(text["certificate"] == 4 and 0 < text["model"]["layers"] < 1 << 16, "not version 4, or its layers are none")
    units = ["embed", *text["model"]["recipe"] * text["model"]["layers"], "head"]
    cards, reached = np.array(text["cards"], dtype=float), 0.0
    seconds, many = _plan(text, units, cards), sum(each["copies"] for each in text["plan"]["replicas"])
    mine = {each["micro_batch"]: _table(each, units)["figures"] for each in text["plan"]["tables"]}
    for each in text["bounds"]:
        _demand(each["fewest"] == reached + 1, f"no bound for {reached + 1} to {each['fewest'] - 1} pipelines")
        reached = each["most"]
        beside = mine if each["fewest"] <= many <= each["most"] else {}
        _bound(each, beside, units, cards, text["batch"], min(text["stages"], len(units)))
    whole = reached >= min(cards.sum(), text["batch"])  # each has a card and a sequence of its own
    _demand(whole, f"no bound for more than {reached} pipelines")
    least = min(seconds, *(each["seconds"] for each in text["bounds"]))
    _demand(abs(least - text["bound_s"]) <= CLOSE * least, f"the bounds come to {least} s, not to {text['bound_s']} s")
    return float(seconds / least - 1.0)


def _plan(text: dict[str, Any], units: list[str], cards: Floats) -> float:
    """Seconds of the plan's step, from its stages."""
    tables = {each["micro_batch"]: _table(each, units) for each in text["plan"]["tables"]}
    used, done, seconds = np.zeros(len(cards)), 0, 0.0
    for number, each in enumerate(text["plan"]["replicas"]):
        table, stages = tables[each["micro_batch"]], each["stages"]
        covers = [0, *(stop for _, _, stop in stages)] == sorted({*(start for _, start, _ in stages), len(units)})
        _demand(covers, f"the stages of pipeline {number} do not cover the model's {len(units)} units")
        whole = all(type(each[name]) is int and each[name] >= 1 for name in ("copies", "micro_batch", "micro_batches"))
        _demand(whole, f"pipeline {number} has no whole number of copies, micro-batches or sequences")
        fill, longest, to = 0.0, 0.0, [int(table["group"][way]) for way, _, _ in stages[::-1]]
        for behind, (way, start, stop) in zip(range(len(stages))[::-1], stages, strict=True):
            time, ahead, _, held, kept, after = (float(table[name][way, stop] - table[name][way, start])
                                                 for name in (*SUMS, "after"))  # fmt: skip
            need = held + (behind + 1) * kept
            _demand(need <= table["room"][way, int(behind == 0)] * (1 + CLOSE), f"{start} to {stop} need {need:g} B")
            hops = float(table["hops"][way, to[max(0, behind - 1) : behind] + to[behind + 1 : behind + 2]].sum())
            fill += hops + ahead
            longest = max(longest, (each["micro_batches"] - 1) * (time + hops) + after)
            used[int(table["group"][way])] += each["copies"] * table["cards"][way]
        done += each["copies"] * each["micro_batch"] * each["micro_batches"]
        seconds = max(seconds, longest + fill)
    _demand((used <= cards).all() and done >= text["batch"], f"the plan uses {used} of {cards} cards and does {done}")
    _demand(abs(seconds - text["plan"]["seconds"]) <= 1e-6 * seconds, f"the plan's step is {seconds} s, it says other")
    return seconds


def _bound(each: Table, mine: Table, units: list[str], cards: Floats, batch: int, stages: int) -> None:
    """No plan with so many pipelines has a step of each["seconds"]; `mine`: the ways of one that has as many."""
    _demand({*mine} <= {text["micro_batch"] for text in each["tables"]}, "no bound of the plan's micro-batches")
    prices, place, seconds = np.array(each["prices"]), each["place"], each["seconds"]
    spent = prices @ cards + max(place * each["fewest"], place * each["most"])
    _demand(min(prices) >= 0 and spent < batch, f"all cards come to {spent} sequences, which is not below {batch}")
    for text, ends in zip(each["tables"], each["intervals"], strict=True):
        table, ends = _table(text, units), [math.inf if end is None else end for end in ends]
        for way, figures in enumerate(mine.get(table["size"], ())):
            cheap = (table["figures"] <= figures + CLOSE * abs(figures)).all(axis=1).any()
            _demand(cheap, f"a bound has no way as cheap as the plan's way {way}")
        price = prices[table["group"].astype(int)] * table["cards"]
        _demand(ends[-1] == math.inf and sorted(ends) == ends, "the intervals leave bottlenecks out")
        reach = [_last(table["held"] + n * table["kept"], table["room"][:, [int(n < 2)]]) for n in range(1, stages + 1)]
        alone = table["size"] * np.floor((seconds * (1 + CLOSE) - table["step"][:, -1]) / table["time"][:, -1])
        able = (reach[0][:, 0] == len(units)) & (alone > 0)  # one stage: in whole micro-batches
        _demand((alone - place <= price * (1 + CLOSE) + CLOSE)[able].all(), "one stage does more than it costs")
        for low, high in zip([0.0, *ends], ends, strict=False):
            most = min(len(reach), 1 + int(seconds / low * (1 + CLOSE))) if low else len(reach)  # a micro-batch each
            done = table["size"] * (1.0 + (seconds / low if low else math.inf)) - place
            dear = low >= seconds or _least(table, price, reach[:most], low, high, seconds) >= done * (1 - CLOSE)
            _demand(dear, f"a pipeline of bottleneck {low} to {high} s may do {done}, which costs less")


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
    for name in ("group", "cards", "hops", *SUMS, "after"):
        each = np.array(text[name], dtype=float)
        good = (each >= (name == "cards")).all() and (name != "group" or np.array(text[name]).dtype.kind == "i")
        _demand(good, f"a figure of {name} is {each.min()}")
        found[name] = each if name in ("group", "cards", "hops") else np.pad(
            np.cumsum(each.reshape(ways, len(text["kinds"]))[:, at], axis=1), ((0, 0), (1, 0)))  # fmt: skip
    hop, group = found["hops"].reshape(ways, -1).min(axis=1, initial=math.inf), found["group"]
    figures = [*(np.diff(found[name]) for name in SUMS), hop, group, -group, found["cards"], -found["room"]]
    return found | {"hop": hop, "figures": np.column_stack(figures)}


def _demand(holds: Any, why: str) -> None:
    if not holds:
        raise UnprovedPlan("the certificate proves nothing", why=why, fix=FIX)
