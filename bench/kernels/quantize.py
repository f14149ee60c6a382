"""Quantizing one real-size tensor with scale search, beside llama.cpp's IQ4_NL; one thread each, and what is lost."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from danlu.cli import bench
from danlu.cli.output import table
from danlu.kernels import codebooks, q4

ggml = bench.load("peers/ggml")
SHAPE = (2_048, 11_008)  # half of a 7B model's down projection


def sqnr_db(weight: Tensor, w: q4.Q4) -> float:
    """Energy of the weights over that of what quantizing changed."""
    return float(10 * torch.log10(weight.square().sum() / (q4.dequantize(w) - weight).square().sum()))


def measure(rounds: int) -> dict[str, Any]:
    """Keys: quantize_vs_llamacpp, quantize_mparams_s, sqnr_db (the best of sqnr_db.NAME), bits.NAME."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    tails = torch.distributions.StudentT(5.0).sample(SHAPE)
    seconds: list[float] = []
    theirs: list[float] = []
    codebooks.quantize(weight[:64], "fitted", threads=1)
    for turn in range(min(rounds, 3)):
        began = time.perf_counter()
        codebooks.quantize(weight, "fitted", threads=1)
        seconds.append(time.perf_counter() - began)
        if turn == 0 and ggml.library() is not None:
            began = time.perf_counter()
            ggml.quantize(weight, "iq4_nl")
            theirs.append(time.perf_counter() - began)
    rate = weight.numel() / statistics.median(seconds)
    keys: dict[str, Any] = {"quantize_mparams_s": rate / 1e6}
    rows = []
    for name in sorted(codebooks.CODEBOOKS):
        for words, tries in (("search", codebooks.TRIES), ("largest", ())):
            w = codebooks.quantize(weight, name, tries)
            heavy = sqnr_db(tails, codebooks.quantize(tails, name, tries))
            found, bits = sqnr_db(weight, w), q4.bits_per_weight(w)
            rows.append([f"{name}, {words}", f"{bits:.3f}", f"{found:.2f}", f"{heavy:.2f}"])
            if tries:
                keys |= {f"sqnr_db.{name}": found, f"bits.{name}": bits}
    keys["sqnr_db"] = max(value for key, value in keys.items() if key.startswith("sqnr_db."))
    print(table(["codebook, scale", "bits", "Gaussian, dB", "Student-t(5), dB"], rows))
    print(f"\nfitted with search: {rate / 1e6:.0f} M parameters/s on one thread", end="")
    if theirs:
        keys["quantize_vs_llamacpp"] = rate * statistics.median(theirs) / weight.numel()
        print(f"; llama.cpp IQ4_NL: {weight.numel() / theirs[0] / 1e6:.1f}", end="")
    print()
    assert math.isfinite(keys["sqnr_db"])
    return keys
