"""The unequal against the even split, and the forecast against the measured step, on emulated fleets, in turn."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from danlu.cli import config, prep, train, wiring
from danlu.cli.output import span, table

MODELS = {
    "6 layers, width 128": {"layers": 6, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn": 384},
    "4 layers, width 256": {"layers": 4, "hidden": 256, "heads": 4, "kv_heads": 4, "ffn": 704},
}
FLEETS = {"4:2:2": [4, 2, 2], "2:1": [2, 1]}
STEPS = 12


def measure(rounds: int) -> dict[str, Any]:
    """Keys: even_over_best (least gain of any case), forecast_error (largest), and both per case."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        prep.prepare(config.load(None, environ={}, base={"out": str(out), "data": {"limit_mb": 4}}))
        found = {
            (model, fleet): [_round(out, model, fleet, number) for number in range(rounds)]
            for model in MODELS
            for fleet in FLEETS
        }
    rows, keys = [], {}
    for (model, fleet), each in found.items():
        gain = statistics.median(even / best for _, best, even in each)
        errors = [forecast / best - 1 for forecast, best, _ in each]
        error = statistics.median(errors)
        name = f"{model}, {fleet}"
        keys |= {f"even_over_best.{name}": gain, f"forecast_error.{name}": error}
        step = span(statistics.median(best for _, best, _ in each))
        rows.append([name, step, f"{gain:.2f}x", f"{error:+.1%}", f"{min(errors):+.1%} .. {max(errors):+.1%}"])
    print(table(["case (emulated)", "step", "even / best", "forecast error", "over rounds"], rows))
    gains = [value for key, value in keys.items() if key.startswith("even")]
    errors = [abs(value) for key, value in keys.items() if key.startswith("forecast")]
    return {"even_over_best": min(gains), "forecast_error": max(errors), **keys}


def _round(out: Path, model: str, fleet: str, number: int) -> tuple[float, float, float]:
    """(forecast, measured best, measured even) seconds of a step, the machine probed anew."""
    here = out / f"{model}-{fleet}-{number}".replace(" ", "").replace(":", "-")
    run = config.load(None, environ={}, base={
        "out": str(here), "model": MODELS[model], "fleet": {"emulate": FLEETS[fleet]},
        "data": {"tokens": str(out / "tokens")}, "train": {"steps": STEPS, "save_every": 100},
    })  # fmt: skip
    spec, cards = wiring.spec_of(run), wiring.fleet_of(run, lambda text: None)
    best = wiring.plan_of(run, spec, cards)
    even = wiring.plan_of(run.model_copy(update={"plan": run.plan.model_copy(update={"split": "even"})}), spec, cards)
    assert best.forecast is not None
    steps = [
        train.train_run(run.model_copy(update={"out": here / name}), plan, name=name).step_s
        for name, plan in (("best", best), ("even", even))
    ]
    return best.forecast.step_s, steps[0], steps[1]
