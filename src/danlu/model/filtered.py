"""Yuan 2.0's attention behind a local filter (LFA, arXiv 2311.15786). Axes: C channels inside the filter (D / 2)."""

from __future__ import annotations

from torch import Tensor, nn

from danlu.model.layers import attention
from danlu.model.parts import Context, Linear, Made, Norm

FILTER_EPS = 1e-6  # of the filter's norm: fixed in the published model, whatever config.json says of the others


class FilteredAttention(nn.Module):
    """Norm, local filter for q and k, grouped-query attention, residual.

    o_t = A0 h_{t-1} + A1 h_t + a;  u_t = B0 o_{t-1} + B1 o_t + b;  z_t = norm(u_t + h_t);  q, k from z, v from h.
    Before the first token of a sequence h and o are zero (o is not a). Cards share the channels of o: u is one sum.
    """

    norm: Norm
    conv1: nn.Module
    conv2: nn.Module
    filter_norm: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Norm | None
    k_norm: Norm | None

    def __init__(self, made: Made, layer: int) -> None:
        super().__init__()
        self.layer, self.window, self.sums, self.size = layer, made.spec.window, made.sums, made.spec.head_dim
        made.furnish(self, "lfa")
        self.filter_norm.eps = FILTER_EPS
        if not made.spec.qk_norm:
            self.q_norm = self.k_norm = None

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """(T, D) -> (T, D)."""
        h_TD = self.norm(x_TD)
        seen_TD = self.sums.spread(h_TD)
        o_TC = self._taps(self.conv1, 0, seen_TD, context)
        u_TD = self.sums.total(self._taps(self.conv2, 1, o_TC, context))
        z_TD = self.sums.spread(self.filter_norm(u_TD + h_TD))
        return x_TD + self.sums.total(attention(self, z_TD, seen_TD, context))

    def _taps(self, conv: nn.Module, number: int, x: Tensor, context: Context) -> Tensor:
        """A convolution over time of two taps, as two products; `number` is that of the filter's convolutions."""
        past = context.state.before(self.layer, number, x, context.meta)
        found: Tensor = conv.here(x) + conv.past(past)  # type: ignore[operator]
        return found
