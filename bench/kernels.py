"""One row times an NF4 matrix, beside torch's fp32 and bf16 and a plain read of memory, in turn, one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from danlu import kernels
from danlu.cli.output import table
from danlu.kernels import nf4

ROWS, INNER = 16_384, 4_096  # 34 MB of packed weights: larger than the caches of one core


def measure(rounds: int) -> dict[str, Any]:
    """Keys: gemv_roof_1t, gemv_vs_fp32, gemv_vs_bf16, gemv_error (against fp64), isa."""
    torch.set_num_threads(1)
    weight, x = torch.randn(ROWS, INNER), torch.randn(1, INNER)
    packed = nf4.quantize_nf4(weight)
    wide, half = nf4.dequantize(packed), weight.to(torch.bfloat16)
    far = torch.ones(2**24)
    size = packed.packed.numel() * packed.packed.element_size()
    cases: dict[str, Callable[[], Any]] = {
        "nf4": lambda: nf4.linear(x, packed),
        "torch fp32": lambda: torch.nn.functional.linear(x, weight),
        "torch bf16": lambda: torch.nn.functional.linear(x.to(torch.bfloat16), half),
        "read": far.sum,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(max(rounds, 5) * 4):
        for name, run in cases.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    exact = x.double() @ wide.double().t()
    error = float((nf4.linear(x, packed).double() - exact).norm() / exact.norm())
    read = far.numel() * 4 / min(seconds["read"])
    three = {name: (middle[name], min(each), max(each)) for name, each in seconds.items()}
    rows = [[name, *(f"{1e3 * value:.2f}" for value in values)] for name, values in three.items()]
    print(table([f"{ROWS} x {INNER}, one row", "median ms", "least", "most"], rows))
    rate = size / middle["nf4"]
    share = rate / read
    print(f"\n{kernels.describe()}")
    print(f"nf4 reads {rate / 1e9:.1f} GB/s, {share:.0%} of {read / 1e9:.1f} GB/s; error against fp64 {error:.1e}")
    return {
        "gemv_roof_1t": share,
        "gemv_vs_fp32": middle["torch fp32"] / middle["nf4"],
        "gemv_vs_bf16": middle["torch bf16"] / middle["nf4"],
        "gemv_error": error,
        "isa": kernels.describe(),
    }
