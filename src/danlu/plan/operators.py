"""Which operators one unit runs, forward and backward: what model/net.py does, in the words of a card's rates.

An operator is (op, shape, work): `op` and `shape` as in the rates of docs/formats.md, `work` in the unit of its rate.
`tests/plan/test_cost.py` holds the products of this list equal to those a decoder really runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from danlu import recipe
from danlu.nouns import ModelSpec
from danlu.plan.flop import attention_pairs


class Operator(NamedTuple):
    """One operator of a unit, `times` over.

    moved  numbers it reads and writes, for a card that has only flops and mem_bw; 0 for what has no such cost there
    """

    op: str
    shape: tuple[int, ...]
    work: float
    moved: float
    times: int = 1


# Calls of torch beside the operators, forward and backward, in units that run as model/fused.py has them: views,
# transposes, new tensors. A test counts them.
GLUE = {"attn": (25, 21), "mlp": (5, 6)}
ROUNDS = 20  # of torch's calls that a product in 8 bits has beside itself, on average over the three


def fused(spec: ModelSpec) -> bool:
    """True when attention runs as model/fused.py has it: nothing beside its four matrices and its norm."""
    return not (spec.qkv_bias or spec.out_bias or spec.qk_norm)


def forward(spec: ModelSpec, unit: str, batch: int, seq: int) -> tuple[Operator, ...]:
    """Operators of a unit's forward on `batch` sequences of `seq` tokens, recorded for a backward."""
    rows, hidden = batch * seq, spec.hidden
    match unit.rsplit(".", 1)[-1]:
        case "embed":
            return (_rows("gather", rows, hidden, 2),)
        case "head":
            return (_rows("norm", rows, hidden, 3), *_linear(rows, hidden, spec.vocab), loss(spec, batch, seq))
        case "mlp":
            return (_rows("norm", rows, hidden, 2), *_linear(rows, hidden, 2 * spec.ffn),
                    _rows("gate", rows, spec.ffn, 3), *_linear(rows, spec.ffn, hidden), _glue("mlp", 0))  # fmt: skip
        case "attn" if fused(spec):
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            return (_rows("norm", rows, hidden, 2), *_linear(rows, hidden, q + 2 * kv),
                    _rows("rotate", rows, q + kv, 2), _attention(spec, batch, seq, ""), *_linear(rows, q, hidden),
                    _glue("attn", 0))  # fmt: skip
        case "moe":
            return _moe(spec, rows)
        case "attn" | "lfa" as kind:
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            inputs = (*_linear(rows, hidden, q), *_linear(rows, hidden, kv), *_linear(rows, hidden, kv))
            filtered = _filter(rows, hidden) if kind == "lfa" else ()
            return (_rows("norm", rows, hidden, 3), *filtered, *inputs, *_head_norms(spec, rows, ""),
                    _rows("rotate", rows, q, 7), _rows("rotate", rows, kv, 7), _attention(spec, batch, seq, ""),
                    _flat("copy", rows * q, 2), *_linear(rows, q, hidden), _flat("add", rows * hidden, 3))  # fmt: skip
    raise KeyError(unit)


def backward(spec: ModelSpec, unit: str, batch: int, seq: int) -> tuple[Operator, ...]:
    """Operators of a unit's backward; weight gradients are added to those of earlier micro-batches."""
    rows, hidden = batch * seq, spec.hidden
    match unit.rsplit(".", 1)[-1]:
        case "embed":
            table = spec.vocab * hidden
            return (_flat("scatter", table, 1), _rows("gather", rows, hidden, 3), _flat("add_", table, 3))
        case "head":
            end = loss(spec, batch, seq, "_back")
            return (end, *_linear_back(rows, hidden, spec.vocab), _rows("norm_back", rows, hidden, 8))
        case "mlp":
            return (*_linear_back(rows, spec.ffn, hidden), _rows("gate_back", rows, spec.ffn, 6),
                    *_linear_back(rows, hidden, 2 * spec.ffn), _rows("norm_back", rows, hidden, 4),
                    _glue("mlp", 1))  # fmt: skip
        case "attn" if fused(spec):
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            return (*_linear_back(rows, q, hidden), _attention(spec, batch, seq, "_back"),
                    _rows("rotate", rows, q + kv, 2), _flat("copy", rows * kv, 2),
                    *_linear_back(rows, hidden, q + 2 * kv), _rows("norm_back", rows, hidden, 4),
                    _glue("attn", 1))  # fmt: skip
        case "moe":
            return _moe_back(spec, rows)
        case "attn" | "lfa" as kind:
            q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
            inputs = (*_linear_back(rows, hidden, q), *_linear_back(rows, hidden, kv), *_linear_back(rows, hidden, kv))
            filtered = _filter_back(rows, hidden) if kind == "lfa" else ()
            return (*_linear_back(rows, q, hidden), _flat("copy", rows * q, 2), _attention(spec, batch, seq, "_back"),
                    _rows("rotate", rows, q, 9), _rows("rotate", rows, kv, 9),
                    *_head_norms(spec, rows, "_back"), *inputs, *filtered,
                    _flat("add_", rows * hidden, 3, 3), _rows("norm_back", rows, hidden, 8))  # fmt: skip
    raise KeyError(unit)


