"""From the numbers of a model to its op program: what model/layers.py does in modules, as a flat list. No torch.

A new family, or a new order of sub-layers, needs nothing here or in C; a new kind of sub-layer is one more function in
SUBLAYERS, made of the operators there are. A model with one that is not here runs as torch modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from danlu.kernels.program import FREQUENCIES, Buffer, Code, Op, Program
from danlu.nouns import ModelSpec


class NotLowered(Exception):
    """There is no op program of this model, and why; the caller turns it into the torch path."""


class Draft:
    """A program being written: its operators so far, and its buffers by name."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.ops: list[Op] = []
        self._buffers: dict[str, tuple[int, Buffer]] = {}

    def buffer(self, name: str, columns: int, *, wanted: bool = False) -> int:
        """Index of the buffer of that name; sub-layers share what they name alike, at the greatest width."""
        index, known = self._buffers.get(name, (len(self._buffers), Buffer(name, columns, wanted)))
        assert known.columns == columns, name
        self._buffers[name] = (index, known)
        return index

    def add(self, code: Code, out: int = -1, source: int = -1, other: int = -1, *, weights: Iterable[str] = (),
            biases: Iterable[str | None] = (), n: tuple[int, ...] = (), scale: float = 0.0) -> None:  # fmt: skip
        """Append one operator."""
        self.ops.append(Op(code, out, source, other, tuple(weights), tuple(biases), n, scale))

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All buffers by index."""
        return tuple(buffer for _, buffer in self._buffers.values())


def lower(spec: ModelSpec) -> Program:
    """The op program of a whole model. Raises NotLowered for a kind of sub-layer that it has no operators for."""
    draft = Draft(spec)
    x = draft.buffer("x", spec.hidden)
    draft.add(Code.EMBED, x, weights=["embed.weight"])
    draft.add(Code.ANGLES, draft.buffer("angles", spec.head_dim), weights=[FREQUENCIES])
    for layer in range(spec.layers):
        for kind in spec.recipe:
            if kind not in SUBLAYERS:
                raise NotLowered(f"sub-layer {kind!r} has no operators")
            SUBLAYERS[kind](draft, f"layers.{layer}.{kind}", layer)
    taken, normed = (draft.buffer(name, spec.hidden, wanted=True) for name in ("taken", "normed"))
    draft.add(Code.TAKE, taken, x)
    draft.add(Code.NORM, normed, taken, weights=["head.norm.weight"], scale=spec.norm_eps)
    head = "embed.weight" if spec.tied else "head.weight"
    draft.add(Code.LINEAR, draft.buffer("logits", spec.vocab, wanted=True), normed, weights=[head], n=(0,))
    return Program(tuple(draft.ops), draft.buffers, spec.kv_heads, spec.head_dim, spec.layers)


def attention(draft: Draft, unit: str, layer: int) -> None:
    """Norm, grouped-query attention with rotary positions, residual."""
    spec = draft.spec
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    x, h = draft.buffer("x", spec.hidden), draft.buffer("h", spec.hidden)
    qkv, o = draft.buffer("qkv", q + 2 * kv), draft.buffer("o", q)
    angles = draft.buffer("angles", spec.head_dim)
    draft.add(Code.NORM, h, x, weights=[f"{unit}.norm.weight"], scale=spec.norm_eps)
    draft.add(Code.LINEAR, qkv, h, weights=[f"{unit}.{part}.weight" for part in "qkv"],
              biases=[f"{unit}.{part}.bias" if spec.qkv_bias else None for part in "qkv"], n=(0,))  # fmt: skip
    for part, column, heads in (("q", 0, spec.heads), ("k", q, spec.kv_heads)):
        if spec.qk_norm:
            draft.add(Code.HEAD_NORM, qkv, weights=[f"{unit}.{part}_norm.weight"], n=(column, heads, spec.head_dim),
                      scale=spec.norm_eps)  # fmt: skip
        draft.add(Code.ROPE, qkv, other=angles, n=(column, heads, spec.head_dim))
    draft.add(Code.STORE, source=qkv, n=(q, q + kv, layer))
    draft.add(Code.ATTEND, o, qkv, n=(0, spec.heads, layer, spec.window or 0), scale=spec.head_dim**-0.5)
    draft.add(Code.LINEAR, x, o, weights=[f"{unit}.o.weight"], biases=[f"{unit}.o.bias" if spec.out_bias else None],
              n=(1,))  # fmt: skip


def mlp(draft: Draft, unit: str, layer: int) -> None:
    """Norm, gated MLP with SiLU, residual."""
    spec = draft.spec
    x, h = draft.buffer("x", spec.hidden), draft.buffer("h", spec.hidden)
    both, inner = draft.buffer("gate_up", 2 * spec.ffn), draft.buffer("inner", spec.ffn)
    draft.add(Code.NORM, h, x, weights=[f"{unit}.norm.weight"], scale=spec.norm_eps)
    draft.add(Code.LINEAR, both, h, weights=[f"{unit}.gate.weight", f"{unit}.up.weight"], n=(0,))
    draft.add(Code.GATE, inner, both, n=(0, spec.ffn))
    draft.add(Code.LINEAR, x, inner, weights=[f"{unit}.down.weight"], n=(1,))


SUBLAYERS: dict[str, Callable[[Draft, str, int], None]] = {"attn": attention, "mlp": mlp}
