"""One token (and 8, and 64) times a 4-bit matrix, in turn with a plain read, llama.cpp and bitsandbytes."""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu import native
from danlu.cli import bench
from danlu.cli.output import table
from danlu.kernels import codebooks, linear, nf4, ops, pages, q4

ggml = bench.load("peers/ggml")
ROWS, INNER, MADE = 32_768, 4_096, 1_024  # 67 MB of codes, twice the last cache; MADE rows are quantized, then repeated
SMALL = 4_096  # rows beside bitsandbytes and torch, which are slow
READERS = [(streams, ahead) for streams in (1, 2, 4) for ahead in (0, 512)]
Case = Callable[[], Any]


def ladder() -> tuple[linear.Precision, ...]:
    """The precisions that are kernels of their own here: bf16 is int16 on a CPU without it."""
    return tuple(p for p in linear.PRECISIONS if p != "bf16" or native.runs("avx512bf16"))


def in_turn(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case, round by round; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, run in cases.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def repeated(w: q4.Q4, times: int) -> q4.Q4:
    """The matrix several times below itself, its codes in large pages."""
    codes = pages.room(times * w.codes.numel()).view(-1, *w.codes.shape[1:])
    codes.view(times, *w.codes.shape).copy_(w.codes)
    return q4.Q4(
        codes, w.absmax.repeat(times, 1, 1), w.scale.repeat(times, 1, 1), w.levels, (times * w.shape[0], w.shape[1])
    )


def readers(w: q4.Q4, threads: int) -> dict[str, Case]:
    """A plain read of the codes, in several ways."""
    library, total = native.library(), ctypes.c_uint64()
    assert library is not None
    return {
        f"read {streams} x, {ahead} ahead": lambda streams=streams, ahead=ahead: library.danlu_read(
            ctypes.c_void_p(w.codes.data_ptr()), ctypes.c_int64(w.codes.numel()), ctypes.c_int64(streams),
            ctypes.c_int64(ahead), threads, ctypes.byref(total))
        for streams, ahead in READERS
    }  # fmt: skip


def one_token(w: q4.Q4, peers: dict[str, Tensor], threads: int, rounds: int) -> dict[str, float]:
    """Print one table; returns the share of the roof, and how much faster than each peer."""
    x, native_linear = torch.randn(1, INNER), ops.find("linear_q4")
    assert native_linear is not None
    ours: dict[str, Case] = {
        p: lambda p=p: linear.linear_native(native_linear, x, w, None, p, threads) for p in ladder()
    }
    theirs = {kind: ggml.Product(packed, kind, w.shape, 1, threads) for kind, packed in peers.items()}
    for product in theirs.values():
        product.put(x)
    read = readers(w, threads)
    seconds = in_turn({**ours, **theirs, **read}, rounds)
    roof = max(w.codes.numel() / min(seconds[name]) for name in read)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    best_read = min(read, key=lambda name: min(seconds[name]))
    rows = []
    for name in (*ours, *theirs, best_read):
        size = w.nbytes if name in ours else peers[name].numel() if name in peers else w.codes.numel()
        rows.append(
            [
                name,
                f"{1e3 * middle[name]:.2f}",
                f"{1e3 * min(seconds[name]):.2f}",
                f"{1e3 * max(seconds[name]):.2f}",
                f"{size / middle[name] / 1e9:.1f}",
                f"{size / middle[name] / roof:.0%}",
            ]
        )
    print(table([f"{w.shape[0]} x {INNER}, {threads} thread(s)", "ms", "least", "most", "GB/s", "of the roof"], rows))
    share = w.nbytes / middle["int8"] / roof
    assert w.nbytes / min(seconds["int8"]) <= roof, f"a share above 1: the roof of this run is not one ({roof:.3g} B/s)"
    return {"roof": share, **{kind: middle[kind] / middle["int8"] for kind in peers}}


def tokens(w: q4.Q4, packed: Tensor, count: int, rounds: int) -> float:
    """Print products of several tokens on one thread; returns how much faster int8 is than IQ4_NL."""
    x, native_linear = torch.randn(count, INNER), ops.find("linear_q4")
    assert native_linear is not None
    cases: dict[str, Case] = {p: lambda p=p: linear.linear_native(native_linear, x, w, None, p, 1) for p in ladder()}
    if packed.numel():
        theirs = ggml.Product(packed, "iq4_nl", w.shape, count, 1)
        theirs.put(x)
        cases["iq4_nl"] = theirs
    seconds = in_turn(cases, rounds)
    work = 2 * count * w.shape[0] * INNER
    rows = [
        [name, f"{1e3 * statistics.median(each):.2f}", f"{work / statistics.median(each) / 1e9:.0f}"]
        for name, each in seconds.items()
    ]
    print(table([f"{w.shape[0]} x {INNER}, {count} tokens, 1 thread", "ms", "GOP/s"], rows))
    return statistics.median(seconds["iq4_nl"]) / statistics.median(seconds["int8"]) if packed.numel() else 0.0


def beside_python(weight: Tensor, rounds: int) -> dict[str, float]:
    """NF4 exactly as bitsandbytes keeps it, beside bitsandbytes itself and torch; one thread."""
    torch.set_num_threads(1)
    old = nf4.quantize_nf4(weight)
    w, x, native_linear = q4.of_nf4(old), torch.randn(1, INNER), ops.find("linear_q4")
    assert native_linear is not None
    half = weight.bfloat16()
    cases: dict[str, Case] = {
        "nf4, int8": lambda: linear.linear_native(native_linear, x, w, None, "int8", 1),
        "nf4, fp32": lambda: linear.linear_native(native_linear, x, w, None, "fp32", 1),
        "torch fp32": lambda: torch.nn.functional.linear(x, weight),
        "torch bf16": lambda: torch.nn.functional.linear(x.bfloat16(), half),
    }
    if theirs := bitsandbytes(weight, x):
        cases["bitsandbytes"] = theirs
    seconds = in_turn(cases, rounds)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    print(table([f"{len(weight)} x {INNER}, 1 thread", "ms"], [[n, f"{1e3 * s:.2f}"] for n, s in middle.items()]))
    exact = x.double() @ q4.dequantize(w).double().T
    error = float((cases["nf4, int8"]().double() - exact).norm() / exact.norm())
    names = {"gemv_vs_fp32": "torch fp32", "gemv_vs_bf16": "torch bf16", "gemv_vs_bnb": "bitsandbytes"}
    ratios = {key: middle[name] / middle["nf4, int8"] for key, name in names.items() if name in middle}
    return {**ratios, "gemv_error": error}


def bitsandbytes(weight: Tensor, x: Tensor) -> Case | None:
    """Its NF4 linear with double quantization, by the path it chooses for this CPU; None when it is not in .peers."""
    folder = Path(__file__).parents[2] / ".peers" / "bnb"
    if not folder.exists():
        return None
    sys.path.append(str(folder))
    import bitsandbytes as bnb

    made = bnb.nn.Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        compute_dtype=torch.float32,
        compress_statistics=True,
        quant_type="nf4",
    )
    made.load_state_dict({"weight": weight})
    made = made.to("cpu").eval()
    made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to("cpu")
    with torch.no_grad():
        made(x)

    def run() -> None:
        with torch.no_grad():
            made(x)

    return run