def rounded(ops: Sequence[Operator]) -> tuple[Operator, ...]:
    """These operators with what products in 8 bits cost beside themselves (model/fp8.py).

    An input, or a gradient, is read for its largest number, scaled, and rounded to half as many bytes; for the product
    over rows both are turned round in memory.
    """
    found: list[Operator] = []
    for op in ops:
        rows, inner, columns = op.shape if op.op.startswith("matmul") else (0, 0, 0)
        moved = {"matmul": 4.5 * rows * inner, "matmul_dx": 4.5 * rows * columns, "matmul_dw": rows * (inner + columns)}
        if op.op in moved:
            found.append(Operator("round", (), 0.0, moved[op.op], op.times))
            found.append(Operator("call", (), 1, 0, ROUNDS * op.times))
        found.append(op)
    return tuple(found)


def rounding(held: Sequence[recipe.Weight]) -> tuple[Operator, ...]:
    """What the two copies of a unit's weights in 8 bits cost, once a step."""
    count = sum(each.shape[0] * each.shape[1] for each in held if recipe.narrow(each))
    return (Operator("round", (), 0.0, 5.5 * count),)


def weights(backward: Sequence[Operator]) -> tuple[Operator, ...]:
    """Those operators of a backward that can be left for later: the gradients of matrices."""
    return tuple(op for op in backward if op.op == "matmul_dw")


def split(backward: Sequence[Operator]) -> tuple[Operator, ...]:
    """What leaving them costs: each is called again."""
    return tuple(Operator("call", (), 1, 0) for _ in weights(backward))


def entry(spec: ModelSpec, units: Sequence[str], batch: int, seq: int) -> tuple[Operator, ...]:
    """What one micro-batch costs a stage beside its units: the call itself, autograd's start, positions' angles."""
    call = Operator("start", (), 1, 0)
    if not any(recipe.kind_of(unit) in recipe.ATTENDS for unit in units):
        return (call,)
    return (call, _rows("angles", batch * seq, spec.head_dim, 4))


def loss(spec: ModelSpec, batch: int, seq: int, back: str = "") -> Operator:
    """The loss, which runs in the forward of the stage that holds the head; `back` "_back" for its backward."""
    return _rows(f"loss{back}", batch * seq, spec.vocab, 3)


def norm(params: int, whole: int) -> tuple[Operator, ...]:
    """The norm of `params` of a stage's gradient; it goes at the pace of a tensor of `whole` numbers."""
    return (_part("dot", params, whole, 1),)


def tied(spec: ModelSpec) -> Operator:
    """The sum of the two gradients of a tied embedding whose ends lie on two cards."""
    return _flat("add_", spec.vocab * spec.hidden, 3)


def step(params: int, whole: int) -> tuple[Operator, ...]:
    """One optimizer step of `params` of a flat `whole`: clipping, AdamW, the gradient set to zero."""
    return (_part("add_", params, whole, 2), _part("adamw", params, whole, 7), _part("zero", params, whole, 1))


def mixed(params: int, whole: int) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """What a decoder not in fp32 adds: its gradients' sum in fp32 for every micro-batch, its weights' rounding."""
    return (_part("add_", params, whole, 3), _part("zero", params, whole, 1)), (_part("copy", params, whole, 2),)


def _part(op: str, count: int, whole: int, moved: int) -> Operator:
    return Operator(op, (whole,), float(count), float(moved * count))


def _rows(op: str, rows: int, columns: int, moved: int) -> Operator:
    work = float(rows * columns)
    return Operator(op, (rows, columns), work, moved * work)


def _flat(op: str, count: int, moved: int, times: int = 1) -> Operator:
    return Operator(op, (count,), float(count), float(moved * count), times)


def _glue(kind: str, back: int) -> Operator:
    return Operator("call", (), 1, 0, GLUE[kind][back])


def _product(op: str, rows: int, inner: int, columns: int) -> Operator:
    moved = rows * inner + inner * columns + rows * columns
    return Operator(op, (rows, inner, columns), 2.0 * rows * inner * columns, moved)


def _linear(rows: int, inner: int, columns: int) -> tuple[Operator, ...]:
    return (_product("matmul", rows, inner, columns), Operator("call", (), 1, 0))


def _linear_back(rows: int, inner: int, columns: int) -> tuple[Operator, ...]:
    return (_product("matmul_dx", rows, inner, columns), _product("matmul_dw", rows, inner, columns),
            Operator("call_back", (), 1, 0))  # fmt: skip


