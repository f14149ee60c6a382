"""Which operators a mixture of experts runs: fused as model/fused_experts.py has it, or as model/experts.py does."""

from __future__ import annotations

from danlu.nouns import ModelSpec
from danlu.plan.operator import Operator, by_rows, flat, glue, linear, linear_back, product, times


def _gated(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    halves = (*linear(rows, hidden, ffn), *linear(rows, hidden, ffn))
    return (*halves, by_rows("gate", rows, ffn, 5), *linear(rows, ffn, hidden))


def _gated_back(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    halves = (*linear_back(rows, hidden, ffn), *linear_back(rows, hidden, ffn))
    back = (*linear_back(rows, ffn, hidden), by_rows("gate_back", rows, ffn, 9))
    return (*back, *halves, flat("add_", rows * hidden, 3))


def _spread(experts: int, pairs: int) -> tuple[tuple[int, int], ...]:
    """(experts, rows of each) when the pairs of a token and an expert spread as evenly as they can."""
    least, more = divmod(pairs, experts)
    return tuple(pair for pair in ((more, least + 1), (experts - more, least)) if pair[0] and pair[1])


def plain_inside(spec: ModelSpec, experts: int, pairs: int) -> tuple[Operator, ...]:
    """Only what so many experts run on so many rows."""
    return sum((times(_gated(rows, spec.hidden, spec.ffn), count) for count, rows in _spread(experts, pairs)), ())


def plain_inside_back(spec: ModelSpec, experts: int, pairs: int) -> tuple[Operator, ...]:
    """Its backward."""
    return sum((times(_gated_back(rows, spec.hidden, spec.ffn), count) for count, rows in _spread(experts, pairs)), ())


def fused_inside(spec: ModelSpec, experts: int, pairs: int) -> tuple[Operator, ...]:
    """Only what so many experts run on so many rows: two products each, one gate over all."""
    each = (times((*_pair(rows, spec.hidden, spec.ffn), glue("expert", 0)), count)
            for count, rows in _spread(experts, pairs))  # fmt: skip
    return (*sum(each, ()), by_rows("gate", pairs, spec.ffn, 3))


def fused_inside_back(spec: ModelSpec, experts: int, pairs: int) -> tuple[Operator, ...]:
    """Its backward."""
    each = (times((*_pair_back(rows, spec.hidden, spec.ffn), glue("expert", 1)), count)
            for count, rows in _spread(experts, pairs))  # fmt: skip
    return (*sum(each, ()), by_rows("gate_back", pairs, spec.ffn, 6))


def plain(spec: ModelSpec, rows: int) -> tuple[Operator, ...]:
    """Routing, the experts that run, the shared one; gathering tokens and adding results are copies."""
    hidden, sent = spec.hidden, rows * spec.experts_used
    shared = (*linear(rows, hidden, 1), *_gated(rows, hidden, spec.shared_ffn)) if spec.shared_ffn else ()
    return (by_rows("norm", rows, hidden, 3), *linear(rows, hidden, spec.experts), *shared,
            *plain_inside(spec, spec.experts, sent), flat("copy", sent * hidden, 2, 2), flat("add", sent * hidden, 3),
            flat("add", rows * hidden, 3))  # fmt: skip


def plain_back(spec: ModelSpec, rows: int) -> tuple[Operator, ...]:
    """Its backward."""
    hidden, sent = spec.hidden, rows * spec.experts_used
    shared = (*linear_back(rows, hidden, 1), *_gated_back(rows, hidden, spec.shared_ffn)) if spec.shared_ffn else ()
    inside = plain_inside_back(spec, spec.experts, sent)
    return (flat("copy", sent * hidden, 2, 2), *inside, *shared, *linear_back(rows, hidden, spec.experts),
            flat("add_", rows * hidden, 3, 2), flat("add_", sent * hidden, 3),
            by_rows("norm_back", rows, hidden, 8))  # fmt: skip


def fused(spec: ModelSpec, rows: int) -> tuple[Operator, ...]:
    """Routing, tokens gathered by expert, two products each, one gate over all, every token's sum of its rows."""
    hidden, sent = spec.hidden, rows * spec.experts_used
    shared = _shared(rows, hidden, spec.shared_ffn) if spec.shared_ffn else ()
    return (by_rows("norm", rows, hidden, 2), *linear(rows, hidden, spec.experts), _route(spec, rows, ""),
            by_rows("gather", sent, hidden, 2), *fused_inside(spec, spec.experts, sent), *shared,
            by_rows("bag", sent, hidden, 2), flat("add_", rows * hidden, 3), glue("moe", 0))  # fmt: skip


def fused_back(spec: ModelSpec, rows: int) -> tuple[Operator, ...]:
    """Its backward."""
    hidden, sent = spec.hidden, rows * spec.experts_used
    shared = _shared_back(rows, hidden, spec.shared_ffn) if spec.shared_ffn else ()
    return (by_rows("bag_back", sent, hidden, 5), *fused_inside_back(spec, spec.experts, sent),
            by_rows("bag", sent, hidden, 2), *shared, _route(spec, rows, "_back"),
            *linear_back(rows, hidden, spec.experts), flat("add", rows * hidden, 3),
            by_rows("norm_back", rows, hidden, 4), glue("moe", 1))  # fmt: skip


def _shared(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    return (*linear(rows, hidden, 1), *_pair(rows, hidden, ffn), by_rows("gate", rows, ffn, 3),
            flat("add", rows * hidden, 4), glue("shared", 0))  # fmt: skip


def _shared_back(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    return (*linear_back(rows, hidden, 1), *_pair_back(rows, hidden, ffn), by_rows("gate_back", rows, ffn, 6),
            flat("add", rows * hidden, 3, 4), glue("shared", 1))  # fmt: skip


def _pair(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    return (product("matmul", rows, hidden, 2 * ffn), product("matmul", rows, ffn, hidden))


def _pair_back(rows: int, hidden: int, ffn: int) -> tuple[Operator, ...]:
    ends = ((ffn, hidden), (hidden, 2 * ffn))
    return tuple(product(op, rows, *end) for end in ends for op in ("matmul_dx", "matmul_dw"))


def _route(spec: ModelSpec, rows: int, back: str) -> Operator:
    shape = (rows, spec.experts, spec.experts_used)
    return Operator(f"route{back}", shape, float(rows), 3.0 * rows * spec.experts)
