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

SHAPE, TOKENS, PROMPT = "llama-1.1b", 32, 128


def measure(rounds: int) -> dict[str, Any]:
    """Keys: tp2_vs_threads, tokens/s decoded by two processes against two threads; tp2_prefill_vs_threads, the same of
    a prompt; tp2_sum_us, one sum in a decode step.
    """
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    if not usable() or len(cores) < 2:
        print("a shared model needs shared memory and two cores")
        return {}
    engine, random = load("engine"), load("parts/random_model")
    whole = random.Model(random.SHAPES[SHAPE], tokens=PROMPT)
    with torch.inference_mode(), load("parts/shared_rank").shared(SHAPE, PROMPT) as part:

        def on(those: tuple[int, ...], model: Any, prompt: bool = False) -> Callable[[], float]:
            def run() -> float:
                bind(those)
                return PROMPT / float(model.prefill(PROMPT)) if prompt else TOKENS / float(model.decode(TOKENS))

            return run

        try:
            one, two = "1 process, 2 threads", "2 processes"
            cases = {two: on(cores[:1], part), one: on(cores, whole), f"{two}, prompt": on(cores[:1], part, True),
                     f"{one}, prompt": on(cores, whole, True)}  # fmt: skip
            seen = engine.in_turn(cases, rounds)
            bind(cores[:1])
            part.runner.measure(True)
            part.decode(TOKENS)
        finally:
            bind(cores)
    engine.show(f"{SHAPE} shape", seen, "tokens/s")
    ops = zip(part.runner.program.ops, part.runner.seconds.tolist(), strict=True)
    sums = [seconds / TOKENS for op, seconds in ops if op.code == Code.REDUCE]
    found, each = engine.ratio(seen, two, one), 1e6 * statistics.median(sums)
    prompt = engine.ratio(seen, f"{two}, prompt", f"{one}, prompt")
    share = sum(sums) * statistics.median(seen[two])
    print(f"2 processes / 2 threads {found:.3f}, prompt {prompt:.3f}; {len(sums)} sums of a token take {each:.1f} us "
          f"each with the wait for the other process, {share:.0%} of its time")  # fmt: skip
    return {"tp2_vs_threads": found, "tp2_prefill_vs_threads": prompt, "tp2_sum_us": each}
