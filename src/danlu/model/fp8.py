"""Products of linear layers in 8-bit floats: what goes in is rounded to 8 bits, sums are fp32, what comes out is not 8.

The recipe is that of "FP8 formats for deep learning" (Micikevicius et al. 2022, arXiv 2209.05433): E4M3 for activations
and weights, E5M2 for gradients, one scale for a tensor. Scales are dynamic, from the largest number of the tensor at
hand, so a run has no history of them to save; they are powers of two (as DeepSeek-V3's, arXiv 2412.19437, 3.3.2): a
tensor of 16 bits is scaled without rounding, and a part of a tensor, on whatever card, is rounded as it is in the whole
(but for what is below 2^-13 of the largest, of gradients 2^-28). Axes: T rows (tokens), I in, O out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.products import Operand

GRAIN = 16  # columns and inner sizes of a card's 8-bit product are multiples of it (torch._scaled_mm asks for them)
_LEAST = 1e-30  # of a tensor's largest number: zeros keep a finite scale
_EXPONENT = 0x7F800000  # bits of an fp32's power of two

Multiply = Callable[[Tensor, Tensor, Tensor, Tensor, torch.dtype], Tensor]


def rounded(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """A tensor in 8-bit floats of `kind`, and the power of two (fp32, no axes) that brings it back.

    The largest number comes to lie in the upper half of what the kind reaches. NaN and infinity stay not finite.
    """
    low, high = torch.aminmax(x.detach())
    largest = torch.maximum(-low, high).float().clamp(min=_LEAST)
    scale = ((torch.finfo(kind).max / largest).view(torch.int32) & _EXPONENT).view(torch.float32)
    return (x.detach() * scale.to(x.dtype)).to(kind), scale.reciprocal()


def scaled(a: Tensor, b: Tensor, by_a: Tensor, by_b: Tensor, dtype: torch.dtype) -> Tensor:
    """(a b) by_a by_b of 8-bit floats by the card's own product; a lies by rows, b by columns, sizes are GRAIN's."""
    found: Tensor = torch._scaled_mm(a, b, scale_a=by_a, scale_b=by_b, out_dtype=dtype)
    return found


def emulated(a: Tensor, b: Tensor, by_a: Tensor, by_b: Tensor, dtype: torch.dtype) -> Tensor:
    """The same on any card: products of 8-bit floats are exact in fp32, and so are powers of two."""
    return (a.float() @ b.float()).mul_(by_a * by_b).to(dtype)


class Float8:
    """Products in 8-bit floats. Copies of weights are kept until `fresh`: what a step multiplies with is rounded once.

    ahead, behind  element types of activations and weights, and of gradients
    multiply       `scaled` or `emulated`
    """

    def __init__(
        self, ahead: torch.dtype = torch.float8_e4m3fn, behind: torch.dtype = torch.float8_e5m2,
        multiply: Multiply = scaled,
    ) -> None:  # fmt: skip
        self._ahead, self._behind, self.multiply = ahead, behind, multiply
        self._weights: dict[tuple[int, torch.Size], Operand] = {}
        self._last: tuple[Callable[[], object], int, Operand] | None = None

    def seen(self, x_TI: Tensor) -> Operand:
        """(T, I) rounded, and its scale; q, k and v ask for the same tensor one after the other."""
        if self._last is not None and self._last[0]() is x_TI and self._last[1] == x_TI._version:
            return self._last[2]
        found = rounded(_wide(x_TI), self._ahead)
        self._last = (weakref.ref(x_TI), x_TI._version, found)
        return found

    def back(self, g_TO: Tensor) -> Operand:
        """(T, O) rounded, and its scale."""
        return rounded(_wide(g_TO), self._behind)

    def ahead(self, x: Operand, weight_OI: Tensor, onto: Tensor | None = None, *, into: Tensor | None = None) -> Tensor:
        """One product, then the sum."""
        weight8_OI, _, scale = self._weight(weight_OI)
        found = self.multiply(x[0], weight8_OI.t(), x[1], scale, weight_OI.dtype)
        found = found[:, : len(weight_OI)]
        if into is not None:
            return into.copy_(found)
        return found.contiguous() if onto is None else found + onto

    def behind(self, g: Operand, weight_OI: Tensor, *, into: Tensor | None = None) -> Tensor:
        """One product."""
        _, weight8_IO, scale = self._weight(weight_OI)
        found = self.multiply(g[0], weight8_IO.t(), g[1], scale, weight_OI.dtype)
        found = found[:, : weight_OI.shape[1]]
        return found.contiguous() if into is None else into.copy_(found)

    def add(self, total_OI: Tensor, g: Operand, x: Operand) -> None:
        """One product, then the sum."""
        rows, columns = total_OI.shape
        found = self.multiply(_turned(g[0]), _turned(x[0]).t(), g[1], x[1], total_OI.dtype)
        total_OI.add_(found[:rows, :columns])

    def fresh(self) -> None:
        """Forget the copies of weights."""
        self._weights.clear()
        self._last = None

    def held_bytes(self, rows: int, columns: int) -> int:
        """Two copies of a byte a number: a card's product wants each side the way it reads it."""
        return 2 * (rows + -rows % GRAIN) * (columns + -columns % GRAIN)

    def _weight(self, weight_OI: Tensor) -> Operand:
        """The weight by rows, by columns, and its scale."""
        key = weight_OI.data_ptr(), weight_OI.shape
        if key not in self._weights:
            weight8, scale = rounded(F.pad(_wide(weight_OI), (0, 0, 0, -len(weight_OI) % GRAIN)), self._ahead)
            self._weights[key] = weight8, weight8.t().contiguous(), scale
        return self._weights[key]


def _wide(x: Tensor) -> Tensor:
    """Columns filled up with zeros to the grain."""
    more = -x.shape[1] % GRAIN
    return F.pad(x, (0, more)) if more else x


def _turned(x8: Tensor) -> Tensor:
    """The other way round in memory, its rows, which a product will sum over, filled up with zeros to the grain."""
    more = -len(x8) % GRAIN
    bits = x8.view(torch.uint8)
    return (F.pad(bits, (0, 0, 0, more)) if more else bits).t().contiguous().view(x8.dtype)
