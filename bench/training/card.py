"""One card alone: tokens/s of our training loop against a plain torch loop of transformers; what halves cost.

Llama in fp32 and bf16, two mixtures in fp32. Same sizes, dtype, batch and length, one thread, forward + backward +
AdamW (torch's fused), interleaved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from danlu.nouns import ModelSpec

BATCH, SEQ = 1, 256
LLAMA = ModelSpec("llama", 6, 256, 8, 8, 32, 704, 4096, SEQ)
MIXTURES = {
    "2 of 8 experts": replace(LLAMA, family="mixtral", ffn=256, experts=8, experts_used=2, recipe=("attn", "moe")),
    "4 of 32 experts": replace(LLAMA, family="qwen3_moe", ffn=96, experts=32, experts_used=4, qk_norm=True,
                               recipe=("attn", "moe")),
}  # fmt: skip
NARROW = 4  # rounds of bf16: transformers' step takes seconds where the CPU has no instructions for it


def measure(rounds: int) -> dict[str, Any]:
    """Keys: tokens_vs_eager, tokens_vs_compiled (absent where torch cannot compile), split_cost; tokens_vs_eager_bf16;
    tokens_vs_eager_moe, the worst of the mixtures, and of each.
    """
    from danlu.cli.output import table
    from danlu.fleet.probe import ENVIRONMENT

    root = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    asked = subprocess.run(
        [sys.executable, __file__, str(10 * max(rounds, 2))], env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    took = json.loads(asked.stdout.splitlines()[-1])
    rows = [[name, f"{1e3 * each:.1f} ms", f"{BATCH * SEQ / each:,.0f}", f"{took[_ours(name)] / each:.2f}"]
            for name, each in took.items()]  # fmt: skip
    print(table(["one card", "step", "tokens/s", "speed, danlu 1"], rows))
    keys = {"tokens_vs_eager": took["eager"] / took["danlu"], "split_cost": took["danlu, halves"] / took["danlu"] - 1,
            "tokens_vs_eager_bf16": took["eager, bf16"] / took["danlu, bf16"]}  # fmt: skip
    if "compiled" in took:
        keys["tokens_vs_compiled"] = took["compiled"] / took["danlu"]
    each = {f"tokens_vs_eager_moe.{name}": took[f"eager, {name}"] / took[f"danlu, {name}"] for name in MIXTURES}
    return {**keys, **each, "tokens_vs_eager_moe": min(each.values())}


def _ours(name: str) -> str:
    """The way of ours that a way is beside."""
    return "danlu" + name[name.index(",") :] if "," in name else "danlu"


def main(rounds: int) -> None:
    """Median thread seconds of a step of every way, in turn, as JSON."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.randint(0, LLAMA.vocab, (BATCH, SEQ + 1))
    ways = {"danlu": ours(rows, LLAMA), "danlu, halves": ours(rows, LLAMA, later=True), "eager": theirs(rows, LLAMA)}
    try:
        compiled = theirs(rows, LLAMA, compiled=True)
        compiled()
        ways["compiled"] = compiled
    except Exception as error:  # no compiler, or a torch that cannot: its row is absent, and this says why
        print(f"torch.compile: {type(error).__name__}: {error}", file=sys.stderr)
    for name, spec in MIXTURES.items():
        ways |= {f"danlu, {name}": ours(rows, spec), f"eager, {name}": theirs(rows, spec)}
    narrow = {"danlu, bf16": ours(rows, LLAMA, dtype=torch.bfloat16),
              "eager, bf16": theirs(rows, LLAMA, dtype=torch.bfloat16)}  # fmt: skip
    print(json.dumps(timed(ways, rounds) | timed(narrow, min(rounds, NARROW))))


def timed(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median thread seconds of a step of every way, in turn, after a warm one."""
    for name, way in ways.items():
        print(f"{name}: loss {way():.4f}", file=sys.stderr)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.thread_time()
            way()
            took[name].append(time.thread_time() - begun)
    return {name: median(each) for name, each in took.items()}


def ours(rows: Any, spec: ModelSpec, *, later: bool = False, dtype: Any = None) -> Callable[[], float]:
    """One step of ours: `later` with every backward in two halves; `dtype` torch's, fp32 where there is none."""
    import torch
    import torch.nn.functional as F

    from danlu.model.halves import Halves
    from danlu.model.net import Causal, Decoder, init
    from danlu.train.optim import AdamW

    decoder = Decoder(spec, dtype=dtype or torch.float32)
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
        optimizer.collect()
        optimizer.norm_squared(None)
        optimizer.update(1e-4, 0.5)
        return float(loss.detach())

    return step


def theirs(rows: Any, spec: ModelSpec, *, compiled: bool = False, dtype: Any = None) -> Callable[[], float]:
    """One step of transformers' model of the family in a plain loop."""
    import torch
    import torch.nn.functional as F
    import transformers

    kind = {"llama": "Llama", "mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe"}[spec.family]
    sizes = {
        "hidden_size": spec.hidden, "intermediate_size": spec.ffn, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_dim,
        "vocab_size": spec.vocab, "max_position_embeddings": SEQ, "tie_word_embeddings": False,
    }  # fmt: skip
    if spec.experts:
        sizes |= {"num_local_experts": spec.experts, "num_experts": spec.experts, "moe_intermediate_size": spec.ffn,
                  "num_experts_per_tok": spec.experts_used, "norm_topk_prob": spec.norm_topk}  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
    model = model.to(dtype or torch.float32)
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = run(input_ids=rows[:, :-1]).logits
        loss = F.cross_entropy(logits.float().view(-1, spec.vocab), rows[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main(int(sys.argv[1]))
