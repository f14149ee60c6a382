"""Tokens on their way to experts that other cards hold, and back. Axes: N rows, all peers' behind each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.autograd import Function

Counts = Sequence[int]  # rows by peer


class Post(Protocol):
    """Rows between cards that hold different experts. All of them call the same, in the same order."""

    @property
    def sends(self) -> Sequence[tuple[int, int]]:
        """Experts [start, stop) of each card that this one sends tokens to."""
        ...

    def announce(self, name: str, counts: Sequence[Counts], own: int) -> list[list[int]]:
        """Tell each receiver how many rows each of its experts gets; what each sender tells about the `own` ones."""
        ...

    def out(self, name: str, rows_ND: Tensor, counts: Counts, due: Counts) -> Tensor:
        """Rows to the receivers, `counts` each; those that came, `due` of each sender."""
        ...

    def back(self, name: str, rows_ND: Tensor, counts: Counts, due: Counts) -> Tensor:
        """Rows to the senders, `counts` each; those that came, `due` of each receiver."""
        ...


def out(post: Post, name: str, rows_ND: Tensor, counts: Counts, due: Counts) -> Tensor:
    """post.out, whose gradient comes by post.back."""
    found: Tensor = _Sent.apply(rows_ND, post, name, counts, due, True)  # type: ignore[no-untyped-call]
    return found


def back(post: Post, name: str, rows_ND: Tensor, counts: Counts, due: Counts) -> Tensor:
    """post.back, whose gradient comes by post.out."""
    found: Tensor = _Sent.apply(rows_ND, post, name, counts, due, False)  # type: ignore[no-untyped-call]
    return found


class _Sent(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, post: Post, name: str, counts: Counts, due: Counts, away: bool) -> Tensor:
        ctx.post, ctx.name, ctx.counts, ctx.due, ctx.away = post, name, counts, due, away
        return (post.out if away else post.back)(name, rows, counts, due)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        send = ctx.post.back if ctx.away else ctx.post.out
        return send(f"d{ctx.name}", grads[0].contiguous(), ctx.due, ctx.counts), None, None, None, None, None
