"""What units are built of: a linear layer, a norm, and the making of both from the table of danlu/recipe.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu import recipe
from danlu.model.halves import Halves
from danlu.model.parallel import Reduce, Sums
from danlu.model.post import Post
from danlu.model.products import PLAIN, Products
from danlu.model.state import Meta, State
from danlu.nouns import ModelSpec
from danlu.shares import Share


class Linear(nn.Module):
    """y = x W^T + b with W (out, in). Replaced in place by its quantized form, which answers the same call.

    halves    where a trainer's weight gradients go; None for torch's own backward
    products  how a trainer multiplies
    """

    halves: Halves | None = None
    products: Products = PLAIN

    def __init__(self, rows: int, columns: int, bias: bool, dtype: torch.dtype, device: str | torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns, dtype=dtype, device=device))
        self.bias = nn.Parameter(torch.empty(rows, dtype=dtype, device=device)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        if self.halves is not None:
            return self.halves.linear(x, self.weight, self.bias, self.products)
        return F.linear(x, self.weight, self.bias)


class Norm(nn.Module):
    """RMSNorm over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: str | torch.device) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype, device=device))

    def forward(self, x: Tensor, sums: Sums | None = None) -> Tensor:
        """Same shape out as in; `sums` where x is a card's part of something."""
        weight = self.weight if sums is None else sums.spread(self.weight)
        return F.rms_norm(x, weight.shape, weight, self.eps)


@dataclass(frozen=True, slots=True)
class Made:
    """What every unit is made from."""

    spec: ModelSpec
    share: Share
    reduce: Reduce | None
    dtype: torch.dtype
    device: str | torch.device
    post: Post | None = None

    @property
    def sums(self) -> Sums:
        """Where the parts of this share meet those of the other cards."""
        return Sums(self.reduce)

    def furnish(self, unit: nn.Module, kind: str) -> None:
        """Give a unit the modules its kind's table asks for, uninitialised, each cut to this card's share.

        "q.weight" and "q.bias" become a Linear `q`, "norm.weight" a Norm; a dotted name lies in plain modules.
        """
        held: dict[str, dict[str, tuple[int, ...]]] = {}
        for each in recipe.weights(self.spec, kind):
            if self.share.holds(each):
                home, _, leaf = each.name.rpartition(".")
                held.setdefault(home, {})[leaf] = self.share.shape(each)
        for home, shapes in held.items():
            if home:
                *path, last = home.split(".")
                setattr(_inside(unit, path), last, self._module(last, shapes))
            else:
                weight = nn.Parameter(torch.empty(shapes["weight"], dtype=self.dtype, device=self.device))
                unit.register_parameter("weight", weight)

    def _module(self, name: str, shapes: dict[str, tuple[int, ...]]) -> nn.Module:
        if name.endswith("norm"):
            return Norm(shapes["weight"][0], self.spec.norm_eps, self.dtype, self.device)
        rows, columns = shapes["weight"]
        return Linear(rows, columns, "bias" in shapes, self.dtype, self.device)


def _inside(unit: nn.Module, path: list[str]) -> nn.Module:
    for part in path:
        if part not in unit._modules:
            unit.add_module(part, nn.Module())
        unit = unit.get_submodule(part)
    return unit


def gated(parts: nn.Module, h_TD: Tensor) -> Tensor:
    """down(silu(gate h) * up h) (Shazeer 2020): (T, D) -> (T, D)."""
    found: Tensor = parts.down(F.silu(parts.gate(h_TD)) * parts.up(h_TD))  # type: ignore[operator]
    return found


@dataclass(frozen=True, slots=True)
class Context:
    """One forward pass, as every unit of it sees it. `cos`, `sin` are (T, 1, K); the first half of sin is negated."""

    state: State
    meta: Meta
    cos_T1K: Tensor | None
    sin_T1K: Tensor | None


Unit = Callable[[Made, int], nn.Module]
