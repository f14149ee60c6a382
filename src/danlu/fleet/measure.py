"""Times the operators a decoder is made of on one core, in a process of its own: one JSON line a point
(operator, dtype, shape, work per second, seconds of the reference work beside it).

    python -m danlu.fleet.measure quick|full

Thread CPU time, median of repeats; the whole grid is gone through several times, so that a machine that is slow for a
second is slow for one pass and not for one operator. Operands are drawn from a pool larger than all caches,
because in a step every operand was last touched many operators ago. docs/formats.md lists the operators.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from danlu.fleet.grids import BF16, GRIDS, ROUTES, Grid
from danlu.fleet.mixing import bags, routes
from danlu.fleet.passes import eights, passes, sums, widening
from danlu.fleet.pauses import after

POOL = 2**26  # bytes; cards that share a host share its cache, so a stage finds little of what it left
HEADS, TOKENS = 8, 512  # that attention is timed on: one short sequence alone is mostly the cost of calling
LOOKS = 15  # of the reference whose median stands beside a point: a look alone is off by 10%, an interrupted one by 50%
TABLE = 2048  # rows of the embedding that `gather` looks up
FORWARD = {"matmul", "attention", "norm", "gate", "rotate", "gather", "bag", "loss", "add", "copy", "angles"}

STATE = {"dot", "adamw"}  # always fp32


@dataclass(frozen=True, slots=True)
class Point:
    """One thing to time: `run(prepare())` does `work` units; `prepare` is not timed."""

    op: str
    shape: tuple[int, ...]
    work: float
    prepare: Callable[[], Any]
    run: Callable[[Any], Any]


class Pool:
    """Random numbers to take operands from, each time others, without making new ones."""

    def __init__(self, dtype: Any) -> None:
        import torch

        self.dtype = dtype
        self.numbers = POOL // dtype.itemsize
        self._all, self._at = torch.randn(self.numbers).to(dtype), 0

    def take(self, *shape: int) -> Any:
        """A tensor of this shape that shares the pool's memory."""
        count = math.prod(shape)
        if self._at + count > self.numbers:
            self._at = 0
        self._at += count
        return self._all[self._at - count : self._at].view(shape)

    def learn(self, *shape: int) -> Any:
        """The same, for which a gradient is wanted."""
        return self.take(*shape).detach().requires_grad_()


def seconds(point: Point, spend_s: float) -> float:
    """Median thread CPU seconds of one run of a point, of at least three.

    What a forward makes is kept for its backward, so it is written to memory that no cache holds yet; results of such
    operators are kept here too.
    """
    point.run(point.prepare())
    found: list[float] = []
    kept: list[Any] = []
    while len(found) < 3 or sum(found) < spend_s:
        given = point.prepare()
        start = time.thread_time()
        made = point.run(given)
        found.append(time.thread_time() - start)
        if point.op in FORWARD:
            kept.append(made)
    return statistics.median(found)


