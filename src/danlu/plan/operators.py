"""Which operators one unit runs, forward and backward: what model/net.py does, in the words of a card's rates.

An operator is (op, shape, work): `op` and `shape` as in the rates of docs/formats.md, `work` in the unit of its rate.
`tests/plan/test_cost.py` holds the products of this list equal to those a decoder really runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from danlu import recipe
from danlu.nouns import ModelSpec
from danlu.plan import mixture
from danlu.plan.flop import attention_pairs
from danlu.plan.operator import Operator, by_rows, flat, glue, linear, linear_back, times

ROUNDS = 20  # of torch's calls that a product in 8 bits has beside itself, on average over the three


def fused(spec: ModelSpec) -> bool:
    """True when attention runs as model/fused.py has it: no bias on its output, not cut (sharing.part_of marks it)."""
    return not spec.out_bias


def fused_experts(spec: ModelSpec) -> bool:
    """True when a mixture runs as model/fused_experts.py has it: nothing of it is cut (sharing.part_of marks that)."""
    return not spec.out_bias


def forward(spec: ModelSpec, unit: str, batch: int, seq: int) -> tuple[Operator, ...]:
    """Operators of a unit's forward on `batch` sequences of `seq` tokens, recorded for a backward."""
    rows, hidden = batch * seq, spec.hidden
    match unit.rsplit(".", 1)[-1]:
        case "embed":
            return (by_rows("gather", rows, hidden, 2),)
        case "head":
            return (by_rows("norm", rows, hidden, 3), *linear(rows, hidden, spec.vocab), loss(spec, batch, seq))
        case "mlp":
            return (by_rows("norm", rows, hidden, 2), *linear(rows, hidden, 2 * spec.ffn),
                    by_rows("gate", rows, spec.ffn, 3), *linear(rows, spec.ffn, hidden),
                    glue(_way(spec, "mlp"), 0))  # fmt: skip
        case "attn" if fused(spec):
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            return (by_rows("norm", rows, hidden, 2), *linear(rows, hidden, q + 2 * kv), *_biased(spec, rows, ""),
                    *_fused_head_norms(spec, rows, ""), *_turned(rows, *((q, kv) if spec.qk_norm else (q + kv,))),
                    *_attention(spec, batch, seq, ""), *linear(rows, q, hidden), glue("attn", 0))  # fmt: skip
        case "moe":
            return mixture.fused(spec, rows) if fused_experts(spec) else mixture.plain(spec, rows)
        case "attn" | "lfa" as kind:
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            inputs = (*linear(rows, hidden, q), *linear(rows, hidden, kv), *linear(rows, hidden, kv))
            filtered = _filter(rows, hidden) if kind == "lfa" else ()
            return (by_rows("norm", rows, hidden, 3), *filtered, *inputs, *_head_norms(spec, rows, ""),
                    by_rows("rotate", rows, q, 7), by_rows("rotate", rows, kv, 7), *_attention(spec, batch, seq, ""),
                    flat("copy", rows * q, 2), *linear(rows, q, hidden), flat("add", rows * hidden, 3),
                    glue(_way(spec, kind), 0))  # fmt: skip
    raise KeyError(unit)


def backward(spec: ModelSpec, unit: str, batch: int, seq: int) -> tuple[Operator, ...]:
    """Operators of a unit's backward; weight gradients are added to those of earlier micro-batches."""
    rows, hidden = batch * seq, spec.hidden
    match unit.rsplit(".", 1)[-1]:
        case "embed":
            return (by_rows("gather_back", rows, hidden, 3), Operator("call_back", (), 1, 0))
        case "head":
            end = loss(spec, batch, seq, "_back")
            return (end, *linear_back(rows, hidden, spec.vocab), by_rows("norm_back", rows, hidden, 8))
        case "mlp":
            return (*linear_back(rows, spec.ffn, hidden), by_rows("gate_back", rows, spec.ffn, 6),
                    *linear_back(rows, hidden, 2 * spec.ffn), by_rows("norm_back", rows, hidden, 4),
                    glue(_way(spec, "mlp"), 1))  # fmt: skip
        case "attn" if fused(spec):
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            return (*linear_back(rows, q, hidden), *_attention(spec, batch, seq, "_back"),
                    *_turned(rows, q, kv), flat("copy", rows * kv, 2),
                    *_fused_head_norms(spec, rows, "_back"), *_biased(spec, rows, "_back"),
                    *linear_back(rows, hidden, q + 2 * kv),
                    by_rows("norm_back", rows, hidden, 4), glue("attn", 1))  # fmt: skip
        case "moe":
            return mixture.fused_back(spec, rows) if fused_experts(spec) else mixture.plain_back(spec, rows)
        case "attn" | "lfa" as kind:
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            inputs = (*linear_back(rows, hidden, q), *linear_back(rows, hidden, kv), *linear_back(rows, hidden, kv))
            filtered = _filter_back(rows, hidden) if kind == "lfa" else ()
            return (*linear_back(rows, q, hidden), flat("copy", rows * q, 2), *_attention(spec, batch, seq, "_back"),
                    by_rows("rotate", rows, q, 9), by_rows("rotate", rows, kv, 9),
                    *_head_norms(spec, rows, "_back"), *inputs, *filtered,
                    flat("add_", rows * hidden, 3, 3), by_rows("norm_back", rows, hidden, 8),
                    glue(_way(spec, kind), 1))  # fmt: skip
    raise KeyError(unit)


