"""How many of which pipelines, as a mixed integer programme for HiGHS: larger fleets than brute force can look at.

Run as a process of its own, for highspy and ortools do not load into one: an instance as JSON on the standard input,
`use` [group][pipeline], `there` [group], `value` [pipeline]; the most value within the cards on the standard output, 0
where no choice is within them. Shares nothing with the planner.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def most_together(value: Sequence[float], use: Sequence[Sequence[float]], there: Sequence[float]) -> float:
    """The most value of whole pipelines within the cards, by HiGHS in another process."""
    text = json.dumps({"value": list(value), "use": [list(row) for row in use], "there": list(there)})
    ran = subprocess.run([sys.executable, Path(__file__)], input=text, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def solved(value: Sequence[float], use: Sequence[Sequence[float]], there: Sequence[float]) -> float:
    """The same in this process, proved to a thousandth of one sequence."""
    import highspy

    if not value:
        return 0.0
    model = highspy.Highs()
    for name, option in (("output_flag", False), ("threads", 1), ("mip_rel_gap", 0.0), ("mip_abs_gap", 1e-3)):
        model.setOptionValue(name, option)
    counts = [model.addIntegral(lb=0, obj=-each) for each in value]
    for row, most in zip(use, there, strict=True):
        model.addConstr(sum(n * count for n, count in zip(row, counts, strict=True) if n) <= most)
    model.run()
    if model.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return 0.0
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS ends with {model.modelStatusToString(model.getModelStatus())}")
    return -model.getObjectiveValue()


if __name__ == "__main__":
    print(solved(**json.load(sys.stdin)))