def points(grid: Grid, dtype: str = "fp32") -> Iterator[Point]:
    """Every point of the grid, on numbers of a dtype."""
    import torch

    pool = Pool({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    for rows, inner, columns in itertools.product((*grid.few, *grid.rows), grid.widths, grid.widths):
        if 2.0 * rows * inner * columns <= grid.most_flop:
            yield from products(pool, rows, inner, columns)
    for seq, head_dim in itertools.product(grid.seqs, grid.head_dims):
        yield from attention(pool, seq, head_dim)
    for rows, columns in itertools.product(grid.rows, grid.widths):
        if 32 * rows * columns < POOL:
            yield from rowwise(pool, rows, columns)
    for rows, (experts, used) in itertools.product(sorted({*grid.rows[::2], grid.rows[-1]}), ROUTES):
        for name, (prepare, run) in routes(pool, rows, experts, used).items():
            yield Point(name, (rows, experts, used), float(rows), prepare, run)
    for rows, head_dim in itertools.product(grid.rows, grid.head_dims):
        yield angles(rows, head_dim)
    for count in grid.elements:
        yield from flat(pool, count)
    yield from calls(pool)


def products(pool: Pool, rows: int, inner: int, columns: int) -> Iterator[Point]:
    """The three products of a linear layer, several at a time where one is too short to time."""
    shape, flop = (rows, inner, columns), 2.0 * rows * inner * columns
    times = max(1, min(16, int(2e7 / flop)))

    def draw() -> Any:
        return [(pool.take(rows, inner), pool.take(columns, inner), pool.take(rows, columns)) for _ in range(times)]

    mm, add_mm_ = sums(pool.dtype)
    yield Point("matmul", shape, flop * times, draw, lambda given: [mm(x, w.t()) for x, w, _ in given])
    yield Point("matmul_dx", shape, flop * times, draw, lambda given: [mm(g, w) for _, w, g in given])
    yield Point("matmul_dw", shape, flop * times, draw, lambda given: [add_mm_(w, g.t(), x) for x, w, g in given])


def attention(pool: Pool, seq: int, head_dim: int) -> Iterator[Point]:
    """Causal attention of 8 heads over TOKENS tokens, in the decoder's memory order: tokens outside, heads inside, and
    of each token its query, key and value side by side, so that widening them goes by rows that lie apart.
    """
    import torch
    import torch.nn.functional as F

    in_wide = widening(pool.dtype)
    batch = max(1, TOKENS // seq)
    flop = 4.0 * batch * HEADS * head_dim * seq * (seq + 1) / 2

    def draw(batch: int = batch, seq: int = seq, heads: int = HEADS) -> Any:
        rows = pool.take(batch, seq, 3, heads, head_dim).unbind(2)
        return [each.detach().requires_grad_().transpose(1, 2) for each in rows]

    def forward(qkv: Any) -> Any:
        q, k, v = (in_wide(each) for each in qkv)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).to(pool.dtype)

    def ahead(batch: int = batch, seq: int = seq, heads: int = HEADS) -> Any:
        qkv = draw(batch, seq, heads)
        return forward(qkv), qkv, pool.take(batch, seq, heads, head_dim).transpose(1, 2)

    def back(given: Any) -> Any:
        return torch.autograd.grad(*given)

    yield Point("attention", (seq, head_dim), flop, draw, forward)
    yield Point("attention_back", (seq, head_dim), 2.5 * flop, ahead, back)
    small = 1, 8, 1  # so little that it is all the cost of calling
    yield Point("attend", (head_dim,), 1.0, lambda: draw(*small), forward)
    yield Point("attend_back", (head_dim,), 1.0, lambda: ahead(*small), back)


def rowwise(pool: Pool, rows: int, columns: int) -> Iterator[Point]:
    """Operators over rows: norm, gate, rotation, embedding, loss."""
    import torch
    import torch.nn.functional as F

    shape, work = (rows, columns), float(rows * columns)
    for name, (given, run) in passes(rows, columns, pool.dtype).items():
        yield Point(name, shape, work, lambda given=given: [pool.take(*each) for each in given], run)  # type: ignore[misc]
    ids, labels = torch.randint(0, TABLE, (rows,)), torch.randint(0, columns, (rows,))
    yield Point("gather", shape, work, lambda: pool.learn(TABLE, columns), lambda table: F.embedding(ids, table))
    yield Point("gather_back", shape, work, lambda: (pool.take(TABLE, columns), pool.take(rows, columns)),
                lambda given: given[0].index_add_(0, ids, given[1], alpha=0.0))  # fmt: skip

    for name, (prepare, run) in bags(pool, rows, columns).items():
        yield Point(name, shape, work, prepare, run)

    def loss(logits: Any) -> Any:
        return F.cross_entropy(logits.float(), labels)

    yield Point("loss", shape, work, lambda: pool.learn(rows, columns), loss)
    yield Point("loss_back", shape, work, lambda: loss(pool.learn(rows, columns)), lambda out: out.backward())


def angles(rows: int, head_dim: int) -> Point:
    """Cosines and sines of all positions, laid out for the rotation: once per forward of a stage."""
    import torch

    frequencies, positions = torch.rand(head_dim // 2), torch.arange(rows)

    def run(_: Any) -> Any:
        half = positions[:, None, None].float() * frequencies
        cos, sin = half.cos(), half.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    return Point("angles", (rows, head_dim), float(rows * head_dim), lambda: None, run)


def flat(pool: Pool, count: int) -> Iterator[Point]:
    """Operators over flat tensors."""
    import torch

    times = max(1, min(16, 2**18 // count))

    def draw() -> Any:
        return [(pool.take(count), pool.take(count)) for _ in range(times)]

    def collect(pairs: Any) -> None:
        for total, made in pairs:
            total.add_(made)
            made.zero_()

    spare = [torch.empty(count, dtype=pool.dtype) for _ in range(times)]
    work = float(count * times)
    yield Point("add", (count,), work, draw, lambda given: [a + b for a, b in given])
    yield Point("add_", (count,), work, draw, lambda given: [torch.add(a, b, alpha=0.0, out=a) for a, b in given])
    yield Point("copy", (count,), work, draw, lambda given: [a.clone() for a, _ in given])
    yield Point("zero", (count,), work, draw, lambda given: [a.zero_() for a in spare[: len(given)]])
    if pool.dtype != torch.float32:
        totals = [torch.zeros(count) for _ in range(times)]
        yield Point("collect", (count,), work, lambda: zip(totals, spare, strict=True), collect)
        for name, (prepare, run) in eights(pool, count).items():
            yield Point(name, (count,), float(count), prepare, run)
    yield Point("dot", (count,), work, draw, lambda given: [torch.linalg.vector_norm(a) for a, _ in given])
    weights = [pool.learn(count).clone().detach().requires_grad_()]
    weights[0].grad = pool.take(count)
    optimizer = torch.optim.AdamW(weights, fused=True)
    yield Point("adamw", (count,), float(count), lambda: None, lambda _: optimizer.step())


def calls(pool: Pool) -> Iterator[Point]:
    """What calling itself costs, and how fast memory is read."""
    import torch

    layer, one = torch.nn.Linear(1, 1, bias=False).to(pool.dtype), torch.ones(1, 1, dtype=pool.dtype)

    def chain() -> Any:
        x = one
        for _ in range(64):
            x = layer(x)
        return x

    @torch.no_grad()
    def views() -> None:
        for _ in range(64):
            one[0:1].t()

    yield Point("view", (), 128.0, lambda: None, lambda _: views())
    yield Point("call", (), 64.0, lambda: None, lambda _: chain())
    yield Point("call_back", (), 64.0, chain, lambda y: y.backward())
    yield Point("start", (), 16.0, lambda: None, lambda _: [layer(one).backward() for _ in range(16)])
    whole = pool.take(pool.numbers)
    yield Point("read", (pool.numbers,), float(POOL), lambda: None, lambda _: whole.sum())


def main(argv: list[str]) -> None:
    """Measure every point of the grid named on the command line."""
    grid = GRIDS[argv[0]]
    import torch

    from danlu.fleet.reference import Reference

    torch.set_num_threads(1)
    reference = Reference()
    looks = deque[float](maxlen=LOOKS)

    def say(op: str, shape: tuple[int, ...], per_s: float, dtype: str = "fp32") -> None:
        looks.append(reference.seconds())
        print(json.dumps([op, dtype, list(shape), per_s, statistics.median(looks)]), flush=True)

    for _ in range(grid.passes):
        for point in points(grid):
            say(point.op, point.shape, point.work / seconds(point, grid.spend_s))
        for op, pause_us, more_s in after(grid.pauses):
            say(op, (pause_us,), 1 / more_s)
    for point in points(BF16, "bf16"):
        if point.op not in STATE:
            say(point.op, point.shape, point.work / seconds(point, BF16.spend_s), "bf16")


if __name__ == "__main__":
    main(sys.argv[1:])
