"""Interleaved 1F1B: every stage holds several chunks of layers, so that a pipeline fills in shorter steps.

With v chunks a stage of p, the bubble of m micro-batches falls from (p - 1) / m to (p - 1) / (v m), every micro-batch
is sent v times as often, and the first stage keeps p + (p - 1) / v micro-batches instead of p (Narayanan et al., arXiv
2104.04473, section 2.2; Korthikanti et al., arXiv 2205.05198, section 4.2.3). The order is Megatron-LM's: groups of p
micro-batches go through all chunks, forwards ahead by what the way there and back takes. It is played event by event
here, chunk by chunk with its own layers; a message holds its sender up, as the search's forecast has it.

The search does not look at it: it is chosen for a plan that it found, where a framework has no zero-bubble order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.plan.groups.grouped import GroupedPlan, Replicas
from danlu.plan.groups.stage_ways import stage_ways
from danlu.plan.groups.timeline import Parts, chunk_of, parts_of

CHUNKS = (1, 2, 3, 4, 6, 8)  # of a stage
Item = tuple[str, int, int]  # "F" or "B", chunk, micro-batch
Costs = Sequence[Sequence[Parts]]  # by stage, by chunk


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A pipeline in chunks.

    chunks   of each stage; layers of each chunk in the model's order: chunk c of stage i is number c * stages + i
    seconds  of a step, and what plain 1F1B takes by the same simulation
    """

    chunks: int
    layers: tuple[int, ...]
    seconds: float
    plain: float


def best(plan: GroupedPlan, each: Replicas, layers: Sequence[int]) -> Interleaved:
    """The number of chunks with the shortest simulated step that fits the stages' cards.

    layers  whole ones of each stage
    More than one chunk only where every stage has as many layers and the stages divide the micro-batches.
    """
    found: list[Interleaved] = []
    for chunks in CHUNKS:
        parts = dealt(layers, chunks)
        if chunks > 1 and (not parts or not _fits(plan, each, chunks)):
            continue
        took = seconds(_costs(plan, each, parts or list(layers), chunks), each.micro_batches)
        found.append(Interleaved(chunks, tuple(parts or layers), took, found[0].seconds if found else took))
    return min(found, key=lambda one: one.seconds)


def dealt(layers: Sequence[int], chunks: int) -> list[int]:
    """Layers of every chunk in the model's order, as even as each stage's allow; none where a chunk would be empty."""
    if min(layers) < chunks:
        return []
    return [count // chunks + (chunk < count % chunks) for chunk in range(chunks) for count in layers]


def order(stages: int, chunks: int, micro_batches: int, stage: int) -> list[Item]:
    """What a stage computes in turn. With one chunk that is 1F1B; with more, `stages` must divide the micro-batches."""
    total = micro_batches * chunks
    place = stages - 1 - stage
    ahead = min(total, place if chunks == 1 else 2 * place + (chunks - 1) * stages)
    there = [_item("F", number, stages, chunks) for number in range(total)]
    back = [_item("B", number, stages, chunks) for number in range(total)]
    found = there[:ahead]
    for number in range(total - ahead):
        found += [there[ahead + number], back[number]]
    return found + back[total - ahead :]


def _item(what: str, number: int, stages: int, chunks: int) -> Item:
    if chunks == 1:
        return what, 0, number
    group, inside = divmod(number, stages * chunks)
    chunk = inside // stages
    return what, chunk if what == "F" else chunks - 1 - chunk, group * stages + inside % stages


def in_flight(stages: int, chunks: int, micro_batches: int, stage: int) -> float:
    """Most micro-batches that a stage keeps at once, in units of the whole stage."""
    now = most = 0
    for what, _, _ in order(stages, chunks, micro_batches, stage):
        now += 1 if what == "F" else -1
        most = max(most, now)
    return most / chunks


def seconds(costs: Costs, micro_batches: int) -> float:
    """Seconds until every stage has done all, and what it does once a step. Cost: stages * chunks * micro-batches."""
    stages, chunks = len(costs), len(costs[0])
    todo = [order(stages, chunks, micro_batches, stage) for stage in range(stages)]
    done: dict[tuple[str, int, int, int], float] = {}
    clock, at = [0.0] * stages, [0] * stages
    moved = True
    while moved:
        moved = False
        for stage in range(stages):
            while at[stage] < len(todo[stage]):
                what, chunk, number = todo[stage][at[stage]]
                needs = _needs(what, chunk, stage, stages, chunks)
                if needs is not None and (*needs, number) not in done:
                    break
                mine = costs[stage][chunk]
                begin = max(clock[stage], done[*needs, number] if needs else 0.0)
                sends = (chunk, stage) != ((chunks - 1, stages - 1) if what == "F" else (0, 0))
                took = (mine.forward if what == "F" else mine.backward) + mine.message * (sends and stages > 1)
                clock[stage] = done[what, chunk, stage, number] = begin + took
                at[stage] += 1
                moved = True
    assert all(each == len(work) for each, work in zip(at, todo, strict=True)), "the stages wait for each other"
    return max(now + each[0].once for now, each in zip(clock, costs, strict=True))


def _needs(what: str, chunk: int, stage: int, stages: int, chunks: int) -> tuple[str, int, int] | None:
    """(what, chunk, stage) that must be done before: the chunk in front, or on the way back the one behind."""
    if what == "F":
        if stage:
            return "F", chunk, stage - 1
        return ("F", chunk - 1, stages - 1) if chunk else None
    if stage < stages - 1:
        return "B", chunk, stage + 1
    return ("B", chunk + 1, 0) if chunk < chunks - 1 else ("F", chunk, stage)


def _costs(plan: GroupedPlan, each: Replicas, layers: Sequence[int], chunks: int) -> list[list[Parts]]:
    stages = len(each.stages)
    return [
        [chunk_of(plan, stage, layers[chunk * stages + at], last=chunk == chunks - 1 and at == stages - 1,
                  once=parts_of(plan, each, stage).once, alone=stages == 1) for chunk in range(chunks)]
        for at, stage in enumerate(each.stages)
    ]  # fmt: skip


def _fits(plan: GroupedPlan, each: Replicas, chunks: int) -> bool:
    """Whether stages are alike, divide the micro-batches and hold what is kept on the way."""
    stages = len(each.stages)
    if stages == 1 or each.micro_batches % stages or len({(stage.group, stage.way) for stage in each.stages}) > 1:
        return False
    level = max(stage.way.zero for stage in each.stages)
    ways = stage_ways(plan.model, plan.fleet, micro_batch=each.micro_batch, seq=plan.seq, replicas=plan.pipelines,
                      schedule=plan.schedule, zero=level, every=True)  # fmt: skip
    for at, stage in enumerate(each.stages):
        (row,) = [i for i, way in enumerate(ways.ways) if (int(ways.group[i]), way) == (stage.group, stage.way)]
        kept = float(ways.kept[row, stage.stop] - ways.kept[row, stage.start])
        more = in_flight(stages, chunks, each.micro_batches, at) - (stages - at)
        if stage.bytes + more * kept > ways.room[row, int(at == stages - 1)]:
            return False
    return True
