"""Operations of a unit, from the model's numbers alone."""

from __future__ import annotations

from danlu import recipe
from danlu.nouns import ModelSpec


def unit_flop(spec: ModelSpec, unit: str, micro_batch: int, seq: int) -> float:
    """FLOP of one unit's forward on one micro-batch; its backward costs twice that.

    Matmuls are 2 * rows * inner * columns. Causal attention counts the lower triangle only: 2 matmuls of
    seq * (seq + 1) / 2 pairs per head (window: at most `window` keys per query). Norms and rotations are not counted.
    """
    tokens = micro_batch * seq
    kind = unit.rsplit(".", 1)[-1]
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    if kind == "embed":
        return 0.0
    if kind == "head":
        return 2.0 * tokens * spec.hidden * spec.vocab
    if kind in recipe.ATTENDS:
        projections = 2.0 * tokens * spec.hidden * (2 * q + 2 * kv)
        convolutions = 8.0 * tokens * spec.hidden * (spec.hidden // 2) if kind == "lfa" else 0.0
        return projections + convolutions + 4.0 * micro_batch * attention_pairs(seq, spec.window) * q
    if kind == "mlp":
        return 6.0 * tokens * spec.hidden * spec.ffn
    if kind == "moe":
        routing = 2.0 * tokens * spec.hidden * (spec.experts + (1 if spec.shared_ffn else 0))
        return routing + 6.0 * tokens * spec.hidden * (spec.experts_used * spec.ffn + spec.shared_ffn)
    raise KeyError(unit)


def seen(spec: ModelSpec, seq: int) -> float:
    """Keys that a query of a sequence looks at, the mean over positions and layers, under a causal mask."""
    if spec.window is None or spec.window >= seq:
        return seq / 2
    far = spec.unwindowed / spec.layers
    return far * seq / 2 + (1 - far) * spec.window * (1 - spec.window / (2 * seq))


def score_width(spec: ModelSpec) -> float:
    """Numbers of all heads over which a query and a key are multiplied, and a score with a value: the mean of both."""
    if spec.latent is not None:
        return spec.heads * (spec.latent.head + spec.latent.rope + spec.latent.value) / 2
    return float(spec.heads * spec.head_dim)


def attention_pairs(seq: int, window: int | None) -> float:
    """Query-key pairs of one head of one sequence under a causal mask."""
    span = min(seq, window or seq)
    return span * (span + 1) / 2 + (seq - span) * span
