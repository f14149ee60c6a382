"""A small world to train in: cards, plans, random tokens; and, run as a program, one rank of a job in it."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from danlu.nouns import Card, Fleet, Link, ModelSpec, Plan, Stage

SPEC = ModelSpec("llama", layers=3, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=97, positions=64)
GIB = 2**30


def fleet(*speeds: float, mem_bytes: int = GIB, link: Link | None = None) -> Fleet:
    """Emulated cards of those speeds in cores."""
    cards = tuple(
        Card(f"card{i}", "emulated", "test", {"fp32": 1e9}, mem_bytes, 1e9, cores=s) for i, s in enumerate(speeds)
    )
    pairs = [(a.name, b.name) for i, a in enumerate(cards) for b in cards[i + 1 :]]
    joined = tuple(Link(a, b, link.latency_s, link.bandwidth) for a, b in pairs) if link else ()
    return Fleet("test", cards, joined)


def plan(spec: ModelSpec, cuts: tuple[int, ...], *, cards: Fleet | None = None, schedule: str = "1f1b",
         micro_batches: int = 4, micro_batch: int = 2, seq: int = 8) -> Plan:  # fmt: skip
    """A plan whose stages end at the given unit indices and at the last unit."""
    edges = (0, *cuts, len(spec.units))
    found = cards or fleet(*(0.9 for _ in edges[1:]))
    stages = tuple(Stage((found.cards[i].name,), *edges[i : i + 2]) for i in range(len(edges) - 1))
    orders = tuple(halved(len(stages) - i, micro_batches) for i in range(len(stages))) if schedule == "zb" else ()
    return Plan(spec, found, stages, schedule, micro_batches, micro_batch, seq, orders=orders)


def halved(ahead: int, micro_batches: int) -> str:
    """An order that holds `ahead` micro-batches, splits every backward but the first, and does the rest at the end."""
    back = "B" + "I" * (micro_batches - 1)
    filled = min(ahead, micro_batches)
    steady = "".join(f"{letter}F" for letter in back[: micro_batches - filled])
    order = "F" * filled + steady + back[micro_batches - filled :]
    return order + "W" * order.count("I")


def batches(job):
    """Random runs of tokens, so that there is something to learn: a function of step and seed."""

    def at(step: int) -> np.ndarray:
        random = np.random.default_rng((job.seed, step))
        start = random.integers(0, job.plan.model.vocab, (job.batch, 1))
        stride = random.integers(1, 4, (job.batch, 1))
        return (start + stride * np.arange(job.plan.seq + 1)) % job.plan.model.vocab

    return at


def together(tasks):
    """Run one function per rank, each in a thread; their results in order."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [each.result(60) for each in [pool.submit(task) for task in tasks]]


def main(argv: list[str]) -> None:
    """A rank as danlu.cli.rank is, with these tokens instead of a token file."""
    from danlu.comm.mesh import call
    from danlu.train.control import Line

    line = Line(call(argv[1]))
    from danlu.train import job, rank

    told = job.loads(Path(argv[0]).read_text())
    rank.follow(line, told, lambda: batches(told), argv[2])


if __name__ == "__main__":
    assert threading.active_count() == 1
    main(sys.argv[1:])
