"""Keys and values in 8 bits beside fp32 and bf16: bytes a token, and how far the words are, on a trained model."""

from __future__ import annotations

import os
import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.cli import bench
from danlu.cli.output import table
from danlu.kernels.lower import lower
from danlu.kernels.runner import Runner
from danlu.kernels.step import Piece, Step
from danlu.model.load import spec_of
from danlu.model.mapped import mapped
from danlu.serve.kv import PAGE, Paged, page_bytes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
SEQUENCES = 48


def measure(rounds: int) -> dict[str, Any]:
    """Keys: kl_kv_int8, kl_kv_bf16: mean KL in nats to fp32 keys and values, held-out text; kv_int8_bytes of bf16's."""
    trained = bench.load("parts/trained_model")
    folder, tokens = trained.trained()
    spec, weights = spec_of(folder), mapped(folder, torch.float32)
    pages = -(-trained.SEQ // PAGE)
    runners = {name: Runner(lower(spec), weights, Paged(spec, pages, dtype=dtype).cache, precision="fp32")
               for name, dtype in DTYPES.items()}  # fmt: skip
    apart: dict[str, list[float]] = {name: [] for name in DTYPES}
    with torch.inference_mode():
        for row in trained.windows(tokens, SEQUENCES, int.from_bytes(os.urandom(4), "little")):
            said = {name: words(runner, row[:-1].tolist()) for name, runner in runners.items()}
            for name, each in said.items():
                apart[name].append(float(F.kl_div(each, said["fp32"], reduction="batchmean", log_target=True)))
    kl = {name: statistics.mean(each) for name, each in apart.items()}
    sizes = {name: page_bytes(spec, dtype) / PAGE for name, dtype in DTYPES.items()}
    rows = [[name, f"{sizes[name]:.0f}", f"{kl[name]:.2e}", f"{max(apart[name]):.2e}"] for name in DTYPES]
    head = [f"{spec.params / 1e6:.1f} M parameters, KV in", "bytes a token", "KL, nats", "most of a sequence"]
    print(table(head, rows))
    return {"kl_kv_int8": kl["int8"], "kl_kv_bf16": kl["bf16"], "kv_int8_bytes": sizes["int8"] / sizes["bf16"]}


def words(runner: Runner, tokens: list[int]) -> Tensor:
    """Log probabilities behind every token."""
    step = Step(tokens, [Piece(range(-(-len(tokens) // PAGE)), 0, len(tokens))], range(len(tokens)))
    return F.log_softmax(runner.run(step).double(), -1)
