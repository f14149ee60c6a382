"""Every placement of up to four ranks that bench/training/together.py measures, and the plan of each.

Copies of the model, parts of a copy's sequences, stages of a part, cards of a stage: as uneven as they can be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from danlu.nouns import Card, Fleet, ModelSpec, Plan, Replica, Stage

DENSE = ModelSpec("llama", 2, 24, 12, 6, 4, 40, 53, 64, qkv_bias=True, qk_norm=True)
MOE = replace(DENSE, family="qwen2_moe", experts=7, experts_used=2, ffn=20, shared_ffn=28, recipe=("attn", "moe"))
GROUPS = {1: (), 2: (2, 4), 3: (1, 2, 3), 4: (1, 1, 1, 3)}  # key-value groups of each card of a stage
EXPERTS = {1: (), 2: (2, 5), 3: (1, 2, 4), 4: (1, 1, 2, 3)}
ENDS = {1: (6,), 2: (2, 6), 3: (2, 3, 6), 4: (2, 3, 4, 6)}  # last unit of each stage
BATCHES = {1: (3,), 2: (1, 2), 3: (1, 2, 3), 4: (1, 1, 2, 3)}  # micro-batches of each copy
CONTEXTS = {1: (0,), 2: (2, 3), 3: (1, 3, 1), 4: (1, 1, 2, 1)}  # tokens of each part of a copy's sequences

Row = tuple[int, ...]  # per stage: cards
Widths = tuple[tuple[Row, ...], ...]  # per copy, per part of its sequences


def cases(ranks: int) -> Iterator[tuple[str, Plan]]:
    """Every placement of two to `ranks` ranks, for each model."""
    for widths in placements(ranks):
        said = " ; ".join(" & ".join("+".join(map(str, row)) for row in copy) for copy in widths)
        yield f"dense {said}", plan_of(DENSE, widths)
        yield f"moe {said}", plan_of(MOE, widths)
        if any(max(row) > 1 for copy in widths for row in copy):
            yield f"moe, whole experts {said}", plan_of(MOE, widths, whole_experts=True)
        if (plan := spread(plan_of(MOE, widths))) is not None:
            yield f"moe, experts spread {said}", plan


def spread(plan: Plan) -> Plan | None:
    """The plan with each layer's experts spread over its first pipelines: all that may go in step; None if just one.

    Those take equal micro-batches; a pipeline behind them takes the rest of the batch, so that it stays the one of the
    other cases. Of another batch (of 10 sequences) fp32 says nothing: by step 8 rounding sends a token to another
    expert, one process is 4e-3 from its own fp64, and one pipeline without any spreading 8e-3 from one process.
    """
    first, *rest = plan.pipelines
    alike = [each for each in rest if [stage.stop for stage in each.stages] == [stage.stop for stage in first.stages]]
    count = 1 + len(list(itertools.takewhile(lambda each: each in alike, rest)))
    while count > 1 and sum(each.context or plan.seq for each in (first, *rest)[:count]) % plan.seq:
        count -= 1  # all parts of a copy, or none
    if count == 1 and not first.context:
        return None
    dealt = [*EXPERTS[count], *(0 for _ in rest[count - 1 :])]
    moved = [replace(each, experts=many, micro_batches=first.micro_batches if at < count else each.micro_batches)
             for at, (each, many) in enumerate(zip((first, *rest), dealt, strict=True))]  # fmt: skip
    if count < len(moved):
        left = plan.sequences // plan.micro_batch - sum(each.micro_batches for each in moved[:-1])
        moved[-1] = replace(moved[-1], micro_batches=left)
    return replace(plan, experts=moved[0].experts, replicas=tuple(moved[1:]))


def placements(ranks: int) -> Iterator[Widths]:
    """Every multiset of copies of two to `ranks` ranks in all; a copy is a multiset of rows of equally many stages."""
    rows = [row for size in range(1, ranks + 1) for row in _rows(size)]
    copies = [
        parts for count in range(1, ranks + 1) for parts in itertools.combinations_with_replacement(rows, count)
        if len({len(row) for row in parts}) == 1 and _ranks((parts,)) <= ranks
    ]  # fmt: skip
    for count in range(1, ranks + 1):
        for found in itertools.combinations_with_replacement(copies, count):
            if 2 <= _ranks(found) <= ranks:
                yield found


def _ranks(copies: Widths) -> int:
    return sum(sum(row) for parts in copies for row in parts)


def _rows(size: int) -> Iterator[Row]:
    """Every way to part `size` cards into a row of stages."""
    if size == 0:
        yield ()
    for first in range(1, size + 1):
        yield from ((first, *rest) for rest in _rows(size - first))


def plan_of(spec: ModelSpec, widths: Widths, *, whole_experts: bool = False) -> Plan:
    """The plan of a placement, every share of it uneven where it can be."""
    names = (f"card{i}" for i in itertools.count())
    group = spec.heads // spec.kv_heads
    copies = []
    for count, parts in zip(BATCHES[len(widths)], widths, strict=True):
        for row, context in zip(parts, CONTEXTS[len(parts)], strict=True):
            edges = (0, *ENDS[len(row)])
            stages = tuple(
                Stage(tuple(next(names) for _ in range(width)), *edges[i : i + 2],
                      tuple(g * group for g in GROUPS[width]), experts=EXPERTS[width] if whole_experts else ())
                for i, width in enumerate(row)
            )  # fmt: skip
            copies.append(Replica(stages, count, context=context))
    return joined(spec, copies)


def joined(spec: ModelSpec, copies: list[Replica], *, schedule: str = "1f1b") -> Plan:
    """A plan of these copies on cards that are never paced."""
    held = [name for copy in copies for stage in copy.stages for name in stage.cards]
    cards = tuple(Card(name, "emulated", "test", {"fp32": 1e9}, 2**30, 1e9, cores=0.9) for name in held)
    first, *rest = copies
    return Plan(spec, Fleet("together", cards), first.stages, schedule, first.micro_batches, 2, 5, orders=first.orders,
                replicas=tuple(rest), context=first.context)  # fmt: skip


def whole(model: ModelSpec, batch: int, seq: int) -> Plan:
    """One card with all of a model."""
    card = Card("card0", "emulated", "test", {"fp32": 1e9}, 2**30, 1e9, cores=0.9)
    return Plan(model, Fleet("one", (card,)), (Stage(("card0",), 0, len(model.units)),), "1f1b", batch, 1, seq)
