"""AdamW over cells: a rank updates what it owns and hands it to the others who hold it.

The same face as optim.AdamW, for plans in which cards share parameters. A step is: `parts` of gradients to their
owners, `gather`, the norm, `update`, `news` of weights to the other holders, `take_over`. Sums are fp32 in the order
of the cell's sources, whoever adds them, so a run gives the same bits every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from danlu.plan.ranks.cells import Cell, Held
from danlu.train.optim import ALIGN, Array, Copy, Gradients, Slot, adamw_

Sends = Callable[[Cell], list[tuple[int, Tensor]]]  # (rank, values) of what a cell makes this rank send
Senders = Callable[[Cell], list[int]]  # ranks that send this one something of a cell


class SharedAdamW(Gradients):
    """Owns a rank's weights and gradients, and master weights and moments of the cells that are its to update."""

    def __init__(self, module: nn.Module, cells: Sequence[Cell], rank: int, *, weight_decay: float) -> None:
        self.rank = rank
        self._cells = [cell for cell in cells if any(hold.rank == rank for hold in cell.holders)]
        named = dict(module.named_parameters())
        first = next(iter(named.values()))
        self._held, size = _slots({name: parameter.shape for name, parameter in named.items()})
        self.used = torch.zeros(size, dtype=first.dtype, device=first.device)
        self.grad = torch.zeros_like(self.used)
        self._mixed = first.dtype != torch.float32
        self.total = torch.zeros(size, device=first.device) if self._mixed else self.grad
        for name, slot in self._held.items():
            slot.of(self.used).copy_(named[name].detach())
            named[name].data, named[name].grad = slot.of(self.used), slot.of(self.grad)
        self._own = sorted((cell for cell in self._cells if cell.owner == rank), key=lambda cell: not cell.matrix)
        self.slots, size = _slots({cell.key: torch.Size(cell.shape) for cell in self._own})
        self.flat = torch.zeros(size, device=first.device)
        self.m, self.v, self.summed = (torch.zeros_like(self.flat) for _ in range(3))
        rest = [self.slots[cell.key].start for cell in self._own if not cell.matrix]
        edge = rest[0] if rest else size
        self._cuts = [cut for cut in ((0, edge, weight_decay), (edge, size, 0.0)) if cut[0] < cut[1]]
        self._count = torch.zeros((), device=first.device)
        self._read()

    @property
    def state_bytes(self) -> dict[str, int]:
        """Bytes held: weights, gradients, optimizer."""
        own = 4 * self.flat.nbytes
        gradients = self.grad.nbytes + (self.total.nbytes if self._mixed else 0)
        return {"weights": self.used.nbytes, "gradients": gradients, "optimizer": own}

    def parts(self) -> dict[int, Tensor]:
        """Gradients for other owners, by rank: what this rank is the source of, one flat fp32 tensor each."""
        return self._flat_by_rank(lambda cell: [
            (cell.owner, self._of(self.total, cell, hold)) for hold in cell.sources
            if hold.rank == self.rank != cell.owner
        ])  # fmt: skip

    def expected(self) -> dict[int, int]:
        """Numbers that come from each rank for `gather`."""
        return self._counts(lambda cell: [hold.rank for hold in cell.sources] if cell.owner == self.rank else [])

    def gather(self, came: Mapping[int, Tensor]) -> None:
        """Add up the gradients of the own cells: this rank's, and those in `came` by rank."""
        at = dict.fromkeys(came, 0)
        for cell in self._cells:
            if cell.owner != self.rank:
                continue
            total, count = self.slots[cell.key].of(self.summed).zero_(), math.prod(cell.shape)
            for hold in cell.sources:
                if hold.rank == self.rank:
                    total.add_(self._of(self.total, cell, hold))
                else:
                    start = at[hold.rank]
                    total.add_(came[hold.rank][start : start + count].view(cell.shape))
                    at[hold.rank] = start + count

    def norm_squared(self, without: str | None = None) -> float:
        """Sum of squares of the summed gradient, of the own cells: over all ranks, each number counts once."""
        assert without is None
        return float(torch.linalg.vector_norm(self.summed)) ** 2

    def update(self, rate: float, scale: float) -> None:
        """One step of the own cells with the summed gradient times `scale`; all gradients are zero afterwards."""
        if scale != 1.0:
            self.summed.mul_(scale)
        self._count += 1
        for start, stop, decay in self._cuts:
            w, g, m, v = (each[start:stop] for each in (self.flat, self.summed, self.m, self.v))
            adamw_((w, g, m, v), self._count, rate, decay)
        self.clear()
        self._write()

    def news(self) -> dict[int, Tensor]:
        """The own cells' weights for their other holders, by rank."""
        return self._flat_by_rank(lambda cell: [
            (rank, self.slots[cell.key].of(self.flat)) for rank in sorted({hold.rank for hold in cell.holders})
            if rank != self.rank
        ] if cell.owner == self.rank else [])  # fmt: skip

    def expected_news(self) -> dict[int, int]:
        """Numbers that come from each rank for `take_over`."""
        return self._counts(lambda cell: [cell.owner])

    def take_over(self, came: Mapping[int, Tensor]) -> None:
        """Set the cells that others own to what they sent."""
        at = dict.fromkeys(came, 0)
        for cell in self._cells:
            if cell.owner == self.rank:
                continue
            start, count = at[cell.owner], math.prod(cell.shape)
            self._put(cell, came[cell.owner][start : start + count].view(cell.shape))
            at[cell.owner] = start + count

    def copy(self, step: int) -> Copy:
        """The state now, in host memory."""
        flats = (self.flat.cpu().clone(), self.m.cpu().clone(), self.v.cpu().clone())
        return Copy(step, self.slots, flats, self.used.cpu().clone())

    def restore(self, copy: Copy) -> None:
        """Go to a state taken by `copy`; the gradient is zero afterwards."""
        assert copy.used is not None
        for mine, theirs in zip((self.flat, self.m, self.v, self.used), (*copy.flats, copy.used), strict=True):
            mine.copy_(theirs)
        self.clear()
        self._count.fill_(copy.step)

    def restore_whole(self, step: int, tensors: Mapping[str, Array]) -> None:
        """The same from whole arrays by parameter ("NAME", "NAME.m", "NAME.v"), whoever wrote them."""
        for mark, flat in zip(("", ".m", ".v"), (self.flat, self.m, self.v), strict=True):
            for cell in self._own:
                self.slots[cell.key].of(flat).copy_(_part(torch.from_numpy(tensors[cell.name + mark]), cell))
        for cell in self._cells:
            self._put(cell, _part(torch.from_numpy(tensors[cell.name]), cell))
        self.clear()
        self._count.fill_(step)

    def begin(self) -> None:
        """Step 0 of the weights the module has now; moments are zero."""
        self._read()
        for each in (self.m, self.v, self._count):
            each.zero_()
        self.clear()

    @property
    def names(self) -> frozenset[str]:
        """Parameters of the whole model that this rank holds a part of."""
        return frozenset(cell.name for cell in self._cells)

    def _read(self) -> None:
        for cell in self._own:
            hold = next(hold for hold in cell.holders if hold.rank == self.rank)
            self.slots[cell.key].of(self.flat).copy_(self._of(self.used, cell, hold))

    def _write(self) -> None:
        for cell in self._own:
            self._put(cell, self.slots[cell.key].of(self.flat))

    def _put(self, cell: Cell, values: Tensor) -> None:
        for hold in cell.holders:
            if hold.rank == self.rank:
                self._of(self.used, cell, hold).copy_(values)

    def _of(self, flat: Tensor, cell: Cell, hold: Held) -> Tensor:
        """A cell's part of this rank's parameter, a view."""
        mine = self._held[hold.name].of(flat)
        return mine if cell.axis is None else mine.narrow(cell.axis, hold.offset, cell.stop - cell.start)

    def _flat_by_rank(self, sent: Sends) -> dict[int, Tensor]:
        found: dict[int, list[Tensor]] = {}
        for cell in self._cells:
            for rank, values in sent(cell):
                found.setdefault(rank, []).append(values.detach().float().reshape(-1))
        return {rank: torch.cat(each) for rank, each in found.items()}

    def _counts(self, senders: Senders) -> dict[int, int]:
        found: dict[int, int] = {}
        for cell in self._cells:
            for rank in senders(cell):
                if rank != self.rank:
                    found[rank] = found.get(rank, 0) + math.prod(cell.shape)
        return found


def _slots(shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Slot], int]:
    found, at = {}, 0
    for name, shape in shapes.items():
        found[name] = Slot(at, shape)
        at += -(-shape.numel() // ALIGN) * ALIGN
    return found, at


def _part(whole: Tensor, cell: Cell) -> Tensor:
    return whole if cell.axis is None else whole.narrow(cell.axis, cell.start, cell.stop - cell.start)
