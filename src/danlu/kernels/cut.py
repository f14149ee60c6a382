"""A part of a weight for one of several processes that share a model: rows stay where they lie, columns are copied.

Not a bit of a 4-bit weight changes: a part remembers where it stood among the spans that share a scale.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from danlu.errors import BadShares
from danlu.kernels import nf4, q4
from danlu.kernels.interpret import Weight


def cut(weight: Weight, axis: int, start: int, stop: int) -> Weight:
    """Rows (axis 0) or columns (axis 1) start .. stop - 1 of a weight.

    Raises BadShares for a 4-bit matrix cut inside a group of 16 rows or a block of 64 columns.
    """
    if isinstance(weight, Tensor):
        return weight.narrow(axis, start, stop - start).contiguous()
    if (start, stop) == (0, weight.shape[axis]):
        return weight
    step = (q4.ROWS, q4.BLOCK)[axis]
    if start % step or (stop % step and stop != weight.shape[axis]):
        what = ("rows", "columns")[axis]
        raise BadShares(
            f"{what} {start} to {stop} of a 4-bit matrix of {weight.shape[0]} x {weight.shape[1]}",
            why=f"it is kept in groups of {step} {what}, and the shares cut one",
            fix="choose shares whose heads are a multiple of 64 wide, or serve the model unquantized",
        )
    return _cut(weight, axis, start, stop)


def _cut(w: q4.Q4, axis: int, start: int, stop: int) -> q4.Q4:
    blocks = w.codes.shape[1]
    if axis == 0:
        lines, columns = slice(start // q4.ROWS, -(-stop // q4.ROWS)), slice(0, blocks)
        shape = (stop - start, w.shape[1])
    else:
        lines, columns = slice(None), slice(start // q4.BLOCK, -(-stop // q4.BLOCK))
        shape = (w.shape[0], stop - start)
    rest = None if w.rest is None else _cut(w.rest, axis, start, stop)
    codes, absmax = (part[lines, columns].contiguous() for part in (w.codes, w.absmax))
    if w.map is None:
        first, last = w.shift + columns.start, w.shift + columns.stop - 1
        scale = w.scale[lines, first // q4.SPAN : last // q4.SPAN + 1].contiguous()
        return dataclasses.replace(w, codes=codes, absmax=absmax, scale=scale, shape=shape, rest=rest,
                                   shift=first % q4.SPAN)  # fmt: skip
    stride = w.stride or blocks
    first = w.shift + (start * stride if axis == 0 else columns.start)
    last = first + (shape[0] - 1) * stride + columns.stop - columns.start - 1
    scale = w.scale[first // nf4.ABSMAX_BLOCK : last // nf4.ABSMAX_BLOCK + 1]
    return dataclasses.replace(w, codes=codes, absmax=absmax, scale=scale, shape=shape, rest=rest,
                               shift=first % nf4.ABSMAX_BLOCK, stride=stride)  # fmt: skip
