"""The three products of a linear layer y = x W^T, as a trainer asks for them: y, dx = g W, and dW += g^T x.

What a product reads of x or g is an operand, made once and used by every product that needs it. In the element type of
the decoder that is the tensor itself; fp8.py has another form. Axes: T rows (tokens), I in, O out.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from danlu.kernels import wide

Operand = tuple[Tensor, ...]  # what products read of one matrix; tensors, so that autograd can keep them


class Products(Protocol):
    """How the products of linear layers are computed. Used by one thread."""

    def seen(self, x_TI: Tensor) -> Operand:
        """What `ahead` and `add` read of a layer's input."""
        ...

    def back(self, g_TO: Tensor) -> Operand:
        """What `behind` and `add` read of the gradient of its output."""
        ...

    def ahead(self, x: Operand, weight_OI: Tensor, onto: Tensor | None = None, *, into: Tensor | None = None) -> Tensor:
        """x W^T, added to `onto` (a residual (T, O), or a bias (O,)) where there is one: (T, O).

        into  where to write it, where nothing is added
        """
        ...

    def behind(self, g: Operand, weight_OI: Tensor, *, into: Tensor | None = None) -> Tensor:
        """g W: (T, I), written to `into` where there is one."""
        ...

    def add(self, total_OI: Tensor, g: Operand, x: Operand) -> None:
        """total += g^T x."""
        ...

    def fresh(self) -> None:
        """Weights may have changed since the last product."""
        ...

    def held_bytes(self, rows: int, columns: int) -> int:
        """Bytes that a weight (rows, columns) takes here, beside itself."""
        ...


class Plain:
    """Products in the element type of the decoder."""

    def seen(self, x_TI: Tensor) -> Operand:
        """The tensor itself."""
        return (x_TI,)

    def back(self, g_TO: Tensor) -> Operand:
        """The tensor itself."""
        return (g_TO,)

    def ahead(self, x: Operand, weight_OI: Tensor, onto: Tensor | None = None, *, into: Tensor | None = None) -> Tensor:
        """One product, which adds, too."""
        if onto is None:
            return wide.mm(x[0], weight_OI.t(), into)
        return wide.addmm(onto, x[0], weight_OI.t())

    def behind(self, g: Operand, weight_OI: Tensor, *, into: Tensor | None = None) -> Tensor:
        """One product."""
        return wide.mm(g[0], weight_OI, into)

    def add(self, total_OI: Tensor, g: Operand, x: Operand) -> None:
        """One product, which adds: the gradient of one micro-batch is never written down, which torch's linear does."""
        wide.add_mm_(total_OI, g[0].t(), x[0])

    def fresh(self) -> None:
        """Nothing is kept."""

    def held_bytes(self, rows: int, columns: int) -> int:
        """None."""
        return 0


PLAIN = Plain()
