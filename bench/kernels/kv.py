"""Keys and values in 8 bits beside fp32 and bf16: bytes a token, and how far the words are, on a trained model."""

from __future__ import annotations

import tempfile
from pathlib import Path
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


def measure(rounds: int) -> dict[str, Any]:
    """Keys: kl_kv_int8, kl_kv_bf16: mean KL in nats to fp32 keys and values, held-out text; kv_int8_bytes of bf16's."""
    trained = bench.load("parts/trained_model")
    with tempfile.TemporaryDirectory() as place:
        held = trained.train(Path(place))
        spec, weights = spec_of(Path(place)), mapped(Path(place), torch.float32)
        pages = -(-trained.SEQ // PAGE)
        runners = {name: Runner(lower(spec), weights, Paged(spec, pages, dtype=dtype).cache, precision="fp32")
                   for name, dtype in DTYPES.items()}  # fmt: skip
        apart = dict.fromkeys(DTYPES, 0.0)
        with torch.inference_mode():
            for row in held:
                said = {name: words(runner, row[0, :-1].tolist()) for name, runner in runners.items()}
                for name, each in said.items():
                    divergence = F.kl_div(each, said["fp32"], reduction="batchmean", log_target=True)
                    apart[name] += float(divergence) / len(held)
    sizes = {name: page_bytes(spec, dtype) / PAGE for name, dtype in DTYPES.items()}
    print(table([f"{spec.params / 1e6:.1f} M parameters, KV in", "bytes a token", "KL, nats"],
                [[name, f"{sizes[name]:.0f}", f"{apart[name]:.2e}"] for name in DTYPES]))  # fmt: skip
    return {"kl_kv_int8": apart["int8"], "kl_kv_bf16": apart["bf16"], "kv_int8_bytes": sizes["int8"] / sizes["bf16"]}


def words(runner: Runner, tokens: list[int]) -> Tensor:
    """Log probabilities behind every token."""
    step = Step(tokens, [Piece(range(-(-len(tokens) // PAGE)), 0, len(tokens))], range(len(tokens)))
    return F.log_softmax(runner.run(step).double(), -1)
