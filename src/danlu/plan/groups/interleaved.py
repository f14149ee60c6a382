"""Interleaved 1F1B: every stage holds several chunks of layers, so that a pipeline fills in shorter steps.

With v chunks a stage of p, the bubble of m micro-batches falls from (p - 1) / m to (p - 1) / (v m), every micro-batch
is sent v times as often, and the first stage keeps p + (p - 1) / v micro-batches instead of p (Narayanan et al., arXiv
2104.04473, section 2.2; Korthikanti et al., arXiv 2205.05198, section 4.2.3). The order is Megatron-LM's: groups of p
micro-batches go through all chunks, forwards ahead by what the way there and back takes. It is played event by event
here, chunk by chunk with its own layers; a message holds its sender up, as the search's forecast has it.

The search (chunks.py) goes by a formula; `played` puts what is simulated here in its place where that is longer.
`best` chooses chunks for a plan that was searched without, where a framework has no zero-bubble order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from danlu.plan.groups.grouped import GroupedPlan, Replicas
from danlu.plan.groups.stage_ways import stage_ways
from danlu.plan.groups.timeline import Bar, Parts, chunk_of

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


def of(plan: GroupedPlan, each: Replicas, layers: Sequence[int]) -> Interleaved:
    """What stands for a plan's pipelines in a framework without zero bubbles: the plan's chunks, or else the best."""
    if plan.schedule != "1f1b" and each.chunks == 1:
        return best(plan, each, layers)
    return Interleaved(each.chunks, tuple(dealt(layers, each.chunks)), each.seconds, each.seconds)


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


def played(plan: GroupedPlan) -> GroupedPlan:
    """The plan with the seconds of its step: of pipelines in chunks no less than what the simulation says."""
    replicas = tuple(
        each if each.chunks == 1
        else replace(each, seconds=max(each.seconds, seconds(_parts(plan, each), each.micro_batches)))
        for each in plan.replicas
    )  # fmt: skip
    return replace(plan, replicas=replicas, seconds=max(each.seconds for each in replicas))


def bars(plan: GroupedPlan, each: Replicas) -> list[list[Bar]]:
    """Per stage, in time: every chunk of every micro-batch there and back, messages, and what is done once."""
    parts = _parts(plan, each)
    found: list[list[Bar]] = [[] for _ in parts]

    def note(stage: int, what: str, begin: float, stop: float, message: float) -> None:
        found[stage].append(Bar("forward" if what == "F" else "backward", begin, stop - message))
        if message:
            found[stage].append(Bar("message", stop - message, stop))

    seconds(parts, each.micro_batches, note)
    for mine, part in zip(found, parts, strict=True):
        end = mine[-1].stop
        mine.append(Bar("once", end, end + part[0].once))
    return found


def layers_of(plan: GroupedPlan, each: Replicas) -> list[int]:
    """Whole layers of each stage."""
    per = len(plan.model.recipe)
    return [sum(unit.startswith("layers.") for unit in plan.model.units[s.start : s.stop]) // per for s in each.stages]


def _parts(plan: GroupedPlan, each: Replicas) -> list[list[Parts]]:
    """Costs of every chunk of pipelines in chunks; those of a stage sum to the seconds that the search has for it."""
    found = _costs(plan, each, dealt(layers_of(plan, each), each.chunks), each.chunks)
    for at, (mine, stage) in enumerate(zip(found, each.stages, strict=True)):
        sent = (each.chunks - (at == len(found) - 1)) * mine[0].ahead + (each.chunks - (at == 0)) * mine[0].back
        busy = max(0.0, stage.time_s - sent)
        longer = busy / sum(part.forward + part.backward for part in mine)
        found[at] = [replace(part, forward=part.forward * longer, backward=part.backward * longer) for part in mine]
    return found


def seconds(
    costs: Costs, micro_batches: int, note: Callable[[int, str, float, float, float], None] | None = None
) -> float:  # fmt: skip
    """Seconds until every stage has done all, and what it does once a step. Cost: stages * chunks * micro-batches.

    note   is told of every item its stage, "F" or "B", begin, end with its message, and the message's seconds
    """
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
                message = (mine.ahead if what == "F" else mine.back) * (sends and stages > 1)
                stop = begin + (mine.forward if what == "F" else mine.backward) + message
                clock[stage] = done[what, chunk, stage, number] = stop
                if note is not None:
                    note(stage, what, begin, stop, message)
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
    known: dict[object, Parts] = {}

    def part(at: int, chunk: int) -> Parts:
        stage, last = each.stages[at], chunk == chunks - 1 and at == stages - 1
        key = stage.group, stage.way, stage.step_s, stage.ahead_s, stage.back_s, layers[chunk * stages + at], last
        if key not in known:
            known[key] = chunk_of(plan, stage, layers[chunk * stages + at], last=last, once=stage.step_s)
        return known[key]

    return [[part(at, chunk) for chunk in range(chunks)] for at in range(stages)]


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