def _way(spec: ModelSpec, kind: str) -> str:
    """What a unit is called by its glue: a local filter is never fused, others where they are not cut."""
    return kind if kind == "lfa" or fused(spec) else f"cut {kind}"


def inside(spec: ModelSpec, experts: int, pairs: int) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """What `experts` of a layer run on so many rows together, forward and backward: a part of a mixture's operators."""
    if fused_experts(spec):
        return mixture.fused_inside(spec, experts, pairs), mixture.fused_inside_back(spec, experts, pairs)
    return mixture.plain_inside(spec, experts, pairs), mixture.plain_inside_back(spec, experts, pairs)


def rounded(ops: Sequence[Operator], emulated: bool = False) -> tuple[Operator, ...]:
    """These operators with what products in 8 bits cost beside themselves (model/fp8.py).

    An input, or a gradient, is read for its largest number, scaled, and rounded to half as many bytes; for the product
    over rows both are turned round in memory. Where a card only acts as if, both operands are widened for each product.
    """
    found: list[Operator] = []
    for op in ops:
        if op.op.startswith("matmul"):
            beside = (*_rounded(op.op, op.shape), *(_widened(op.op, op.shape) if emulated else ()))
            found += (*times(beside, op.times), Operator("call", (), 1, 0, ROUNDS * op.times))
        found.append(op)
    return tuple(found)


def _rounded(op: str, shape: tuple[int, ...]) -> tuple[Operator, ...]:
    rows, inner, columns = shape
    match op:
        case "matmul":
            return (flat("round", rows * inner, 4.5),)
        case "matmul_dx":
            return (flat("round_back", rows * columns, 4.5),)
    return (flat("swap", rows * inner, 1), flat("swap", rows * columns, 1))


def _widened(op: str, shape: tuple[int, ...]) -> tuple[Operator, ...]:
    """Both operands in fp32, and what they make scaled and narrow again."""
    rows, inner, columns = shape
    match op:
        case "matmul":
            return (flat("widen", rows * inner, 2.5), flat("widen", inner * columns, 2.5),
                    flat("scale", rows * columns, 7))  # fmt: skip
        case "matmul_dx":
            return (flat("widen_back", rows * columns, 2.5), flat("widen", inner * columns, 2.5),
                    flat("scale", rows * inner, 7))  # fmt: skip
    return (flat("widen_back", rows * columns, 2.5), flat("widen", rows * inner, 2.5),
            flat("scale", inner * columns, 7), flat("add_", inner * columns, 3))  # fmt: skip


def rounding(held: Sequence[recipe.Weight]) -> tuple[Operator, ...]:
    """What the two copies of a unit's weights in 8 bits cost, once a step."""
    counts = [each.shape[0] * each.shape[1] for each in held if recipe.narrow(each)]
    return tuple(op for count in counts for op in (flat("round", count, 4.5), flat("swap", count, 1)))


def weights(backward: Sequence[Operator]) -> tuple[Operator, ...]:
    """Those operators of a backward that can be left for later: the gradients of matrices."""
    return tuple(op for op in backward if op.op == "matmul_dw")


def split(backward: Sequence[Operator]) -> tuple[Operator, ...]:
    """What leaving them costs: each is called again."""
    return tuple(Operator("call", (), 1, 0, op.times) for op in weights(backward))


def entry(spec: ModelSpec, units: Sequence[str], batch: int, seq: int) -> tuple[Operator, ...]:
    """What one micro-batch costs a stage beside its units: the call itself, autograd's start, positions' angles."""
    call = Operator("start", (), 1, 0)
    if not any(recipe.kind_of(unit) in recipe.ATTENDS for unit in units):
        return (call,)
    return (call, by_rows("angles", batch * seq, spec.head_dim, 4))


def loss(spec: ModelSpec, batch: int, seq: int, back: str = "") -> Operator:
    """The loss, which runs in the forward of the stage that holds the head; `back` "_back" for its backward."""
    return by_rows(f"loss{back}", batch * seq, spec.vocab, 3)


def norm(params: int, whole: int) -> tuple[Operator, ...]:
    """The norm of `params` of a stage's gradient; it goes at the pace of a tensor of `whole` numbers."""
    return (_part("dot", params, whole, 1),)


def tied(spec: ModelSpec) -> Operator:
    """The sum of the two gradients of a tied embedding whose ends lie on two cards."""
    return flat("add_", spec.vocab * spec.hidden, 3)


