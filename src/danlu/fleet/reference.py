"""A fixed piece of work. How much CPU time it takes says how fast this machine is at this moment.

On a shared machine a CPU second is no fixed amount of work: neighbours take cache, memory bandwidth and clock rate, and
the same kernel drifts by 20% from one ten seconds to the next. `probe` notes what the reference took while it measured;
a pacer compares, so that an emulated card is as fast as declared also while the machine under it is not.
"""

from __future__ import annotations

import time

import numpy as np

ROWS, INNER, COLUMNS = 256, 128, 384  # a small model's product: 25 MFLOP
FAR = 2**19  # fp32 numbers that are read and written: more than the level-2 cache


class Reference:
    """Owns the operands; one per thread that measures."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._x = rng.standard_normal((ROWS, INNER), dtype=np.float32)
        self._w = rng.standard_normal((INNER, COLUMNS), dtype=np.float32)
        self._y = np.empty((ROWS, COLUMNS), dtype=np.float32)
        self._far = rng.standard_normal(FAR, dtype=np.float32)
        self.seconds()

    def seconds(self) -> float:
        """Thread CPU seconds of the work, now. Cost: about 1 ms.

        It is done twice and timed once: what the work before it left in the caches is no drift of the machine. Without
        that a card that trained a whole model was called 8% slower than one that trained a part of it.
        """
        self._work()
        before = time.thread_time()
        self._work()
        return time.thread_time() - before

    def _work(self) -> None:
        np.matmul(self._x, self._w, out=self._y)
        np.maximum(self._y, 0.0, out=self._y)
        np.negative(self._far, out=self._far)
