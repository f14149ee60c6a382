"""llama.cpp's number formats: blocks of weights that share a scale, as float32 and back.

Every row is whole blocks. The layouts are those of ggml (ggml-common.h and ggml-quants.c describe them in code).
Encoders exist for the formats danlu writes: F32, F16, BF16, Q8_0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

KINDS = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
         20: "IQ4_NL", 30: "BF16"}  # fmt: skip
IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


@dataclass(frozen=True, slots=True)
class Block:
    """How many weights share one block, its bytes, and what turns (n, bytes) blocks into (n, weights) floats."""

    weights: int
    bytes: int
    floats: Callable[[Bytes], Floats]


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of one row of that many weights, which must be whole blocks."""
    block = BLOCKS[kind]
    assert columns % block.weights == 0
    return columns // block.weights * block.bytes


def floats(kind: str, buffer: Any) -> Floats:
    """The weights of whole blocks, flat."""
    block = BLOCKS[kind]
    return block.floats(np.frombuffer(buffer, np.uint8).reshape(-1, block.bytes)).reshape(-1)


def encoded(kind: str, weights: Floats) -> Bytes:
    """The bytes of weights (rows, columns) in a format that danlu writes: "F32", "F16", "BF16" or "Q8_0"."""
    flat = np.ascontiguousarray(weights, np.float32).reshape(-1)
    if kind == "F32":
        return flat.view(np.uint8)
    if kind == "F16":
        return flat.astype(np.float16).view(np.uint8)
    if kind == "BF16":
        bits = flat.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.uint8)  # to the nearest even
    assert kind == "Q8_0", kind
    blocks = flat.reshape(-1, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    levels = np.rint(blocks * np.divide(1, scale, where=scale > 0, out=np.zeros_like(scale))).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), levels.view(np.uint8)], -1).reshape(-1)


def _half(raw: Bytes) -> Floats:
    """fp16 numbers, (n, 2 k) bytes to (n, k)."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """(..., k) bytes to (..., 2 k): all low halves, then all high ones."""
    return np.concatenate([raw & 15, raw >> 4], -1)


def _f32(raw: Bytes) -> Floats:
    return raw.view(np.float32)


def _bf16(raw: Bytes) -> Floats:
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q4_0(raw: Bytes) -> Floats:
    return (_nibbles(raw[:, 2:]).astype(np.float32) - 8) * _half(raw[:, :2])


def _q4_1(raw: Bytes) -> Floats:
    return _nibbles(raw[:, 4:]).astype(np.float32) * _half(raw[:, :2]) + _half(raw[:, 2:4])


def _fifth_bits(raw: Bytes) -> Bytes:
    """The fifth bit of 32 weights, from 4 bytes, at its place."""
    return np.unpackbits(raw, axis=-1, bitorder="little") * np.uint8(16)


def _q5_0(raw: Bytes) -> Floats:
    return ((_nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6])).astype(np.float32) - 16) * _half(raw[:, :2])


def _q5_1(raw: Bytes) -> Floats:
    levels = (_nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8])).astype(np.float32)
    return levels * _half(raw[:, :2]) + _half(raw[:, 2:4])


def _q8_0(raw: Bytes) -> Floats:
    return raw[:, 2:].view(np.int8).astype(np.float32) * _half(raw[:, :2])


def _iq4_nl(raw: Bytes) -> Floats:
    levels: Floats = IQ4_LEVELS[_nibbles(raw[:, 2:])]
    return levels * _half(raw[:, :2])


def _sixes(raw: Bytes) -> tuple[Floats, Floats]:
    """The 8 scales and 8 minima of a K block, 6 bits each in 12 bytes."""
    low, high, both = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scale = np.concatenate([low & 63, (both & 15) | (low >> 6 << 4)], -1)
    least = np.concatenate([high & 63, (both >> 4) | (high >> 6 << 4)], -1)
    return scale.astype(np.float32), least.astype(np.float32)


def _k_block(raw: Bytes, levels: Bytes) -> Floats:
    """8 groups of 32 levels (n, 8, 32) by the scales and minima of a K block."""
    scale, least = _sixes(raw[:, 4:16])
    by, off = scale * _half(raw[:, :2]), least * _half(raw[:, 2:4])
    weights: Floats = levels.astype(np.float32) * by[..., None] - off[..., None]
    return weights.reshape(len(raw), 256)


def _q4_k(raw: Bytes) -> Floats:
    return _k_block(raw, _nibbles(raw[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(raw: Bytes) -> Floats:
    low = _nibbles(raw[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    fifth = (raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(
        1
    )  # bit g of byte l: weight l of group g
    return _k_block(raw, low | fifth * np.uint8(16))


def _q6_k(raw: Bytes) -> Floats:
    low, high = raw[:, :128].reshape(-1, 2, 2, 32), raw[:, 128:192].reshape(-1, 2, 1, 32)
    four = np.concatenate([low & 15, low >> 4], 2)  # (n, half, quarter, 32)
    two = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    levels = (four | two << 4).astype(np.float32) - 32
    scale = raw[:, 192:208].view(np.int8).astype(np.float32) * _half(raw[:, 208:])
    weights: Floats = levels.reshape(-1, 16, 16) * scale[..., None]
    return weights.reshape(len(raw), 256)


BLOCKS = {
    "F32": Block(1, 4, _f32), "F16": Block(1, 2, _half), "BF16": Block(1, 2, _bf16),
    "Q4_0": Block(32, 18, _q4_0), "Q4_1": Block(32, 20, _q4_1), "Q5_0": Block(32, 22, _q5_0),
    "Q5_1": Block(32, 24, _q5_1), "Q8_0": Block(32, 34, _q8_0), "IQ4_NL": Block(32, 18, _iq4_nl),
    "Q4_K": Block(256, 144, _q4_k), "Q5_K": Block(256, 176, _q5_k), "Q6_K": Block(256, 210, _q6_k),
}  # fmt: skip
