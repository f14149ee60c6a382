"""Bytes a stage needs on its card."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from danlu import recipe
from danlu.nouns import DTYPE_BYTES, FP8, ModelSpec, kept_as
from danlu.plan.operators import fused, fused_experts


@dataclass(frozen=True, slots=True)
class StageBytes:
    """Peak bytes of one stage, by what they are for.

    activations  of all micro-batches in flight
    transient    logits and their gradient while the loss is computed, and the widest unit's gradients in a backward
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.transient


def stage_bytes(
    spec: ModelSpec, start: int, stop: int, *, in_flight: int, micro_batch: int, seq: int, dtype: str = "fp32",
    recomputed: int | None = None,
) -> StageBytes:  # fmt: skip
    """What the units [start, stop) need when `in_flight` micro-batches wait for their backward.

    recomputed  None where a forward keeps what its backward needs; else only its input is kept, and of so many
                micro-batches at once all that a second forward has made

    Weights and gradients are kept in `dtype`; Adam's two moments in fp32, and of what is not fp32 a master copy of the
    weights and the sum of gradients over the step. Of weights that are multiplied in 8 bits two copies in those.
    """
    size = DTYPE_BYTES[kept_as(dtype)]
    sums = _sums(spec, micro_batch, seq, dtype)
    params = sums.params[stop] - sums.params[start] + copied_params(spec, start, stop)
    kept = sums.kept[stop] - sums.kept[start]
    widest = max(wide for wide, count in sums.wide if count[stop] > count[start])
    if recomputed is None:
        activations = in_flight * kept
    else:
        activations = in_flight * micro_batch * seq * int(spec.hidden * size if start else 8) + recomputed * kept
    single = dtype == "fp32"
    gradients = int(params * (size if single else size + 4))
    weights = int(params * size) + rounded_bytes(spec, start, stop, dtype)
    return StageBytes(weights, gradients, params * (8 if single else 12), activations,
                      int(3 * micro_batch * seq * widest))  # fmt: skip


@lru_cache(maxsize=4096)
def rounded_bytes(spec: ModelSpec, start: int, stop: int, dtype: str) -> int:
    """Bytes of the two copies in 8 bits, their sides filled up to the grain of a card's product (model/fp8.py)."""
    if dtype not in FP8:
        return 0
    kinds = [recipe.kind_of(unit) for unit in spec.units[start:stop]]
    return sum(kinds.count(kind) * _rounded(spec, kind) for kind in set(kinds))


def _rounded(spec: ModelSpec, kind: str) -> int:
    sides = [each.shape for each in recipe.weights(spec, kind) if recipe.narrow(each)]
    return sum(2 * (rows + -rows % 16) * (columns + -columns % 16) for rows, columns in sides)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Over the first k units: parameters, bytes kept for one backward, how many units have rows of so many bytes."""

    params: tuple[int, ...]
    kept: tuple[int, ...]
    wide: tuple[tuple[float, tuple[int, ...]], ...]


@lru_cache(maxsize=64)
def _sums(spec: ModelSpec, micro_batch: int, seq: int, dtype: str) -> _Sums:
    def over(values: list[int]) -> tuple[int, ...]:
        return (0, *accumulate(values))

    units = spec.units
    size = DTYPE_BYTES[kept_as(dtype)]
    widths = [_widest(spec, unit) * (max(size, 4) if unit == "head" else size) for unit in units]  # its loss is in fp32
    return _Sums(
        over([spec.unit_params(unit) for unit in units]),
        over([unit_activation_bytes(spec, unit, micro_batch, seq, dtype) for unit in units]),
        tuple((wide, over([int(each == wide) for each in widths])) for wide in sorted(set(widths))),
    )


def copied_params(spec: ModelSpec, start: int, stop: int) -> int:
    """Parameters a stage holds a copy of: the embedding's, where a tied head is without it."""
    apart = spec.tied and stop == 2 + spec.layers * len(spec.recipe) and start > 0
    return spec.vocab * spec.hidden if apart else 0


