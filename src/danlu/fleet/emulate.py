"""An unequal fleet on one machine: cards of declared speed and memory, each a paced thread of the host's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from danlu.errors import BadFleet
from danlu.nouns import Card, Fleet, Host, Link

SHARE = 0.8  # of the host's cores that all speeds may sum to: the rest runs the owner and the kernel


def emulate(
    base: Card, speeds: Sequence[float], mem_bytes: Sequence[int], *, link: Link | None = None, host: Host | None = None
) -> Fleet:
    """Cards "card0", "card1", ... on the host of `base`, every two of them joined.

    base       one core of the host as probed; its rates are scaled by each speed
    speeds     of each card, in cores, in (0, 1]
    mem_bytes  of each card
    link       between any two cards; without it messages cost nothing
    Raises BadFleet for a speed or memory no card can have.
    """
    if len(speeds) != len(mem_bytes) or not speeds:
        raise BadFleet(
            f"{len(speeds)} speeds and {len(mem_bytes)} memories",
            why="each emulated card needs one of each",
            fix="fleet: {emulate: [4, 2, 2], mem_gib: [1, 0.5, 0.5]}",
        )
    for speed, size in zip(speeds, mem_bytes, strict=True):
        if not 0 < speed <= 1 or size <= 0:
            raise BadFleet(
                f"no card has {speed:g} cores and {size} bytes",
                why="one thread drives a card: 0 < cores <= 1, bytes > 0",
                fix="speeds in proportion to the cores of the machine, for example [0.8, 0.4, 0.4]",
            )
    names = [f"card{i}" for i in range(len(speeds))]
    cards = tuple(scaled(base, name, speed, size) for name, speed, size in zip(names, speeds, mem_bytes, strict=True))
    each = link or Link("", "", 0.0, base.mem_bw)
    links = tuple(replace(each, a=a, b=b) for i, a in enumerate(names) for b in names[i + 1 :])
    return Fleet("emulated", cards, links, (host,) if host else ())


def scaled(base: Card, name: str, speed: float, mem_bytes: int) -> Card:
    """`base` (one core, where it does not say how many) at `speed` cores: every rate is that many times as high."""
    times = speed / (base.cores or 1.0)
    flops = {dtype: rate * times for dtype, rate in base.flops.items()}
    rates = tuple(replace(rate, per_s=rate.per_s * times) for rate in base.rates)
    return replace(
        base,
        name=name,
        vendor="emulated",
        cores=speed,
        flops=flops,
        mem_bytes=mem_bytes,
        mem_bw=base.mem_bw * times,
        rates=rates,
    )


def shares(proportions: Sequence[float], cores: int) -> tuple[float, ...]:
    """Speeds in cores for speeds in proportion: they sum to SHARE of the cores, and none is above SHARE of one core."""
    scale = min(SHARE * cores / sum(proportions), SHARE / max(proportions))
    return tuple(scale * each for each in proportions)
