"""How near the forecast of a step comes to real runs of `danlu train`: three unlike fleets, five models each.

Pipelines, of one model also copies over parts of the cards, of a dense one and a mixture also a run in bf16, on
emulated (paced) cards, planned from one probe of this machine for each fleet and the model's numbers alone: nothing of
a run is known when its forecast is made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.cli import config, prep, wiring
from danlu.cli.bench import load
from danlu.nouns import Fleet, ModelSpec, Plan
from danlu.plan import splits
from danlu.plan.candidates import Ask
from danlu.plan.ranks import copies

FLEETS = {"2:1": [2, 1], "2:1:1": [2, 1, 1], "5:3:2:1": [5, 3, 2, 1]}
MODELS: dict[str, dict[str, Any]] = {
    "8 layers of 192": {"layers": 8, "hidden": 192, "heads": 6, "kv_heads": 6, "ffn": 512, "tied": False},
    "4 layers of 320, tied": {"layers": 4, "hidden": 320, "heads": 5, "kv_heads": 5, "ffn": 832, "tied": True},
    "12 layers of 128, 2 KV heads": {"layers": 12, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn": 384, "tied": False},
    "4 layers of 128, 2 of 8 experts": {"family": "mixtral", "layers": 4, "hidden": 128, "heads": 4, "kv_heads": 4,
                                        "ffn": 256, "experts": 8, "experts_used": 2, "tied": False},
    "4 layers of 128, 4 of 32 experts": {"family": "qwen3_moe", "layers": 4, "hidden": 128, "heads": 4, "kv_heads": 4,
                                         "ffn": 96, "experts": 32, "experts_used": 4, "tied": False},
}  # fmt: skip
BF16 = ("8 layers of 192", "4 layers of 128, 2 of 8 experts")
VOCAB, SEQ, COUNT = 2048, 128, 12


def measure(rounds: int, dense: bool = True) -> dict[str, Any]:
    """Keys: real_run_error (largest of dense models in fp32), and those of forecast_rows.compared; of the other runs
    real_run_error_moe (largest of mixtures in fp32) and real_run_error_bf16 (of all in bf16).

    rounds  runs of each case; 1 for a quick look at the first fleet;  dense  False for the other runs
    """
    rows = load("training/forecast_rows")
    with tempfile.TemporaryDirectory() as folder:
        out = prepared(Path(folder))
        fleets = FLEETS if rounds > 1 else {"2:1": FLEETS["2:1"]}
        cases = []
        for fleet, speeds in fleets.items():
            for model, sizes in MODELS.items():
                run = config.load(None, environ={}, base={
                    "out": str(out), "model": sizes, "fleet": {"emulate": speeds}, "plan": {"micro_batch": 1},
                    "data": {"tokens": str(out / "tokens"), "seq": SEQ},
                })  # fmt: skip
                spec, cards = wiring.spec_of(run), wiring.fleet_of(run, lambda text: None)
                cases += [rows.Case(fleet, name, run, plan) for name, plan in plans(spec, cards, model)
                          if (kind_of(name) == "") == dense]  # fmt: skip
        keys, errors = rows.compared("real_run", cases, rounds)
    if not dense:
        keys["real_run_other_quiet"] = keys.pop("real_run_quiet")
    worst = dict[str, float]()
    for name, error in errors.items():
        key = f"real_run_error{kind_of(name)}"
        worst[key] = max(error, worst.get(key, 0.0))
    return keys | worst


def kind_of(name: str) -> str:
    """What the key of the largest error of such runs ends in."""
    return "_bf16" if name.endswith("bf16") else "_moe" if "experts" in name else ""


def prepared(out: Path) -> Path:
    """A folder with tokens of VOCAB words; the first fleet that is asked for there is measured and kept."""
    prep.prepare(config.load(None, environ={}, base={"out": str(out), "data": {"limit_mb": 4, "vocab": VOCAB}}))
    return out


def plans(spec: ModelSpec, cards: Fleet, model: str) -> Iterator[tuple[str, Plan]]:
    """One pipeline; of the first model also copies, data-parallel over parts of the cards; of those of BF16 in bf16."""
    yield model, splits.search(spec, cards, micro_batch=1, micro_batches=COUNT, seq=SEQ)
    if model == next(iter(MODELS)):
        several = copies.best(Ask(spec, 1, COUNT, SEQ, "fp32"), cards, len(cards.cards))
        assert several is not None
        yield f"{model}, copies", several
    if model in BF16:
        yield f"{model}, bf16", splits.search(spec, cards, micro_batch=1, micro_batches=COUNT, seq=SEQ, dtype="bf16")
