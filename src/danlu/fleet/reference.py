"""A fixed piece of work. How much CPU time it takes says how fast this machine is at this moment.

On a shared machine a CPU second is no fixed amount of work: neighbours take cache, memory bandwidth and clock rate, and
the same kernel drifts by 20% from one ten seconds to the next. `probe` notes what the reference took while it measured;
a pacer compares, so that an emulated card is as fast as declared also while the machine under it is not.

It is made as an instruction of a small model is, because neighbours slow its parts unevenly: products whose operands
the core holds, a product whose operands come from memory, and calls whose code was last run a while ago. On a machine
with three times the work it has cores for, work of one instruction differed from step to step by 4.7%; over one warm
product it differed by 3.4%, over this mixture by 2.3% (proportions by least squares: the mixture's slope is 1.0).
"""

from __future__ import annotations

import time
from typing import Any

ROWS, INNER, COLUMNS = 256, 128, 384  # of a product of a small model: 25 MFLOP
FAR_ROWS, FAR_INNER = 128, 96  # of the one from memory
POOL = 2**22  # fp32 numbers its operands are drawn from by turns: 16 MiB, of which a core's own cache keeps nothing
CALLS = 12  # of an operator so small that it is all the cost of calling


class Reference:
    """Owns the operands; one per thread that measures."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._x, self._w = torch.randn(ROWS, INNER), torch.randn(INNER, COLUMNS)
        self._y = torch.empty(ROWS, COLUMNS)
        self._pool, self._at = torch.ones(POOL), 0
        self._layer, self._one = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
        self.seconds()

    def seconds(self) -> float:
        """Thread CPU seconds of the work, now. Cost: about 1 ms."""
        before = time.thread_time()
        for _ in range(2):
            self._torch.mm(self._x, self._w, out=self._y)
        self._far(FAR_ROWS, FAR_INNER) @ self._far(FAR_INNER, COLUMNS)
        with self._torch.enable_grad():
            made = self._one
            for _ in range(CALLS):
                made = self._layer(made)
        return time.thread_time() - before

    def _far(self, rows: int, columns: int) -> Any:
        """The next operand, not touched since the pool was gone through."""
        if self._at + rows * columns > POOL:
            self._at = 0
        start, self._at = self._at, self._at + rows * columns
        return self._pool[start : self._at].view(rows, columns)
