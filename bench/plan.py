"""How good the planner is: its predictor against published runs. Each part of PARTS adds keys and a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from danlu.cli.output import table
from danlu.cli.plan_check import rated
from danlu.plan import rows, score

TRUTH = Path(__file__).parent / "truth"
CALIBRATED = 3  # rows a card


def truth(_rounds: int) -> dict[str, Any]:
    """Keys: time_mape_loso, time_mape_calibrated, time_mape_fivefold (means over sources), time_worst_source, tau_min
    (of the first), memory_mape_formula, _allocated, _device, _reserved, false_fits (a count), false_refusals (a share),
    interval_coverage (of 80 % intervals, from the other sources' errors).
    Nothing here is timed, so that rounds change nothing.
    """
    found = [row for path in sorted(TRUTH.glob("*.csv")) for row in rows.read(path)]
    left_out = score.figures(score.score(found, rated, leave_out=True))
    calibrated = score.figures(score.score(found, rated, leave_out=True, calibrate=CALIBRATED))
    folded = score.figures(score.score(found, rated, folds=5))
    every = {"leave one source out": left_out, f"and {CALIBRATED} rows a card": calibrated, "five folds": folded}
    sources = list(left_out["sources"])
    print(table(["constants of time seen by", "mean", *sources, "least tau"], [
        [name, f"{each['time_mape']:.2%}", *(_percent(each["sources"][s]["time_mape"]) for s in sources),
         f"{each['tau_min']:.3f}"] for name, each in every.items()
    ]))  # fmt: skip
    memory = {f"memory_mape_{kind}": left_out["memory_mape"][kind] for kind in score.MEMORY}
    print("bytes: " + ", ".join(f"{name.removeprefix('memory_mape_')} {_percent(v)}" for name, v in memory.items()))
    print(f"cards of 0.9 of the measured peak: {left_out['false_fits']} of {left_out['capacity_rows']} runs accepted; "
          f"of 1.15: {_percent(left_out['false_refusals'])} refused")  # fmt: skip
    return {
        "time_mape_loso": left_out["time_mape"], "time_mape_calibrated": calibrated["time_mape"],
        "time_mape_fivefold": folded["time_mape"], "time_worst_source": left_out["time_worst_source"],
        "tau_min": left_out["tau_min"], **memory, "false_fits": left_out["false_fits"],
        "false_refusals": left_out["false_refusals"], "interval_coverage": left_out["interval_coverage"],
    }  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


PARTS: tuple[Callable[[int], dict[str, Any]], ...] = (truth,)


def measure(rounds: int) -> dict[str, Any]:
    """The keys of every part."""
    keys: dict[str, Any] = {}
    for part in PARTS:
        keys |= part(rounds)
    return keys
