"""One card alone: tokens/s of our training loop against a plain torch loop of transformers' Llama; what halves cost.

Same sizes, dtype (fp32), batch and length, one thread, forward + backward + AdamW (torch's fused), interleaved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

MODEL = {"layers": 6, "hidden": 256, "heads": 8, "kv_heads": 8, "head_dim": 32, "ffn": 704, "vocab": 4096}
BATCH, SEQ = 1, 256


def measure(rounds: int) -> dict[str, Any]:
    """Keys: tokens_vs_eager, tokens_vs_compiled (absent where torch cannot compile), split_cost."""
    from danlu.cli.output import table
    from danlu.fleet.probe import ENVIRONMENT

    root = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    asked = subprocess.run(
        [sys.executable, __file__, str(10 * max(rounds, 2))], env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    took = json.loads(asked.stdout.splitlines()[-1])
    rows = [
        [name, f"{1e3 * each:.1f} ms", f"{BATCH * SEQ / each:,.0f}", f"{took['danlu'] / each:.2f}"]
        for name, each in took.items()
    ]
    print(table(["one card", "step", "tokens/s", "speed, danlu 1"], rows))
    keys = {"tokens_vs_eager": took["eager"] / took["danlu"], "split_cost": took["danlu, halves"] / took["danlu"] - 1}
    if "compiled" in took:
        keys["tokens_vs_compiled"] = took["compiled"] / took["danlu"]
    return keys


def main(rounds: int) -> None:
    """Median thread seconds of a step of every way, in turn, as JSON."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.randint(0, MODEL["vocab"], (BATCH, SEQ + 1))
    ways = {"danlu": ours(rows, later=False), "danlu, halves": ours(rows, later=True), "eager": theirs(rows, False)}
    for name, way in ways.items():
        print(f"{name}: loss {way():.4f}", file=sys.stderr)
    try:
        compiled = theirs(rows, True)
        compiled()
        ways["compiled"] = compiled
    except Exception as error:  # no compiler, or a torch that cannot: its row is absent, and this says why
        print(f"torch.compile: {type(error).__name__}: {error}", file=sys.stderr)
    for way in ways.values():
        way()
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.thread_time()
            way()
            took[name].append(time.thread_time() - begun)
    print(json.dumps({name: median(each) for name, each in took.items()}))


def ours(rows: Any, *, later: bool) -> Callable[[], float]:
    """One step of ours: `later` with every backward in two halves."""
    import torch.nn.functional as F

    from danlu.model.halves import Halves
    from danlu.model.net import Causal, Decoder, init
    from danlu.nouns import ModelSpec
    from danlu.train.optim import AdamW

    decoder = Decoder(ModelSpec("llama", positions=SEQ, **MODEL))
    init(decoder, 0)
    optimizer, halves, state = AdamW(decoder, weight_decay=0.1), Halves(), Causal(BATCH, SEQ)
    decoder.halve(halves)
    halves.later = later
    meta = state.meta()

    def step() -> float:
        loss = F.cross_entropy(decoder(rows[:, :-1].reshape(-1), state, meta).float(), rows[:, 1:].reshape(-1))
        loss.backward()
        for left in halves.take():
            left.run()
        optimizer.norm_squared(None)
        optimizer.update(1e-4, 0.5)
        return float(loss.detach())

    return step


def theirs(rows: Any, compiled: bool) -> Callable[[], float]:
    """One step of transformers' Llama in a plain loop."""
    import torch
    import torch.nn.functional as F
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=MODEL["hidden"], intermediate_size=MODEL["ffn"], num_hidden_layers=MODEL["layers"],
        num_attention_heads=MODEL["heads"], num_key_value_heads=MODEL["kv_heads"], vocab_size=MODEL["vocab"],
        max_position_embeddings=SEQ, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = run(input_ids=rows[:, :-1]).logits
        loss = F.cross_entropy(logits.float().view(-1, MODEL["vocab"]), rows[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main(int(sys.argv[1]))