def _gated(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    halves = (*_linear(rows, hidden, ffn), *_linear(rows, hidden, ffn))
    return (*halves, _rows("gate", rows, ffn, 5), *_linear(rows, ffn, hidden))


def _gated_back(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    halves = (*_linear_back(rows, hidden, ffn), *_linear_back(rows, hidden, ffn))
    back = (*_linear_back(rows, ffn, hidden), _rows("gate_back", rows, ffn, 9))
    return (*back, *halves, _flat("add_", rows * hidden, 3))


def _spread(spec: ModelSpec, rows: int) -> tuple[tuple[int, int], ...]:
    """(experts, tokens of each) when tokens spread as evenly as they can; they sum to every token's experts."""
    least, more = divmod(rows * spec.experts_used, spec.experts)
    return tuple(pair for pair in ((more, least + 1), (spec.experts - more, least)) if pair[0] and pair[1])


def _moe(spec: ModelSpec, rows: int) -> tuple[Operator, ...]:
    """Routing, the experts that run, the shared one; gathering tokens and adding results are copies."""
    hidden, sent = spec.hidden, rows * spec.experts_used
    each = [_times(_gated(tokens, hidden, spec.ffn), count) for count, tokens in _spread(spec, rows)]
    shared = (*_linear(rows, hidden, 1), *_gated(rows, hidden, spec.shared_ffn)) if spec.shared_ffn else ()
    return (_rows("norm", rows, hidden, 3), *_linear(rows, hidden, spec.experts), *shared, *sum(each, ()),
            _flat("copy", sent * hidden, 2, 2), _flat("add", sent * hidden, 3),
            _flat("add", rows * hidden, 3))  # fmt: skip


def _moe_back(spec: ModelSpec, rows: int) -> tuple[Operator, ...]:
    hidden, sent = spec.hidden, rows * spec.experts_used
    each = [_times(_gated_back(tokens, hidden, spec.ffn), count) for count, tokens in _spread(spec, rows)]
    shared = (*_linear_back(rows, hidden, 1), *_gated_back(rows, hidden, spec.shared_ffn)) if spec.shared_ffn else ()
    return (_flat("copy", sent * hidden, 2, 2), *sum(each, ()), *shared, *_linear_back(rows, hidden, spec.experts),
            _flat("add_", rows * hidden, 3, 2), _flat("add_", sent * hidden, 3),
            _rows("norm_back", rows, hidden, 8))  # fmt: skip


def _times(ops: tuple[Operator, ...], count: int) -> tuple[Operator, ...]:
    return tuple(op._replace(times=op.times * count) for op in ops)


def _filter(rows: int, hidden: int) -> tuple[Operator, ...]:
    """Yuan's local filter: two convolutions of two taps, each two products on shifted rows, and a norm."""
    inner = hidden // 2
    taps = (*_linear(rows, hidden, inner), *_linear(rows, hidden, inner),
            *_linear(rows, inner, hidden), *_linear(rows, inner, hidden))  # fmt: skip
    return (*taps, _flat("copy", rows * (hidden + inner), 2), _flat("add", rows * hidden, 3, 2),
            _flat("add", rows * inner, 3), _rows("norm", rows, hidden, 3))  # fmt: skip


def _filter_back(rows: int, hidden: int) -> tuple[Operator, ...]:
    inner = hidden // 2
    taps = (*_linear_back(rows, inner, hidden), *_linear_back(rows, inner, hidden),
            *_linear_back(rows, hidden, inner), *_linear_back(rows, hidden, inner))  # fmt: skip
    return (_rows("norm_back", rows, hidden, 8), *taps, _flat("copy", rows * (hidden + inner), 2),
            _flat("add_", rows * hidden, 3, 2), _flat("add_", rows * inner, 3))  # fmt: skip


def attention(spec: ModelSpec, batch: int, rows: int, keys: int) -> tuple[Operator, Operator]:
    """Attention of the last `rows` of `keys` tokens, forward and backward. More keys than rows: a mask on all pairs."""
    if rows == keys:
        return _attention(spec, batch, keys, ""), _attention(spec, batch, keys, "_back")
    flop = 4.0 * batch * rows * keys * spec.heads * spec.head_dim
    moved = batch * (2 * rows * spec.heads + 2 * keys * spec.kv_heads) * spec.head_dim
    return (Operator("attention", (keys, spec.head_dim), flop, moved),
            Operator("attention_back", (keys, spec.head_dim), 2.5 * flop, 2 * moved))  # fmt: skip


def _attention(spec: ModelSpec, batch: int, seq: int, back: str) -> Operator:
    """A window shorter than the sequence is a mask on the whole square."""
    windowed = spec.window is not None and spec.window < seq
    pairs = float(seq * seq) if windowed else attention_pairs(seq, None)
    flop = 4.0 * batch * pairs * spec.heads * spec.head_dim * (2.5 if back else 1.0)
    moved = batch * seq * (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim * (2 if back else 1)
    return Operator(f"attention{back}", (seq, spec.head_dim), flop, moved)


def _head_norms(spec: ModelSpec, rows: int, back: str) -> tuple[Operator, ...]:
    if not spec.qk_norm:
        return ()
    each = 8 if back else 3
    return tuple(_rows(f"norm{back}", rows * heads, spec.head_dim, each) for heads in (spec.heads, spec.kv_heads))


def arithmetic(op: str) -> bool:
    """True for operators whose work is FLOP of the card's matrix units."""
    return op.startswith(("matmul", "attention"))
