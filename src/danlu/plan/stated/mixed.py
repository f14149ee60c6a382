"""Seconds of a step on mixed cards, from a source's layer profiles and links: unequal stages, event by event.

Each stage lists its cards; the i-th replica of every stage together form the i-th pipeline, and all pipelines take the
same number of micro-batches. A step ends when the slowest pipeline has ended and every stage's gradients are reduced.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import BadRows
from danlu.plan.schedule import in_flight, order
from danlu.plan.stated.setup import Setup

PROFILE = ("card", "tp", "micro_batch", "item", "forward_s", "backward_s", "params")
LINK = ("a", "b", "latency_s", "bandwidth")


@dataclass(frozen=True, slots=True)
class Cell:
    """A profiled item (embedding, layer or head) on one kind of card: seconds of a micro-batch, its parameters."""

    forward_s: float
    backward_s: float
    params: float


@dataclass(frozen=True, slots=True)
class Replica:
    """One data-parallel copy of a stage: `tp` cards of one kind."""

    card: str
    tp: int


@dataclass(frozen=True, slots=True)
class MixedStage:
    """Items of a stage (the embedding is the first of all, the head the last) and its replicas."""

    items: int
    replicas: tuple[Replica, ...]


Profiles = Mapping[tuple[str, int, int, str], Cell]
Links = Mapping[tuple[str, str], tuple[float, float]]


def stages(text: str) -> tuple[MixedStage, ...]:
    """The `mixed` column: [{"layers": items, "cards": [{"card": name, "tp": t, "dp": copies}, ...]}, ...].

    Raises ValueError where stages have unlike numbers of replicas, KeyError and TypeError for another shape.
    """

    def replicas(each: Mapping[str, Any]) -> tuple[Replica, ...]:
        copies = ((Replica(str(one["card"]), int(one.get("tp", 1))), int(one.get("dp", 1))) for one in each["cards"])
        return tuple(replica for replica, count in copies for _ in range(count))

    found = tuple(MixedStage(int(each["layers"]), replicas(each)) for each in json.loads(text))
    counts = {len(each.replicas) for each in found}
    if len(counts) != 1 or 0 in counts or min(each.items for each in found) < 1:
        raise ValueError(f"stages have {sorted(counts)} replicas and {[each.items for each in found]} items")
    return found


def seconds(run: Setup, cut: Sequence[MixedStage], profiles: Profiles, links: Links) -> float:
    """Seconds of a step. Raises BadRows for a card, size or pair of cards that was not profiled."""
    pipelines = len(cut[0].replicas)
    many, left = divmod(run.global_batch, pipelines * run.micro_batch)
    if left or not many:
        raise BadRows("the batch is no multiple of its micro-batches", where="mixed",
                      why=f"{run.global_batch} sequences, {pipelines} pipelines, micro-batches of {run.micro_batch}",
                      fix="state global_batch and micro_batch as they were run")  # fmt: skip
    costs = [[_cost(run, cut, stage, at, profiles) for stage in range(len(cut))] for at in range(pipelines)]
    slowest = max(
        pipeline([(cell.forward_s, cell.backward_s) for cell in each], _messages(run, cut, at, links), many)
        for at, each in enumerate(costs)
    )
    return slowest + max(_reduced(cut[i], max(each[i].params for each in costs), links) for i in range(len(cut)))


def pipeline(costs: Sequence[tuple[float, float]], sent: Sequence[float], micro_batches: int) -> float:
    """Seconds of one 1F1B pass of unequal stages.

    costs   (forward, backward) seconds of each stage;  sent   seconds of a message to the next stage, and back
    Messages do not hold up what sends them; a link carries one after the other in each direction.
    """
    count = len(costs)
    todo = [order(flight, micro_batches) for flight in in_flight(count, micro_batches, 1)]
    clock, at, done = [0.0] * count, [0] * count, [[0, 0] for _ in costs]
    arrived: dict[tuple[str, int, int], float] = {}
    free: dict[tuple[int, int], float] = {}
    while any(at[i] < len(todo[i]) for i in range(count)):
        for i in range(count):
            while at[i] < len(todo[i]):
                what = todo[i][at[i]]
                back, source = what == "B", i + 1 if what == "B" else i - 1
                mb = done[i][back]
                if 0 <= source < count and (what, mb, i) not in arrived:
                    break
                start = max(clock[i], arrived.get((what, mb, i), 0.0))
                clock[i] = start + costs[i][back]
                done[i][back], at[i] = mb + 1, at[i] + 1
                target = i - 1 if back else i + 1
                if 0 <= target < count:
                    free[i, target] = max(free.get((i, target), 0.0), clock[i]) + sent[min(i, target)]
                    arrived[what, mb, target] = free[i, target]
    return max(clock)


def _cost(run: Setup, cut: Sequence[MixedStage], stage: int, at: int, profiles: Profiles) -> Cell:
    replica, count = cut[stage].replicas[at], cut[stage].items
    kinds = ["layer"] * count
    if stage == 0:
        kinds[0] = "embedding"
    if stage == len(cut) - 1:
        kinds[-1] = "head"
    cells = [_cell((replica.card, replica.tp, run.micro_batch, kind), profiles) for kind in kinds]
    return Cell(sum(c.forward_s for c in cells), sum(c.backward_s for c in cells), sum(c.params for c in cells))


def _cell(key: tuple[str, int, int, str], profiles: Profiles) -> Cell:
    if key not in profiles:
        raise BadRows("a mixed run asks for what was not profiled", where=" ".join(map(str, key)),
                      why=f"profiled are {len(profiles)} cells of {', '.join(sorted({each[0] for each in profiles}))}",
                      fix="add the line card, tp, micro_batch, item to the profiles")  # fmt: skip
    return profiles[key]


def _link(a: str, b: str, links: Links) -> tuple[float, float]:
    found = links.get((a, b)) or links.get((b, a))
    if found is None:
        raise BadRows("a mixed run asks for a link that is not there", where=f"{a} to {b}",
                      why=f"there are {', '.join('-'.join(each) for each in links)}",
                      fix="add the line a, b, latency_s, bandwidth to the links")  # fmt: skip
    return found


def _messages(run: Setup, cut: Sequence[MixedStage], at: int, links: Links) -> list[float]:
    """Seconds of an activation from each stage to the next; tensor-parallel cards send a part each."""
    size, found = float(run.seq * run.micro_batch * run.hidden * run.bytes_each), []
    for left, right in zip(cut, cut[1:], strict=False):
        one, two = left.replicas[at], right.replicas[at]
        latency, bandwidth = _link(one.card, two.card, links)
        found.append(latency + size / min(one.tp, two.tp) / bandwidth)
    return found


def _reduced(stage: MixedStage, params: float, links: Links) -> float:
    """Seconds of a ring all-reduce of a stage's fp32 gradients over its replicas: it runs at its slowest link."""
    n, cards = len(stage.replicas), sorted({each.card for each in stage.replicas})
    if n == 1:
        return 0.0
    pairs = [_link(a, b, links) for a in cards for b in cards if a < b] or [_link(cards[0], cards[0], links)]
    return max(2 * (n - 1) * (latency + 4 * params / n / bandwidth) for latency, bandwidth in pairs)


