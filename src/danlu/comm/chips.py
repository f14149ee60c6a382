"""Which ranks of a torch.distributed job are one island of a kind of chip, and the group over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore

from danlu import plugins
from danlu.comm.cards import CardGroup
from danlu.comm.native import Native, made
from danlu.comm.team import Team


@dataclass(frozen=True, slots=True)
class Chip:
    """What a rank computes on: `native` collectives ("" where danlu's own move host memory), its device, its island."""

    native: str
    device: str
    island: str = ""

    @property
    def label(self) -> str:
        """Ranks of one label are an island; CPUs among ranks with native collectives use gloo."""
        native = self.native or "gloo"
        return f"{native} {self.island or (self.device if self.native else 'cpu')}"


@dataclass(frozen=True, slots=True)
class Chips:
    """The chips of all ranks, as they told each other by torch's store."""

    store: Any
    rank: int
    told: tuple[Chip, ...]
    limit_s: float

    @staticmethod
    def met(store: Any, rank: int, size: int, mine: Chip, limit_s: float) -> Chips:
        """Tell this rank's chip, and hear the others'."""
        store.set(f"danlu/chip/{rank}", "\n".join((mine.native, mine.device, mine.island)))
        told = tuple(Chip(*store.get(f"danlu/chip/{each}").decode().split("\n")) for each in range(size))
        return Chips(store, rank, told, limit_s)

    @property
    def islands(self) -> tuple[tuple[int, ...], ...]:
        """Ranks by island, in the order of their first ranks."""
        labels = [chip.label for chip in self.told]
        return tuple(tuple(r for r, each in enumerate(labels) if each == label) for label in dict.fromkeys(labels))

    def group(self, team: Team) -> CardGroup | None:
        """The group over islands, leaders by the team's sockets; None where no rank has native collectives.

        Raises NoNative.
        """
        if not any(chip.native for chip in self.told):
            return None
        islands, mine = self.islands, self.told[self.rank]
        members = next(each for each in islands if self.rank in each)
        store = PrefixStore(f"danlu/island/{members[0]}", self.store)
        at = members.index(self.rank)
        backend = made(mine.native or "gloo", store, at, len(members), self.limit_s)
        device = _device(mine)
        heads = [each[0] for each in islands]
        leaders = team.leaders(heads) if len(islands) > 1 and self.rank in heads else None
        return CardGroup(self.rank, islands, Native(backend, members, at, device), leaders)


def accelerator() -> tuple[str, str]:
    """Torch's accelerator here and its native collectives, by its vendor's file; ("cpu", "") without one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None or found.type not in plugins.names("danlu.fleet.vendors"):
        return "cpu", ""
    return found.type, str(plugins.load("danlu.fleet.vendors", found.type).native())


def _device(chip: Chip) -> torch.device:
    """Where the island's tensors lie: the process's own card."""
    if chip.device == "cpu" or not chip.native:
        return torch.device("cpu")
    return torch.device(chip.device, torch.accelerator.current_device_index())