def measure(rounds: int) -> dict[str, Any]:
    """Keys: gemv_roof_1t/_2t, gemv_vs_iq4nl_1t/_2t, avx2_vs_iq4nl, gemm64_vs_iq4nl, gemm8_vs_iq4nl, gemv_vs_bnb, ..."""
    if ops.find("linear_q4") is None:
        print("no native kernels here: nothing to measure")
        return {}
    torch.manual_seed(0)
    weight = torch.randn(MADE, INNER)
    made = codebooks.quantize(weight)
    w = repeated(made, ROWS // MADE)
    built = ggml.library() is not None
    peers = {kind: ggml.quantize(weight, kind).repeat(ROWS // MADE) for kind in ("iq4_nl", "q4_0", "q4_k") if built}
    if not built:
        print("llama.cpp is not in .peers: ./danlu bench kernels --peers builds it")
    keys: dict[str, Any] = {}
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        print("products on two threads need two cores")
    for threads in (1, 2)[:cores]:
        found = one_token(w, peers, threads, 2 * rounds)
        keys[f"gemv_roof_{threads}t"] = found.pop("roof")
        keys |= {f"gemv_vs_{kind.replace('_', '', 1)}_{threads}t": ratio for kind, ratio in found.items()}
    if built:
        if ops.find("linear_q4") is ops.implementation("linear_q4", "avx2"):
            keys["avx2_vs_iq4nl"] = keys["gemv_vs_iq4nl_1t"]
        few = repeated(made, SMALL // MADE)
        packed = peers["iq4_nl"][: peers["iq4_nl"].numel() // (ROWS // SMALL)]
        keys |= {f"gemm{count}_vs_iq4nl": tokens(few, packed, count, rounds) for count in (8, 64)}
    return keys | beside_python(weight.repeat(SMALL // MADE, 1), rounds)