def read_profiles(path: Path) -> Profiles:
    """Layer profiles (docs/formats.md). Raises BadRows with the line."""
    return {(line["card"], int(line["tp"]), int(line["micro_batch"]), line["item"]):
            Cell(*(_positive(line[name]) for name in PROFILE[4:])) for line in _table(path, PROFILE)}  # fmt: skip


def read_links(path: Path) -> Links:
    """A link matrix by kinds of cards (docs/formats.md). Raises BadRows with the line."""
    return {(line["a"], line["b"]): (float(line["latency_s"]), float(line["bandwidth"])) for line in _table(path, LINK)}


def _positive(text: str) -> float:
    if not 0 <= float(text) < float("inf"):
        raise ValueError(f"{text} is no amount")
    return float(text)


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRows(f"cannot read {path}", why=str(error), fix=f"ls -l {path}") from error
    missing = [name for name in columns if not found or name not in found[0]]
    for number, line in enumerate(found if not missing else [], 2):
        try:
            if min(_positive(line[name]) for name in columns if name.endswith(("_s", "params", "tp", "batch"))) < 0:
                missing.append(f"line {number}")
            if "bandwidth" in columns and not float(line["bandwidth"]) > 0:
                missing.append(f"a bandwidth above 0 in line {number}")
        except (ValueError, TypeError):
            missing.append(f"a number in line {number}")
    if missing:
        raise BadRows(f"{path} is no such table", where=str(path), why=f"missing: {', '.join(missing[:5])}",
                      fix=f"columns {', '.join(columns)}; docs/formats.md says what they hold")  # fmt: skip
    return found
