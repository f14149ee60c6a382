"""What makes a model fit that does not: the mildest change first, each tried by a whole search.

Recomputation, tensor parallelism inside a host, micro-batches of one sequence and, where nothing else fits, gradients
and weights shared over the replicas (ZeRO 2, 3) are in every search already. Left are, in this order: the optimizer's
states in the memory of hosts of which the fleet says nothing, shorter sequences, more cards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from danlu.errors import DoesNotFit, ShortBatch
from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.outlook import seconds_of
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.presets import dense
from danlu.plan.stated.stack_time import Constants

SHORTEST = 512  # tokens
# What is tried of hosts that nobody described: PCIe 4.0 x16 as copies reach it, and an eighth of a terabyte.
HOST_LINK, HOST_MEM = 2.5e10, 128 << 30
MORE = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change, in words, and the seconds of a step with it."""

    words: str
    seconds: float


def cheapest(
    spec: ModelSpec, fleet: GroupedFleet, *, batch: int, seq: int, schedule: str, say: Callable[[str], None],
    zero: int = 1, stack: Stack | None = None, constants: Constants | None = None,
) -> Change | None:  # fmt: skip
    """The mildest change with which some plan fits; None where none of those tried is enough."""
    plain = dense(spec)
    for words, part, length in _changes(fleet, seq):
        say(f"would it fit with {words}")
        for sequences in sorted({batch, max(batch, part.cards)}):  # more of them fill longer pipelines
            try:
                found = large.search(plain, part, batch=sequences, seq=length, schedule=schedule, zero=zero,
                                     stack=stack, constants=constants)  # fmt: skip
            except DoesNotFit as error:
                if not isinstance(error, ShortBatch):
                    break
            else:
                more = f" --batch {sequences}" if sequences > batch else ""
                return Change(words + more, seconds_of(found.plan, constants))
    return None


def _changes(fleet: GroupedFleet, seq: int) -> Iterator[tuple[str, GroupedFleet, int]]:
    if not any(group.host_link for group in fleet.groups):
        words = f"host_link: {HOST_LINK:.1e}, host_mem_bytes: {HOST_MEM >> 30}GiB"
        each = ", ".join(f"{{card: {group.card}, count: {group.count}, {words}}}" for group in fleet.groups)
        words = (f"a fleet file with {{fleet: 1, groups: [{each}]}}, if the hosts have that" if _in_one_word(fleet) else
                 f"`{words}` in the groups whose hosts have that")  # fmt: skip
        hosts = tuple(replace(group, host_link=HOST_LINK, host_mem_bytes=HOST_MEM) for group in fleet.groups)
        yield words, replace(fleet, groups=hosts), seq
    length = seq // 2
    while length >= SHORTEST:
        yield f"--seq {length}", fleet, length
        length //= 2
    for times in MORE:
        groups = tuple(replace(group, count=int(-(-group.count * times // 1))) for group in fleet.groups)
        words = ("+".join(f"{group.count}x{group.card}" for group in groups) if _in_one_word(fleet) else
                 ", ".join(f"{group.count} of {group.card}" for group in groups))  # fmt: skip
        yield f"more cards: {words}", replace(fleet, groups=groups), seq


def _in_one_word(fleet: GroupedFleet) -> bool:
    """Whether it was written as 8xA100-80+16xH20, which names its cards by the catalogue and has no file."""
    parts = fleet.name.split("+")
    return len(parts) == len(fleet.groups) and all(
        part.strip().startswith(str(group.count)) for part, group in zip(parts, fleet.groups, strict=True)
    )


def explained(error: DoesNotFit, spec: ModelSpec, fleet: GroupedFleet, change: Change | None) -> DoesNotFit:
    """The error with the numbers of the model itself and the cheapest change."""
    memory = sum(group.count * group.mem_bytes for group in fleet.groups)
    fix = (f"{change.words}: then a step takes {change.seconds:.3g} s" if change else
           f"other cards: even {MORE[-1]:g} times as many of these, or {SHORTEST} tokens, are not enough")  # fmt: skip
    return DoesNotFit(
        f"no split of {spec.params / 1e9:.1f} G parameters fits {fleet.cards} card{'s' * (fleet.cards != 1)}",
        why=f"weights, gradients and optimizer take {18 * spec.params / 2**30:.0f} GiB, the cards have "
        f"{memory / 2**30:.0f} GiB; recomputation, tensor parallelism in a host, ZeRO-1, 2 and 3 and micro-batches of "
        "one sequence were tried",
        fix=fix, where=error.where,
    )  # fmt: skip
