"""The op program: one step of a model as a flat list of operators over numbered buffers and named weights. No torch.

docs/formats.md ("op program") says the same for C, which reads it as the structs of csrc/engine/program.h. A buffer is
a float32 matrix with one row per token of the step, or one per wanted row; a weight is one of the model's parameters by
our name, the rotary frequencies, or the columns where ranks' parts of the vocabulary begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

VERSION = 2
# Weights that no file has: one follows from the spec, the other from the shares of the ranks.
FREQUENCIES, EDGES = "rope.frequencies", "ranks.vocab"


class Code(IntEnum):
    """What an operator does; `n` are its whole numbers, rows are treated alike and independently.

    EMBED      out = weight[token]
    TAKE       out = source[wanted]
    NORM       out = RMS norm of source, eps `scale`
    LINEAR     out = source @ weight.T + bias of up to three weights, side by side from column n[1]; n[0]: added to out
    HEAD_NORM  RMS norm in place of each head of out: columns from n[0], n[1] heads of n[2], eps `scale`
    ANGLES     out = cosines, then sines, of position x frequency
    ROPE       rotates in place by the angles in `other`: columns from n[0], n[1] heads of n[2] (Su 2021, halves)
    STORE      keys from column n[0] and values from column n[1] of source go to the pages of layer n[2]
    ATTEND     out = attention of queries at column n[0], n[1] heads, over layer n[2], the last n[3] tokens (0: all)
    GATE       out = silu(source columns from n[0]) * (source columns from n[1])
    ADD        out += source
    PAST       out = each token's predecessor in source, zero before the first; layer n[0] keeps it as its n[1]th
    ROUTE      out = numbers, then weights, of the greatest of softmax(source); n[0]: weights sum to one
    EXPERTS    out = source @ [a, b].T of each of n[0] experts from the n[1]th, for the tokens that `other` routes to
               it; rows are sorted by expert, then by token, without those of other experts; weights are all a, then
               all b
    COLLECT    out += for each token the sum over its experts of weight * (its row of source @ weight.T); n[1]: out is
               zero before; of the experts from the n[2]th
    BLEND      out += sigmoid(column 0 of other) * source
    REDUCE     out = the sum of every rank's out
    GATHER     out = source of every rank side by side, on rank 0; the weight has the first column of each, and the end;
               `other` is room for as much as out
    """

    EMBED = 0
    TAKE = 1
    NORM = 2
    LINEAR = 3
    HEAD_NORM = 4
    ANGLES = 5
    ROPE = 6
    STORE = 7
    ATTEND = 8
    GATE = 9
    ADD = 10
    PAST = 11
    ROUTE = 12
    EXPERTS = 13
    COLLECT = 14
    BLEND = 15
    REDUCE = 16
    GATHER = 17


@dataclass(frozen=True, slots=True)
class Op:
    """One operator. Buffers are indices, -1 for none; weights and biases are names, side by side."""

    code: Code
    out: int = -1
    source: int = -1
    other: int = -1
    weights: tuple[str, ...] = ()
    biases: tuple[str | None, ...] = ()
    n: tuple[int, ...] = ()
    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Buffer:
    """A matrix of `columns` floats, with `times` rows per wanted row if `wanted`, else per token."""

    name: str
    columns: int
    wanted: bool = False
    times: int = 1


@dataclass(frozen=True, slots=True)
class Program:
    """Operators in order; the logits are the buffer of the last one's `out`."""

    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of every weight and bias, each once, in order of first use."""
        named = (name for op in self.ops for name in (*op.weights, *op.biases) if name is not None)
        return tuple(dict.fromkeys(named))

    @property
    def logits(self) -> int:
        """The buffer that holds the result of a step."""
        return self.ops[-1].out
