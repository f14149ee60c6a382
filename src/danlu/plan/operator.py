"""What an operator is to a cost model, and the usual ones by their sizes."""

from __future__ import annotations

from typing import NamedTuple


class Operator(NamedTuple):
    """One operator of a unit, `times` over.

    moved  numbers it reads and writes, for a card that has only flops and mem_bw; 0 for what has no such cost there
    """

    op: str
    shape: tuple[int, ...]
    work: float
    moved: float
    times: int = 1


# Calls of torch beside the operators, forward and backward: views, transposes, new tensors in units that run as
# model/fused.py has them, and all that row operators are made of in "cut" ones and "lfa". A test counts them.
GLUE = {"cut attn": (37, 57), "cut mlp": (18, 33), "lfa": (69, 98),
        "attn": (25, 21), "mlp": (5, 6), "moe": (14, 14), "shared": (7, 17), "expert": (6, 7),
        "head norms": (6, 10), "bias": (0, 2), "part": (8, 8), "posted": (15, 30)}  # fmt: skip
SWAPPED = 4  # of those around one message that comes in the middle of an instruction


def by_rows(op: str, rows: int, columns: int, moved: int) -> Operator:
    """One over rows of so many columns; `moved` of each number."""
    work = float(rows * columns)
    return Operator(op, (rows, columns), work, moved * work)


def flat(op: str, count: int, moved: float, times: int = 1) -> Operator:
    """One over a flat tensor; `moved` of each number."""
    return Operator(op, (count,), float(count), float(moved * count), times)


def glue(kind: str, back: int) -> Operator:
    """What a unit, or a part of one, is called for beside its operators; `back` 1 for its backward."""
    # An expert has only views of tensors that autograd does not see: a sixth of what a call costs that it does.
    return Operator("view" if kind == "expert" else "call", (), 1, 0, GLUE[kind][back])


def product(op: str, rows: int, inner: int, columns: int) -> Operator:
    """A product of (rows, inner) and (inner, columns)."""
    moved = rows * inner + inner * columns + rows * columns
    return Operator(op, (rows, inner, columns), 2.0 * rows * inner * columns, moved)


def linear(rows: int, inner: int, columns: int) -> tuple[Operator, ...]:
    """A linear layer."""
    return (product("matmul", rows, inner, columns), Operator("call", (), 1, 0))


def linear_back(rows: int, inner: int, columns: int) -> tuple[Operator, ...]:
    """Its backward."""
    return (product("matmul_dx", rows, inner, columns), product("matmul_dw", rows, inner, columns),
            Operator("call_back", (), 1, 0))  # fmt: skip


def times(ops: tuple[Operator, ...], count: int) -> tuple[Operator, ...]:
    """All of them `count` times over."""
    return tuple(op._replace(times=op.times * count) for op in ops)
