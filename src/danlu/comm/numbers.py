"""Number formats that travel, as numpy holds them, and their sums: in the order given, halves in fp32, rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.errors import BadMessage

Array = npt.NDArray[Any]

# numpy has no bf16: its bits travel as uint16.
NAMES = {
    np.dtype(np.float32): "fp32", np.dtype(np.uint16): "bf16", np.dtype(np.float16): "fp16",
    np.dtype(np.float64): "fp64", np.dtype(np.int32): "int32", np.dtype(np.int64): "int64", np.dtype(np.uint8): "uint8",
}  # fmt: skip


def name_of(array: Array) -> str:
    """The wire's name of an array's numbers. Raises BadMessage for one that does not travel."""
    try:
        return NAMES[array.dtype]
    except KeyError:
        raise BadMessage(
            f"numbers of kind {array.dtype} do not travel",
            why=f"the wire knows {', '.join(NAMES.values())}",
            fix="cast the tensor to one of them first",
        ) from None


def flat(array: Array) -> Array:
    """The array as one contiguous axis, a view. Raises BadMessage for one with gaps: its sum could not be put back."""
    if not array.flags.c_contiguous:
        raise BadMessage(
            "an array with gaps cannot take part in a collective",
            why=f"shape {array.shape} has strides {array.strides}",
            fix="pass numpy.ascontiguousarray(x), or tensor.contiguous()",
        )
    return array.reshape(-1)


def add_up(terms: Sequence[Array], out: Array) -> None:
    """out = terms[0] + terms[1] + ..., element by element, one after the other; uint16 is read as bf16.

    out may be one of two or more terms.
    """
    if out.dtype not in (np.uint16, np.float16):
        if len(terms) == 1:
            out[...] = terms[0]
            return
        total = terms[0] if len(terms) == 2 else terms[0] + terms[1]
        for term in terms[2:-1]:
            total += term
        np.add(total, terms[-1], out=out)
        return
    wide = np.zeros(out.shape, np.float32)
    for term in terms:
        wide += _of_bf16(term) if out.dtype == np.uint16 else term.astype(np.float32)
    with np.errstate(over="ignore"):
        out[...] = _to_bf16(wide) if out.dtype == np.uint16 else wide.astype(np.float16)


def _of_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bf16(wide: Array) -> Array:
    bits = wide.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(wide), bits >> 16 | 64, rounded).astype(np.uint16)
