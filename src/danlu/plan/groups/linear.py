"""A linear programme with few rows: most value of columns within what there is of each resource, and fair prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from danlu.plan.groups.stage_ways import Floats, Ints

TURNS = 2_000


@dataclass(frozen=True, slots=True)
class Optimum:
    """value; amounts (columns,); prices (rows,) of one more of each resource; basis (rows,) to begin the next one from,
    columns and, behind them, what is left of each resource."""

    value: float
    amounts: Floats
    prices: Floats
    basis: Ints


def most(value: Floats, use: Floats, there: Floats, basis: Ints | None = None) -> Optimum:
    """Maximise value @ x with use @ x <= there and x >= 0: the revised simplex method.

    value  (columns,)
    use    (rows, columns), not negative, each column with some entry above 0
    there  (rows,) not negative
    basis  of the optimum of other values, with the same use and there
    """
    rows, columns = use.shape
    table = np.concatenate([use, np.eye(rows)], axis=1)
    gain = np.concatenate([value, np.zeros(rows)])
    basis = np.arange(columns, columns + rows) if basis is None else basis.copy()
    for turn in range(TURNS):
        inverse = np.linalg.inv(table[:, basis])
        amounts, prices = inverse @ there, gain[basis] @ inverse
        better = gain - prices @ table
        # The steepest column first; after many turns the first one, which cannot cycle (Bland).
        enter = int(np.argmax(better)) if turn < TURNS // 2 else int(np.argmax(better > 1e-9))
        if better[enter] <= 1e-9 * max(1.0, float(np.abs(gain).max())):
            break
        move = inverse @ table[:, enter]
        falls = move > 1e-12
        ratio = np.where(falls, np.maximum(amounts, 0.0) / np.where(falls, move, 1.0), np.inf)
        basis[int(np.argmin(ratio))] = enter
    found = np.zeros(columns + rows)
    found[basis] = np.maximum(amounts, 0.0)
    return Optimum(float(gain @ found), found[:columns], np.maximum(prices, 0.0), basis)