def step(params: int, whole: int) -> tuple[Operator, ...]:
    """One optimizer step of `params` of a flat `whole`: clipping, AdamW, the gradient set to zero."""
    return (_part("add_", params, whole, 2), _part("adamw", params, whole, 7), _part("zero", params, whole, 1))


def mixed(params: int, whole: int) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """What a decoder not in fp32 adds: its gradients' sum in fp32 for every micro-batch, its weights' rounding.

    The first is counted in numbers of 2 bytes, and is at the rates of that dtype; the second in those of fp32.
    """
    return (_part("collect", params, whole, 6),), (_part("copy", params, whole, 2),)


def _part(op: str, count: int, whole: int, moved: int) -> Operator:
    return Operator(op, (whole,), float(count), float(moved * count))


def _filter(rows: int, hidden: int) -> tuple[Operator, ...]:
    """Yuan's local filter: two convolutions of two taps, each two products on shifted rows, and a norm."""
    inner = hidden // 2
    taps = (*linear(rows, hidden, inner), *linear(rows, hidden, inner),
            *linear(rows, inner, hidden), *linear(rows, inner, hidden))  # fmt: skip
    return (*taps, flat("copy", rows * (hidden + inner), 2), flat("add", rows * hidden, 3, 2),
            flat("add", rows * inner, 3), by_rows("norm", rows, hidden, 3))  # fmt: skip


def _filter_back(rows: int, hidden: int) -> tuple[Operator, ...]:
    inner = hidden // 2
    taps = (*linear_back(rows, inner, hidden), *linear_back(rows, inner, hidden),
            *linear_back(rows, hidden, inner), *linear_back(rows, hidden, inner))  # fmt: skip
    return (by_rows("norm_back", rows, hidden, 8), *taps, flat("copy", rows * (hidden + inner), 2),
            flat("add_", rows * hidden, 3, 2), flat("add_", rows * inner, 3))  # fmt: skip


def attention(spec: ModelSpec, batch: int, rows: int, keys: int) -> tuple[Operator, Operator]:
    """Attention of the last `rows` of `keys` tokens, forward and backward, without the cost of calling.

    More keys than rows: a mask on all pairs.
    """
    if rows == keys:
        return _attention(spec, batch, keys, "")[0], _attention(spec, batch, keys, "_back")[0]
    flop = 4.0 * batch * rows * keys * spec.heads * spec.head_dim
    moved = batch * (2 * rows * spec.heads + 2 * keys * spec.kv_heads) * spec.head_dim
    return (Operator("attention", (keys, spec.head_dim), flop, moved),
            Operator("attention_back", (keys, spec.head_dim), 2.5 * flop, 2 * moved))  # fmt: skip


def _turned(rows: int, *columns: int) -> tuple[Operator, ...]:
    """Queries and keys turned by their positions: at once where they lie side by side, else one after the other."""
    return tuple(by_rows("rotate", rows, each, 2) for each in columns)


def _attention(spec: ModelSpec, batch: int, seq: int, back: str) -> tuple[Operator, Operator]:
    """The work, and what calling it costs. A window shorter than the sequence is a mask on the whole square."""
    windowed = spec.window is not None and spec.window < seq
    pairs = float(seq * seq) if windowed else attention_pairs(seq, None)
    flop = 4.0 * batch * pairs * spec.heads * spec.head_dim * (2.5 if back else 1.0)
    moved = batch * seq * (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim * (2 if back else 1)
    call = Operator(f"attend{back}", (spec.head_dim,), 1, 0)
    return Operator(f"attention{back}", (seq, spec.head_dim), flop, moved), call


def _biased(spec: ModelSpec, rows: int, back: str) -> tuple[Operator, ...]:
    """A bias of queries, keys and values: laid where the product is added to it; its gradient is a sum of rows."""
    if not spec.qkv_bias:
        return ()
    count = rows * (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    return (flat("add_" if back else "copy", count, 2 if back else 1), glue("bias", len(back) > 0))


def _fused_head_norms(spec: ModelSpec, rows: int, back: str) -> tuple[Operator, ...]:
    """Norms of heads, whose rows are copied to lie together; their gradients are, back again, beside zeros."""
    if not spec.qk_norm:
        return ()
    copied = tuple(flat("copy", rows * heads * spec.head_dim, 2, 3 if back else 1)
                   for heads in (spec.heads, spec.kv_heads))  # fmt: skip
    norms = tuple(by_rows(f"norm{back}", rows * heads, spec.head_dim, 4 if back else 2)
                  for heads in (spec.heads, spec.kv_heads))  # fmt: skip
    return (*norms, *copied, glue("head norms", len(back) > 0))


def _head_norms(spec: ModelSpec, rows: int, back: str) -> tuple[Operator, ...]:
    if not spec.qk_norm:
        return ()
    each = 8 if back else 3
    return tuple(by_rows(f"norm{back}", rows * heads, spec.head_dim, each) for heads in (spec.heads, spec.kv_heads))


def arithmetic(op: str) -> bool:
    """True for operators whose work is FLOP of the card's matrix units."""
    return op.startswith(("matmul", "attention"))
