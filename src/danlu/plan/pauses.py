"""What instructions cost a card that sleeps between them: every paced card does, until its instruction's end.

How long it sleeps follows from its speed: of an instruction's seconds it works that part which its cores are, and
sleeps the rest. What waking costs then is measured (danlu/fleet/pauses.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from danlu.nouns import Card
from danlu.plan.events import Seconds, StageCost


class Pauses:
    """What waking costs one card; nothing on a card that is not paced or has not been measured.

    It is measured in fp32 and is nearly the same in any dtype: most of what is cold is code.
    """

    def __init__(self, card: Card) -> None:
        self._asleep = 1.0 - card.cores
        self._points: dict[str, list[tuple[float, float]]] = {}
        for rate in card.rates if card.emulated else ():
            if rate.op.startswith("wake"):
                point = (math.log(rate.shape[0] * 1e-6), 1.0 / rate.per_s)
                self._points.setdefault(rate.op, []).append(point)
        for each in self._points.values():
            each.sort()

    def paid(self, cost: StageCost) -> StageCost:
        """A stage's costs with what waking adds to each of its instructions."""
        if not self._points:
            return cost
        weight = self._more("wake_one", cost.weight_s)
        return replace(
            cost,
            forward_s=cost.forward_s + self._more("wake", cost.forward_s),
            backward_s=cost.backward_s + self._more("wake_back", cost.backward_s),
            weight_s=cost.weight_s + weight,
            split_s=cost.split_s + weight,  # a backward in two halves wakes twice
            norm_s=cost.norm_s + self._more("wake_one", cost.norm_s),
            tied_s=cost.tied_s + self._more("wake_one", cost.tied_s),
            step_s=cost.step_s + self._more("wake_one", cost.step_s),
            data_s=cost.data_s + self._more("wake_one", cost.data_s),
            weights_s=cost.weights_s + self._more("wake_one", cost.weights_s),
        )

    def met(self, op: str, seconds: Seconds, times: int) -> Seconds:
        """What waking costs an instruction more that waits for others so many times on its way, evenly apart.

        op  "wake" for a forward, "wake_back" for a backward
        """
        return times * self._more(op, seconds / (times + 1)) if times and self._points else 0.0

    def _more(self, op: str, seconds: Seconds) -> Seconds:
        """Of an instruction: in proportion to the logarithm between measured pauses, beyond them as at the nearest."""
        logs, more = zip(*self._points[op], strict=True)
        pause = self._asleep * seconds
        if isinstance(pause, float):
            return float(np.interp(math.log(max(pause, 1e-9)), logs, more))
        return np.interp(np.log(np.maximum(pause, 1e-9)), logs, more)
