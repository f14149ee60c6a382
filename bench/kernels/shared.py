"""One model shared by two processes of one core each, beside one process with two threads."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

import torch

from danlu.cli.bench import load
from danlu.comm.shm import usable
from danlu.kernels.program import Code
from danlu.serve.shared import bind

SHAPE, TOKENS = "llama-1.1b", 32


def measure(rounds: int) -> dict[str, Any]:
    """Keys: tp2_vs_threads, tokens/s of the two processes against the two threads; tp2_sum_us, one sum in a step."""
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    if not usable() or len(cores) < 2:
        print("a shared model needs shared memory and two cores")
        return {}
    engine, random = load("engine"), load("parts/random_model")
    whole = random.Model(random.SHAPES[SHAPE], tokens=TOKENS)
    with torch.inference_mode(), load("parts/shared_rank").shared(SHAPE, TOKENS) as part:

        def on(those: tuple[int, ...], model: Any) -> Callable[[], float]:
            def run() -> float:
                bind(those)
                return TOKENS / float(model.decode(TOKENS))

            return run

        try:
            cases = {"2 processes": on(cores[:1], part), "1 process, 2 threads": on(cores, whole)}
            seen = engine.in_turn(cases, rounds)
            bind(cores[:1])
            part.runner.measure(True)
            part.decode(TOKENS)
        finally:
            bind(cores)
    engine.show(f"{SHAPE} shape, decode", seen, "tokens/s")
    ops = zip(part.runner.program.ops, part.runner.seconds.tolist(), strict=True)
    sums = [seconds / TOKENS for op, seconds in ops if op.code == Code.REDUCE]
    found, each = engine.ratio(seen, *cases), 1e6 * statistics.median(sums)
    share = sum(sums) * statistics.median(seen["2 processes"])
    print(f"2 processes / 2 threads {found:.3f}; {len(sums)} sums of a token take {each:.1f} us each with the wait for "
          f"the other process, {share:.0%} of its time")  # fmt: skip
    return {"tp2_vs_threads": found, "tp2_sum_us": each}
