"""A card of declared, unequal speed and memory on the host's CPU; every figure of it is labelled *emulated*.

`Card.cores` is its speed in cores. One thread computes, and a pacer makes each instruction take thread CPU / speed.
"""

from __future__ import annotations

from danlu.fleet.driver import Float8, Memory
from danlu.fleet.pace import Pacer
from danlu.fleet.vendors import cpu
from danlu.nouns import Card


def present() -> str:
    """Any machine can emulate."""
    return ""


def cards() -> tuple[Card, ...]:
    """None: emulated cards are made by danlu.fleet.emulate."""
    return ()


def device(card: Card) -> str:
    """Its tensors live on the CPU."""
    return "cpu"


def pace(card: Card) -> Pacer:
    """A pacer at the card's speed in cores of the machine as it was probed."""
    usual_s = next((card.cores / rate.per_s for rate in card.rates if rate.op == "usual"), None)
    if usual_s is None:
        return Pacer(card.cores)
    from danlu.fleet.reference import Reference

    reference = Reference()
    return Pacer(card.cores, lambda: reference.seconds() / usual_s)


def memory(card: Card) -> Memory:
    """The declared bytes; danlu.memory's arena enforces them, the host must have them free."""
    return Memory(card.mem_bytes, min(card.mem_bytes, cpu.available()))


def health(card: Card) -> str:
    """One thread drives it, so its speed must be above 0 and at most one core."""
    if not 0 < card.cores <= 1:
        return f"{card.name} has speed {card.cores:g} cores; one thread gives at most 1"
    return ""


def native() -> str:
    """The CPU's."""
    return cpu.native()


def fp8(card: Card) -> Float8 | str:
    """Its numbers are the CPU's."""
    return cpu.fp8(card)
