"""Seconds of a unit on a card, from the model's numbers and the card's rates alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from danlu import recipe
from danlu.nouns import DTYPE_BYTES, FP8, Card, ModelSpec, Rate, kept_as
from danlu.plan import operators
from danlu.plan.memory import unit_activation_bytes
from danlu.plan.operator import Operator


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What one unit costs on one card.

    forward_s, backward_s  seconds on one micro-batch; those of the head include the loss
    weight_s               the part of backward_s that can be left for later: the gradients of its matrices
    split_s                what leaving it costs
    norm_s, optimizer_s    seconds of its part of the gradient's norm and of the optimizer step
    params                 parameters it holds
    activation_bytes       what it keeps for the backward of one micro-batch
    """

    forward_s: float
    backward_s: float
    norm_s: float
    optimizer_s: float
    params: int
    activation_bytes: int
    weight_s: float = 0.0
    split_s: float = 0.0


def unit_costs(spec: ModelSpec, card: Card, micro_batch: int, seq: int, dtype: str = "fp32") -> tuple[UnitCost, ...]:
    """The cost of every unit of the model on a card, in the units' order.

    A card with rates is charged operator by operator at the rate of its shape; one that has none (declared flops and
    mem_bw only) max(FLOP / flops, bytes / mem_bw) for each operator (the roofline, Williams 2009). Products in 8 bits
    are charged what rounding moves, too: of inputs and gradients in every pass, of weights once a step.
    """
    plain, state = Rates(card, kept_as(dtype)), Rates(card, "fp32")
    narrow = Rates(card, dtype) if rounds(card, dtype) else plain
    kinds: dict[str, UnitCost] = {}
    for unit in spec.units:
        kind = unit.rsplit(".", 1)[-1]
        if kind in kinds:
            continue
        table = plain if kind in ("embed", "head") else narrow
        ahead, behind = (each(spec, unit, micro_batch, seq) for each in (operators.forward, operators.backward))
        split = table.seconds(operators.split(behind))
        parts: Sequence[Sequence[Operator]] = (ahead, behind, operators.weights(behind))
        if table is not plain:
            parts = tuple(operators.rounded(each, emulates(card)) for each in parts)
        forward, backward, later = (table.seconds(each) for each in parts)
        params = spec.unit_params(unit)
        norm, step = (state.seconds(each(params, spec.params)) for each in (operators.norm, operators.step))
        if dtype != "fp32":
            collect, rounded = operators.mixed(params, spec.params)
            backward, later = backward + plain.seconds(collect), later + plain.seconds(collect)
            step += state.seconds(rounded)
        if table is not plain:
            step += table.seconds(operators.rounding(recipe.weights(spec, kind)))
        kept = unit_activation_bytes(spec, unit, micro_batch, seq, dtype)
        kinds[kind] = UnitCost(forward, backward, norm, step, params, kept, later, split)
    return tuple(kinds[unit.rsplit(".", 1)[-1]] for unit in spec.units)


def entry_s(spec: ModelSpec, card: Card, micro_batch: int, seq: int, dtype: str) -> tuple[float, float]:
    """Seconds a stage's forward takes beside its units: always, and more when it holds attention."""
    rates = Rates(card, dtype)
    start = rates.seconds(operators.entry(spec, (), micro_batch, seq))
    return start, rates.seconds(operators.entry(spec, ("layers.0.attn",), micro_batch, seq)) - start


def tied_s(spec: ModelSpec, card: Card, dtype: str) -> float:
    """Seconds of adding the other end's gradient of a tied embedding."""
    return Rates(card, "fp32").seconds((operators.tied(spec),))


def rounds(card: Card, dtype: str) -> bool:
    """True where a card multiplies in 8 bits, or acts as if it did."""
    return dtype in FP8 and (dtype == "fp8-emulated" or "fp8" in card.flops)


def emulates(card: Card) -> bool:
    """True for a card that multiplies 8 bits widened to fp32, where it is asked to."""
    return "fp8" not in card.flops


class Rates:
    """A card's speed by operator and shape; a point between measured ones is interpolated in logarithms.

    In 8 bits are only the products of sub-layers; where these are emulated they go at the speed of fp32.
    """

    def __init__(self, card: Card, dtype: str) -> None:
        kept = kept_as(dtype)
        self._card, self._bytes = card, DTYPE_BYTES[kept]
        self._flops = self._products = _flops(card, kept)
        self._grids = _grids(card.rates, kept)
        if rounds(card, dtype):
            narrow = "fp32" if emulates(card) else "fp8"
            self._products = _flops(card, narrow)
            products = {op: grid for op, grid in _grids(card.rates, narrow).items() if op.startswith("matmul")}
            self._grids = {op: grid for op, grid in self._grids.items() if not op.startswith("matmul")} | products

    def seconds(self, ops: Sequence[Operator]) -> float:
        """Seconds of these operators one after the other."""
        return sum(op.times * self._one(op) for op in ops)

    def _one(self, op: Operator) -> float:
        grid = self._grids.get(op.op)
        if grid is not None:
            return op.work / interpolate(grid, op.shape)
        speed = self._products if op.op.startswith("matmul") else self._flops
        flop = op.work if operators.arithmetic(op.op) else 0.0
        return max(flop / speed, op.moved * self._bytes / self._card.mem_bw)


def _flops(card: Card, dtype: str) -> float:
    """FLOP/s in a dtype; a card that does not name it runs at its rate for the next wider one it has."""
    wider = [name for name in ("fp8", "int8", "nf4", "bf16", "fp16", "fp32") if DTYPE_BYTES[name] >= DTYPE_BYTES[dtype]]
    for name in (dtype, *wider):
        if name in card.flops:
            return card.flops[name]
    return min(card.flops.values())


Grid = dict[tuple[int, ...], float]


@lru_cache(maxsize=64)
def _grids(rates: tuple[Rate, ...], dtype: str) -> dict[str, Grid]:
    found: dict[str, Grid] = {}
    for rate in rates:
        if rate.dtype == dtype:
            found.setdefault(rate.op, {})[rate.shape] = rate.per_s
    return found


def interpolate(grid: Grid, shape: tuple[int, ...]) -> float:
    """Rate at `shape`: multilinear in the logarithms of sizes and rate between the points around it.

    Beyond the grid the rate is that of its edge. A corner that was not measured takes its nearest measured point's.
    """
    corners: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for axis, size in enumerate(shape):
        known = sorted({point[axis] for point in grid})
        low = max((each for each in known if each <= size), default=known[0])
        high = min((each for each in known if each >= size), default=known[-1])
        part = math.log(size / low) / math.log(high / low) if low < size < high else 0.0
        corners = [((*at, each), weight * share) for at, weight in corners
                   for each, share in ((low, 1.0 - part), (high, part)) if share > 0]  # fmt: skip
    return math.exp(sum(weight * math.log(_nearest(grid, at)) for at, weight in corners))


def _nearest(grid: Grid, at: tuple[int, ...]) -> float:
    if at in grid:
        return grid[at]
    return grid[min(grid, key=lambda point: sum(abs(math.log(a / b)) for a, b in zip(point, at, strict=True)))]
