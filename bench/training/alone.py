"""One card trains the whole model by a plain loop: no instruction list, no messages, the same kernels and pacing.

    python bench/training/alone.py       stdin, first line: JSON with plan (text of a Plan JSON), micro_batches (sizes
                                         to try) and seconds (of each size)

Says "ready", waits for a line with the monotonic moment to begin, then runs each size for so long and prints a JSON
list of [micro-batch, seconds of one micro-batch, seconds of one optimizer step]. All cards of a fleet do this side by
side.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import fmean

import torch
import torch.nn.functional as F

from danlu.fleet.driver import vendor
from danlu.fleet.pace import Pacer
from danlu.model.halves import Halves
from danlu.model.net import Causal, Decoder, init
from danlu.plan import text
from danlu.train.optim import AdamW
from danlu.train.rank import settle

LOOK = 4  # micro-batches between two optimizer steps: enough of both to time


def main() -> None:
    """Read the job, warm up, wait, measure."""
    torch.set_num_threads(1)
    job = json.loads(sys.stdin.readline())
    plan = text.loads(job["plan"])
    decoder = Decoder(plan.model)
    init(decoder, 0)
    optimizer = AdamW(decoder, weight_decay=0.1)
    decoder.halve(Halves())
    card = plan.fleet.card(plan.stages[0].cards[0])
    pacer = vendor(card).pace(card)
    _run(decoder, optimizer, Pacer(), plan.seq, 1, 0.0)
    settle()
    print("ready", flush=True)
    time.sleep(max(0.0, float(sys.stdin.readline()) - time.monotonic()))
    pacer.restart()
    timed = [_run(decoder, optimizer, pacer, plan.seq, size, job["seconds"]) for size in job["micro_batches"]]
    print(json.dumps(timed))


def _run(
    decoder: Decoder, optimizer: AdamW, pacer: Pacer, seq: int, size: int, seconds: float
) -> tuple[int, float, float]:
    """Train on micro-batches of `size` sequences for so many seconds: (size, seconds of a micro-batch, of a step)."""
    rows = torch.randint(0, decoder.spec.vocab, (size, seq + 1), generator=torch.Generator().manual_seed(size))
    state, batches, steps = Causal(size, seq), list[float](), list[float]()
    meta, end = state.meta(), pacer.clock + seconds
    while not steps or pacer.clock < end:
        for _ in range(LOOK):
            begun = pacer.clock
            with pacer.instruction():
                logits = decoder(rows[:, :-1].reshape(-1), state, meta)
                F.cross_entropy(logits.float(), rows[:, 1:].reshape(-1)).backward()
            batches.append(pacer.clock - begun)
        begun = pacer.clock
        with pacer.instruction():
            optimizer.norm_squared(None)
            optimizer.update(1e-4, 0.5)
        steps.append(pacer.clock - begun)
    pacer.settle()
    return size, fmean(batches), fmean(steps)


if __name__ == "__main__":
    main()
