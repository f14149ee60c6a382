"""The byte budget of one card, held by counting: an emulated card runs out exactly where a real one would."""

from __future__ import annotations

from collections import Counter

from danlu.errors import DoesNotFit

MIB = 2**20


class Arena:
    """Owns a card's budget. Names group what is held ("weights", "activations"), for people and for the report."""

    def __init__(self, card: str, budget: int) -> None:
        """card    its name, for errors; budget  bytes it has."""
        self.card, self.budget = card, budget
        self.used = self.peak = 0
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> dict[str, int]:
        """Bytes now, by name."""
        return {name: size for name, size in self._held.items() if size}

    def reserve(self, name: str, size: int) -> None:
        """Take `size` bytes. Raises DoesNotFit, and takes nothing, when the budget has fewer left."""
        if self.used + size > self.budget:
            most = ", ".join(f"{each} {held / MIB:.1f}" for each, held in self._held.most_common() if held)
            raise DoesNotFit(
                f"{name} needs {size / MIB:.1f} MiB and {(self.budget - self.used) / MIB:.1f} MiB are free",
                where=f"card {self.card}", why=f"of {self.budget / MIB:.1f} MiB it holds (MiB): {most or 'nothing'}",
                fix="plan again with a smaller --plan.micro_batch, or give the card more --fleet.mem_gib",
            )  # fmt: skip
        self._held[name] += size
        self.used += size
        self.peak = max(self.peak, self.used)

    def release(self, name: str, size: int) -> None:
        """Give `size` bytes of `name` back."""
        assert 0 <= size <= self._held[name], f"{name}: {size} of {self._held[name]}"
        self._held[name] -= size
        self.used -= size
