"""The same for models, fleets and ways to share that no cost was ever looked at with: a check of the forecast's terms.

Biases and grouped heads as Qwen2 has them, Yuan's local filter, long and short sequences, odd widths, slow links
between equal cards, two copies of a pipeline, two cards of unlike speed that share layers, products in emulated 8 bits.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.cli import config, wiring
from danlu.cli.bench import load
from danlu.nouns import Fleet, ModelSpec, Plan
from danlu.plan import splits
from danlu.plan.candidates import Ask
from danlu.plan.ranks import copies, tensor_search

COUNT = 12
QWEN = {"family": "qwen2", "layers": 5, "hidden": 224, "heads": 7, "kv_heads": 1, "ffn": 608, "tied": True}
YUAN = {"family": "yuan", "layers": 3, "hidden": 256, "heads": 4, "kv_heads": 4, "ffn": 512}
NORMED = {"family": "qwen3", "layers": 4, "hidden": 192, "heads": 6, "kv_heads": 2, "ffn": 576}
WIDE = {"layers": 2, "hidden": 448, "heads": 7, "kv_heads": 7, "ffn": 1152}
SMALL = {"layers": 9, "hidden": 96, "heads": 3, "kv_heads": 3, "ffn": 320}
SLOW = 4e6  # bytes/s: a message of a micro-batch takes about as long as a layer
Case = tuple[list[int], str, dict[str, Any], int, str]  # speeds, name, model, sequence, how it is planned
CASES: tuple[Case, ...] = (
    ([2, 1], "Qwen2, 5 of 224, biases", QWEN, 160, "fp32"),
    ([3, 2], "Yuan, 3 of 256, local filter", YUAN, 128, "fp32"),
    ([5, 3, 2, 1], "Qwen3, 4 of 192, head norms", NORMED, 128, "fp32"),
    ([2, 1, 1], "2 of 448", WIDE, 96, "fp32"),
    ([4, 1], "9 of 96, 64 tokens", SMALL, 64, "fp32"),
    ([3, 2, 1], "Qwen3, 512 tokens", NORMED, 512, "fp32"),
    ([1, 1, 1], "Qwen2, slow link", QWEN, 128, "slow link"),
    ([1, 1, 1, 1], "9 of 96, two copies", SMALL, 128, "copies"),
    ([2, 1], "Qwen3, layers shared", NORMED, 128, "tensor"),
    ([2, 1], "2 of 448, bf16", WIDE, 128, "bf16"),
    ([2, 1], "9 of 96, emulated fp8", SMALL, 128, "fp8-emulated"),
)


def measure(rounds: int) -> dict[str, Any]:
    """Keys: held_out_error, the largest; and those of forecast_rows.compared.

    rounds  runs of each case
    """
    rows, runs = load("training/forecast_rows"), load("training/real_runs")
    with tempfile.TemporaryDirectory() as folder:
        out, cases = runs.prepared(Path(folder)), []
        for speeds, name, model, seq, way in CASES:
            run = config.load(None, environ={}, base={
                "out": str(out), "model": model, "fleet": {"emulate": speeds}, "plan": {"micro_batch": 1},
                "data": {"tokens": str(out / "tokens"), "seq": seq},
            })  # fmt: skip
            fleet = wiring.fleet_of(run, lambda text: None)
            plan = planned(wiring.spec_of(run), fleet, seq, way)
            cases.append(rows.Case(":".join(map(str, speeds)), name, run, plan))
        keys, errors = rows.compared("held_out", cases, rounds)
    return keys | {"held_out_error": max(errors.values())}


def planned(spec: ModelSpec, fleet: Fleet, seq: int, way: str) -> Plan:
    """The best plan of one way: one pipeline in a dtype or over slow links, copies, or cards that share layers."""
    if way in ("copies", "tensor"):
        found = (copies if way == "copies" else tensor_search).best(Ask(spec, 1, COUNT, seq, "fp32"), fleet, 2)
        assert found is not None
        return found
    if way == "slow link":
        fleet = replace(fleet, links=tuple(replace(link, bandwidth=SLOW) for link in fleet.links))
    dtype = "fp32" if way == "slow link" else way
    return splits.search(spec, fleet, micro_batch=1, micro_batches=COUNT, seq=seq, dtype=dtype)
