"""What the house asks of a vendor. A vendor is one file of fleet/vendors whose functions are these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from danlu import plugins
from danlu.fleet.pace import Pacer
from danlu.nouns import Card


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a card now: bytes in all, and bytes free."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Float8:
    """What a card multiplies in 8 bits, by torch's names of element types: activations and weights, and gradients."""

    ahead: str = "float8_e4m3fn"
    behind: str = "float8_e5m2"


class Driver(Protocol):
    """One vendor's file. Functions import torch, when they need it, only inside."""

    def present(self) -> str:
        """Empty when this machine has such cards, else the reason why not, for people."""

    def cards(self) -> tuple[Card, ...]:
        """The cards of this machine, measured; none for a vendor whose cards are declared."""

    def device(self, card: Card) -> str:
        """The torch device string of a card, for example "cuda:1"."""

    def pace(self, card: Card) -> Pacer:
        """A pacer that makes the card as slow as it is declared; one that never waits for a real card."""

    def memory(self, card: Card) -> Memory:
        """Memory of the card now."""

    def health(self, card: Card) -> str:
        """Empty when the card answers, else what is wrong."""

    def native(self) -> str:
        """torch's name of the collectives these cards bring along; "" where danlu's own are better, as on CPUs."""

    def fp8(self, card: Card) -> Float8 | str:
        """What the card multiplies 8-bit floats in, asked from the card itself; why it cannot, for people."""


def vendor(card: Card) -> Driver:
    """The driver of a card. Raises UnknownPlugin when no vendor file has that name."""
    return cast(Driver, plugins.load("danlu.fleet.vendors", card.vendor))
