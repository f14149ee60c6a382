"""What bounds the product of one token: its speed in each cache, where it waits for less, beside a plain read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from danlu.cli import bench
from danlu.cli.output import table
from danlu.kernels import codebooks, linear, ops, q4

gemv = bench.load("kernels/gemv")
Case = Callable[[], Any]
# Rows of a small and of a large matrix, and calls of each in a row, of which the quickest counts. What a call costs
# beside the product (Python, buffers, the prepared input) is in both, so that their difference is the product alone.
PLACES = {"second cache": (64, 192, 400), "last cache": (1_024, 5_120, 8), "memory": (2_048, gemv.ROWS, 1)}


def measure(rounds: int) -> dict[str, Any]:
    """Keys: product_gbs.PLACE, read_gbs.PLACE (one thread, from the best rounds), gemv_limit_1t: what a product as fast
    as from a cache would be of the read from memory.
    """
    if ops.find("linear_q4") is None:
        print("no native kernels here: nothing to measure")
        return {}
    torch.manual_seed(0)
    whole = gemv.repeated(codebooks.quantize(torch.randn(gemv.MADE, gemv.INNER)), gemv.ROWS // gemv.MADE)
    least: dict[tuple[str, int, str], float] = {}
    for _ in range(2 * rounds):
        for place, (few, many, calls) in PLACES.items():
            for rows in (few, many):
                for way, run in ways(whole, rows).items():
                    case = place, rows, way
                    least[case] = min(quickest(run, calls), least.get(case, math.inf))
    found: dict[str, Any] = {}
    for place, (few, many, _) in PLACES.items():
        per_row = {way: (least[place, many, way] - least[place, few, way]) / (many - few) for way in ways(whole, few)}
        key = place.replace(" ", "_")
        found[f"product_gbs.{key}"] = whole.nbytes / gemv.ROWS / per_row.pop("product") / 1e9
        found[f"read_gbs.{key}"] = whole.codes.numel() / gemv.ROWS / min(per_row.values()) / 1e9
    show(found)
    best = max(found["product_gbs.second_cache"], found["product_gbs.last_cache"])
    found["gemv_limit_1t"] = best / found["read_gbs.memory"]
    print(f"\nas fast as from a cache, one thread would reach {found['gemv_limit_1t']:.0%} of the read from memory")
    return found


def ways(whole: q4.Q4, rows: int) -> dict[str, Case]:
    """The product with the first rows in int8 on one thread, and plain reads of their codes."""
    groups = rows // q4.ROWS
    w = q4.Q4(whole.codes[:groups], whole.absmax[:groups], whole.scale[:groups], whole.levels, (rows, gemv.INNER))
    x, native_linear = torch.randn(1, gemv.INNER), ops.find("linear_q4")
    assert native_linear is not None
    return {"product": lambda: linear.linear_native(native_linear, x, w, None, "int8", 1), **gemv.readers(w, 1)}


def quickest(run: Case, calls: int) -> float:
    """Seconds of the quickest of so many calls in a row: the others bring its matrix into the cache it fits in."""
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def show(found: dict[str, float]) -> None:
    """Print bytes a second by place."""
    rows = []
    for place, (_, many, _) in PLACES.items():
        read, made = (found[f"{what}_gbs.{place.replace(' ', '_')}"] for what in ("read", "product"))
        rows.append([place, f"{many * gemv.INNER / 2**21:.1f}", f"{read:.1f}", f"{made:.1f}", f"{made / read:.0%}"])
    print(table(["weights lie in", "MiB", "read, GB/s", "product, GB/s", "of it"], rows))
