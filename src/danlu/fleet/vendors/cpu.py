"""The CPU itself as a card."""

from __future__ import annotations

import os
from pathlib import Path

from danlu.fleet.driver import Float8, Memory
from danlu.fleet.pace import Pacer
from danlu.nouns import Card


def present() -> str:
    """A machine that runs this has a CPU."""
    return ""


def cards() -> tuple[Card, ...]:
    """One per core, measured with all cores busy."""
    from danlu.fleet.probe import cpu_cards

    return cpu_cards()


def device(card: Card) -> str:
    """Always "cpu"; how many cores it uses is set by the process that runs the rank."""
    return "cpu"


def pace(card: Card) -> Pacer:
    """Never waits."""
    return Pacer()


def memory(card: Card) -> Memory:
    """The card's declared bytes, and what of them the host can still give."""
    return Memory(card.mem_bytes, min(card.mem_bytes, available()))


def health(card: Card) -> str:
    """A CPU that answers is well, unless the card wants more cores than there are."""
    cores = len(os.sched_getaffinity(0))
    return "" if card.cores <= cores else f"{card.name} wants {card.cores:g} cores, this process may use {cores}"


def native() -> str:
    """None: shared memory between processes is faster than gloo (docs of bench train)."""
    return ""


def fp8(card: Card) -> Float8 | str:
    """No CPU."""
    return "a CPU has no products of 8-bit floats"


def available() -> int:
    """Bytes of memory the host can give without swapping (MemAvailable)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
