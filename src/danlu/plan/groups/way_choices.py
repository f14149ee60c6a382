"""Every way in which cards of a group may run a stage: tensor, context and expert parallelism, recomputation, ZeRO.

A sequence is cut (context parallelism) where a card keeps LONG tokens of it or more: below, its messages are longer
than its work. A mixture's experts are cut over the cards that a sequence is cut over, inside one host: every card has
its part of the tokens and its part of the experts, and no pipeline waits for another. ZeRO-0 is in no search: ZeRO-1
sends as much and keeps less. Two and three pay with messages for every micro-batch, so that they are asked for: they
seldom win, and what they keep with many replicas makes a bound loose. Where a fleet says what joins a card to its
host's memory or disk, the optimizer's states may lie there, and activations in the memory. What is computed again is
chosen for each stage: between nothing and whole layers lies the MLP alone, which keeps most and is made anew for less
than half of a layer's forward.
"""

from __future__ import annotations

from collections.abc import Iterator

from danlu.nouns import Group, ModelSpec
from danlu.plan.groups.unit_cost import Stack, Way

SPLITS = (1, 2, 4, 8, 16)  # cards that may share a unit, within one host
PARTS = (2, 4, 8, 16, 32, 64, 128)  # that a sequence may be cut into
LONG = 8192  # tokens of a sequence that are left to a card
MOST_CARDS = SPLITS[-1] * PARTS[-1]  # of one stage


def recomputed(stack: Stack) -> tuple[str, ...]:
    """What the software can compute again: attention's scores only where they are kept."""
    if stack.software == "torchtitan":
        return "none", "selective", "full"
    return ("none", "mlp", "full") if stack.flash else ("none", "selective", "mlp", "full")


def choices(
    spec: ModelSpec, group: Group, micro_batch: int, seq: int, zero: int, stack: Stack | None = None
) -> tuple[Way, ...]:  # fmt: skip
    """All of them up to a level of ZeRO, for micro-batches of so many sequences of `seq` tokens."""
    return tuple(
        Way(tp, micro_batch, recompute, cp, ep, level, offload, spill)
        for tp in splits(spec, group)
        for cp, ep in parts(spec, group, seq, tp)
        for recompute in recomputed(stack or Stack())
        for level in range(1, zero + 1)
        for offload, spill in places(group, recompute)
    )


def places(group: Group, recompute: str) -> Iterator[tuple[str, bool]]:
    """(where the optimizer's states lie, whether activations wait in the host's memory)."""
    host = bool(group.host_link and group.host_mem_bytes)
    for offload in ("", *["host"] * host, *["disk"] * bool(group.disk_link and group.disk_bytes)):
        yield offload, False
        if host and offload != "disk" and recompute in ("none", "full"):
            yield offload, True


def splits(spec: ModelSpec, group: Group) -> tuple[int, ...]:
    """Cards of one host that may share a unit: they divide the host's, the heads and the key heads."""
    return tuple(t for t in SPLITS if t <= min(group.per_host, group.count) and group.per_host % t == 0
                 and spec.heads % t == 0 and spec.kv_heads % t == 0)  # fmt: skip


def parts(spec: ModelSpec, group: Group, seq: int, tp: int) -> Iterator[tuple[int, int]]:
    """(cp, ep) beside so many tensor-parallel cards."""
    yield 1, 1
    inside = group.per_host // tp
    for count in PARTS:
        if tp * count > group.count:
            return
        if seq >= LONG * count and seq % count == 0:
            yield count, 1
        if spec.experts and count <= inside and spec.experts % count == 0 and seq % count == 0:
            yield count, count
