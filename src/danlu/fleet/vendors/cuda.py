"""NVIDIA cards (and AMD's, which torch also calls "cuda"). Never run by us: written to torch's documented interface."""

from __future__ import annotations

from danlu.fleet.driver import Memory
from danlu.fleet.pace import Pacer
from danlu.nouns import Card


def present() -> str:
    """Empty when torch sees such a card."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    found = torch.accelerator.current_accelerator()
    if found is None or found.type != "cuda" or not torch.accelerator.is_available():
        return "torch sees no cuda accelerator"
    return ""


def index(card: Card) -> int:
    """A card's name ends in its number on the host: "cuda:1", "host2/cuda:1"."""
    tail = card.name.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0


def device(card: Card) -> str:
    """ "cuda:N"."""
    return f"cuda:{index(card)}"


def pace(card: Card) -> Pacer:
    """A real card is as fast as it is."""
    return Pacer()


def memory(card: Card) -> Memory:
    """What the driver reports."""
    import torch

    free, total = torch.cuda.mem_get_info(index(card))
    return Memory(int(total), int(free))


def health(card: Card) -> str:
    """Runs one tiny sum on the card."""
    import torch

    try:
        total = torch.ones(2, device=device(card)).sum().item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "" if total == 2 else f"{card.name} says 1 + 1 = {total:g}"