def unit_activation_bytes(spec: ModelSpec, unit: str, micro_batch: int, seq: int, dtype: str) -> int:
    """Bytes of the tensors a unit's forward keeps for its backward (tests hold them to what autograd keeps).

    attn  its input, the norm's output, q and k after rotation (and before, where heads have norms), v, the heads'
          output, the angles; one that is not fused (model/fused.py) keeps the norm's output and the heads' twice
    mlp   its input, the norm's output, gate, up
    head  its input, the norm's output, the loss's logits; the norm's twice where it is cut (sharing.part_of marks that)
    lfa   attn's; the shifted input; the channels inside the filter, the same shifted; u + h, and its norm (twice)
    moe   its input, the norm's output, router's probabilities; per expert that runs: its tokens, gate, up, its result,
          five indices and weights; of the shared expert gate, up, its result. One whose experts are cut keeps the
          norm's output and results twice, and what the plain MLP keeps inside
    What products in 8 bits read is kept in those.
    """
    rows, hidden = micro_batch * seq, spec.hidden
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    match unit.rsplit(".", 1)[-1]:
        case "embed":
            numbers = 0.0
        case "head":
            numbers = rows * ((3 if spec.out_bias else 2) * hidden + spec.vocab + 4)
        case "attn" if fused(spec):
            turned = q + kv + spec.heads + spec.kv_heads if spec.qk_norm else 0
            numbers = rows * (2 * (hidden + q) + 2 * kv + spec.heads + 1 + 2 * spec.head_dim + turned)
        case "attn" | "lfa" as kind:
            extra = 2 * (q + kv) if spec.qk_norm else 0
            filtered = 4 * hidden + 2 * (hidden // 2) if kind == "lfa" else 0
            numbers = rows * (3 * hidden + 3 * q + 2 * kv + extra + filtered)
        case "mlp":
            numbers = rows * (2 * hidden + 2 * spec.ffn + 1)
        case "moe" if fused_experts(spec):
            shared = 2 * spec.shared_ffn + hidden + 2 if spec.shared_ffn else 0
            each = 2 * hidden + 2 * spec.ffn + 9
            numbers = rows * (2 * hidden + 2 + spec.experts + spec.experts_used * each + shared)
        case "moe":
            shared = 4 * spec.shared_ffn + hidden + 2 if spec.shared_ffn else 0
            each = 3 * hidden + 4 * spec.ffn + 9
            numbers = rows * (3 * hidden + spec.experts + spec.experts_used * each + shared)
        case _:
            raise KeyError(unit)
    wide = 0 if dtype == "fp32" else rows * _wide_bytes(spec, unit.rsplit(".", 1)[-1])
    narrow = _narrow(spec, unit.rsplit(".", 1)[-1], rows) if dtype in FP8 else 0
    return int(numbers * DTYPE_BYTES[kept_as(dtype)]) + wide - narrow + (8 * rows if unit == "embed" else 0)


def _narrow(spec: ModelSpec, kind: str, rows: int) -> int:
    """Bytes fewer that `rows` take where products read 8 bits: inputs are kept in those, each with a scale."""
    if kind in ("embed", "head"):
        return 0
    inputs = {"attn": spec.hidden if fused(spec) else 0, "mlp": spec.hidden, "lfa": 2 * spec.hidden,
              "moe": (spec.experts_used - (spec.shared_ffn > 0 and fused_experts(spec))) * spec.hidden}  # fmt: skip
    return rows * inputs.get(kind, 0) - 4 * sum(map(recipe.narrow, recipe.weights(spec, kind)))


def _wide_bytes(spec: ModelSpec, kind: str) -> int:
    """Bytes of a row that a unit keeps beyond its own dtype, where that has two: what stays in fp32, and indices.

    A norm of torch's keeps its input in fp32; a fused one only 1 / rms, and attention its rows' sums. The loss is fp32.
    """
    norm = 4 * spec.hidden + 4
    match kind:
        case "head":
            return (norm if spec.out_bias else 2) + 2 * spec.vocab + 4
        case "attn" if fused(spec):
            return 2 * (spec.heads + 1) + spec.qk_norm * 2 * (spec.heads + spec.kv_heads)
        case "attn" | "lfa":
            heads = spec.heads + spec.kv_heads
            return norm * (1 + (kind == "lfa")) + spec.qk_norm * 4 * heads * (spec.head_dim + 1) + 2 * spec.heads
        case "moe":
            return (4 if fused_experts(spec) else norm) + 2 * spec.experts + 16 * spec.experts_used
        case "mlp":
            return 2
        case _:
            return 0


def _widest(spec: ModelSpec, unit: str) -> int:
    kind = unit.rsplit(".", 1)[-1]
    attends = max(spec.heads * spec.head_dim, spec.hidden)
    widths = {"head": spec.vocab, "mlp": spec.ffn, "attn": spec.heads * spec.head_dim, "lfa": attends,
              "moe": max(spec.experts_used * max(spec.ffn, spec.hidden), spec.shared_ffn)}  # fmt: skip
    return widths.get(kind, spec.hidden)
