"""Keys and values in 8 bits: a head is whole numbers of a unit of its own, which is in bf16 behind them.

The unit is the largest magnitude / 127, rounded up. Axes: G key-value heads, K width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIT_BYTES = 2
NOT_A_NUMBER = 0x7FC0  # as bf16


def pack(x_GK: Tensor) -> Tensor:
    """int8 (..., G, K + 2) of floats (..., G, K); a head that is not finite gets a unit that is not a number."""
    x_GK = x_GK.float()
    most = x_GK.abs().amax(-1, keepdim=True)
    bits = ((most / 127).view(torch.int32) + 0xFFFF) >> 16
    bits = torch.where(x_GK.isfinite().all(-1, keepdim=True), bits, NOT_A_NUMBER).to(torch.int16)
    numbers = (x_GK / bits.view(torch.bfloat16).float()).round().nan_to_num(0.0).to(torch.int8)
    return torch.cat((numbers, bits.view(torch.int8)), -1)


def unpack(packed_GK: Tensor) -> Tensor:
    """The floats again, (..., G, K)."""
    numbers, unit = packed_GK[..., :-UNIT_BYTES], packed_GK[..., -UNIT_BYTES:].flatten().clone().view(torch.bfloat16)
    return numbers.float() * unit.float().view(*numbers.shape[:-1], 1)
