"""From the numbers of a model to its op program: what model/layers.py does in modules, as a flat list. No torch.

A new family, or a new order of sub-layers, needs nothing here or in C; a new kind of sub-layer is one more function in
SUBLAYERS, made of the operators there are. A model with one that is not here runs as torch modules.

A model shared by several ranks is the same list over narrower buffers: what a rank adds to the residual is summed over
all of them first, once for each sub-layer and once inside a local filter (Shoeybi 2019, figure 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from danlu.kernels.program import EDGES, FREQUENCIES, Buffer, Code, Op, Program
from danlu.nouns import ModelSpec
from danlu.shares import Share, whole

FILTER_EPS = 1e-6  # of the local filter's norm: fixed in the published model, whatever config.json says of the others


class NotLowered(Exception):
    """There is no op program of this model, and why; the caller turns it into the torch path."""


class Draft:
    """A program being written: its operators so far, and its buffers by name."""

    def __init__(self, spec: ModelSpec, share: Share) -> None:
        self.spec, self.share = spec, share
        self.heads, self.kv_heads, self.ffn, self.shared_ffn, self.channels, self.vocab = (
            stop - start for start, stop in (share.heads, share.kv_heads, share.ffn, share.shared, share.filter,
                                             share.vocab))  # fmt: skip
        self.ops: list[Op] = []
        self._buffers: dict[str, tuple[int, Buffer]] = {}

    def buffer(self, name: str, columns: int, *, wanted: bool = False, times: int = 1) -> int:
        """Index of the buffer of that name; sub-layers share what they name alike."""
        new = Buffer(name, columns, wanted, times)
        index, known = self._buffers.get(name, (len(self._buffers), new))
        assert known == new, name
        self._buffers[name] = (index, known)
        return index

    def add(self, code: Code, out: int = -1, source: int = -1, other: int = -1, *, weights: Iterable[str] = (),
            biases: Iterable[str | None] = (), n: tuple[int, ...] = (), scale: float = 0.0) -> None:  # fmt: skip
        """Append one operator."""
        self.ops.append(Op(code, out, source, other, tuple(weights), tuple(biases), n, scale))

    def partial(self) -> int:
        """Where a sub-layer puts what it adds to the residual: there at once, or, shared, to be summed first."""
        return self.buffer("x" if self.share.cards == 1 else "partial", self.spec.hidden)

    def total(self, part: int, out: int) -> None:
        """Add what all ranks put to `part`; nothing to do when it went to `out` at once."""
        if part != out:
            self.add(Code.REDUCE, part)
            self.add(Code.ADD, out, part)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All buffers by index."""
        return tuple(buffer for _, buffer in self._buffers.values())


def lower(spec: ModelSpec, share: Share | None = None) -> Program:
    """The op program of a whole model, or of one rank's share of it.

    Logits are whole on the first rank only. Raises NotLowered for a kind of sub-layer that it has no operators for.
    """
    draft = Draft(spec, whole(spec) if share is None else share)
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
    _head(draft, normed)
    return Program(tuple(draft.ops), draft.buffers)


def _head(draft: Draft, normed: int) -> None:
    """Logits; of a share its own columns, then all of them on the first rank."""
    logits, alone = draft.buffer("logits", draft.spec.vocab, wanted=True), draft.share.cards == 1
    head = "embed.weight" if draft.spec.tied and alone else "head.weight"
    own = logits if alone else draft.buffer("own_logits", draft.vocab, wanted=True)
    draft.add(Code.LINEAR, own, normed, weights=[head], n=(0, 0))
    if not alone:
        came = draft.buffer("came_logits", draft.spec.vocab, wanted=True)
        draft.add(Code.GATHER, logits, own, came, weights=[EDGES])


def attention(draft: Draft, unit: str, layer: int) -> None:
    """Norm, grouped-query attention with rotary positions, residual."""
    spec = draft.spec
    x, h = draft.buffer("x", spec.hidden), draft.buffer("h", spec.hidden)
    draft.add(Code.NORM, h, x, weights=[f"{unit}.norm.weight"], scale=spec.norm_eps)
    _project(draft, unit, "qkv", h, 0)
    _attend(draft, unit, layer)


def filtered_attention(draft: Draft, unit: str, layer: int) -> None:
    """The same behind Yuan 2.0's local filter (arXiv 2311.15786): q and k see z, v sees h.

    o = A0 past(h) + A1 h + a;  u = B0 past(o) + B1 o + b;  z = norm(u + h)
    """
    spec = draft.spec
    width, inner = spec.hidden, draft.channels
    x, h, z = (draft.buffer(name, width) for name in ("x", "h", "filtered"))
    past, channels, past_channels = (draft.buffer(name, size) for name, size in (
        ("past", width), ("channels", inner), ("past_channels", inner)))  # fmt: skip
    draft.add(Code.NORM, h, x, weights=[f"{unit}.norm.weight"], scale=spec.norm_eps)
    for number, (source, before, out) in enumerate(((h, past, channels), (channels, past_channels, z))):
        name = f"{unit}.conv{number + 1}"
        draft.add(Code.PAST, before, source, n=(layer, number))
        bias = None if number and draft.share.card else f"{name}.here.bias"
        draft.add(Code.LINEAR, out, source, weights=[f"{name}.here.weight"], biases=[bias], n=(0, 0))
        draft.add(Code.LINEAR, out, before, weights=[f"{name}.past.weight"], n=(1, 0))
    if draft.share.cards > 1:
        draft.add(Code.REDUCE, z)
    draft.add(Code.ADD, z, h)
    draft.add(Code.NORM, z, z, weights=[f"{unit}.filter_norm.weight"], scale=FILTER_EPS)
    _project(draft, unit, "qk", z, 0)
    _project(draft, unit, "v", h, (draft.heads + draft.kv_heads) * spec.head_dim)
    _attend(draft, unit, layer)


def _project(draft: Draft, unit: str, parts: str, source: int, column: int) -> None:
    """Some of q, k and v side by side, from a column on."""
    spec = draft.spec
    qkv = draft.buffer("qkv", (draft.heads + 2 * draft.kv_heads) * spec.head_dim)
    draft.add(Code.LINEAR, qkv, source, weights=[f"{unit}.{part}.weight" for part in parts],
              biases=[f"{unit}.{part}.bias" if spec.qkv_bias else None for part in parts], n=(0, column))  # fmt: skip


def _attend(draft: Draft, unit: str, layer: int) -> None:
    """From q, k and v to the residual."""
    spec = draft.spec
    q, kv = draft.heads * spec.head_dim, draft.kv_heads * spec.head_dim
    qkv, o, angles = draft.buffer("qkv", q + 2 * kv), draft.buffer("o", q), draft.buffer("angles", spec.head_dim)
    for name, column, heads in (("q", 0, draft.heads), ("k", q, draft.kv_heads)):
        if spec.qk_norm:
            draft.add(Code.HEAD_NORM, qkv, weights=[f"{unit}.{name}_norm.weight"], n=(column, heads, spec.head_dim),
                      scale=spec.norm_eps)  # fmt: skip
        draft.add(Code.ROPE, qkv, other=angles, n=(column, heads, spec.head_dim))
    draft.add(Code.STORE, source=qkv, n=(q, q + kv, layer))
    draft.add(Code.ATTEND, o, qkv, n=(0, draft.heads, layer, spec.window or 0), scale=spec.head_dim**-0.5)
    x, part = draft.buffer("x", spec.hidden), draft.partial()
    bias = f"{unit}.o.bias" if spec.out_bias and not draft.share.card else None
    draft.add(Code.LINEAR, part, o, weights=[f"{unit}.o.weight"], biases=[bias], n=(int(part == x), 0))
    draft.total(part, x)


def mlp(draft: Draft, unit: str, layer: int) -> None:
    """Norm, gated MLP with SiLU, residual."""
    spec = draft.spec
    x, h = draft.buffer("x", spec.hidden), draft.buffer("h", spec.hidden)
    draft.add(Code.NORM, h, x, weights=[f"{unit}.norm.weight"], scale=spec.norm_eps)
    part = draft.partial()
    _gated(draft, f"{unit}.", "", draft.ffn, part, add=part == x)
    draft.total(part, x)


def moe(draft: Draft, unit: str, layer: int) -> None:
    """Norm, a router over experts that are gated MLPs, a shared one behind a sigmoid where there is one, residual."""
    spec = draft.spec
    x, h, router = (draft.buffer(name, size) for name, size in (
        ("x", spec.hidden), ("h", spec.hidden), ("router", spec.experts)))  # fmt: skip
    route = draft.buffer("route", 2 * spec.experts_used)
    both = draft.buffer("expert_gate_up", 2 * draft.ffn, times=spec.experts_used)
    inner = draft.buffer("expert_inner", draft.ffn, times=spec.experts_used)
    part = draft.partial()
    first, stop = draft.share.experts
    names = [[f"{unit}.experts.{e}.{name}.weight" for e in range(first, stop)] for name in ("gate", "up", "down")]
    draft.add(Code.NORM, h, x, weights=[f"{unit}.norm.weight"], scale=spec.norm_eps)
    draft.add(Code.LINEAR, router, h, weights=[f"{unit}.router.weight"], n=(0, 0))
    draft.add(Code.ROUTE, route, router, n=(int(spec.norm_topk),))
    draft.add(Code.EXPERTS, both, h, route, weights=names[0] + names[1], n=(stop - first, first))
    draft.add(Code.GATE, inner, both, n=(0, draft.ffn))
    draft.add(Code.COLLECT, part, inner, route, weights=names[2], n=(stop - first, int(part != x), first))
    if spec.shared_ffn:
        shared, share = draft.buffer("shared", spec.hidden), draft.buffer("share", 1)
        _gated(draft, f"{unit}.shared.", "shared_", draft.shared_ffn, shared, add=False)
        draft.add(Code.LINEAR, share, h, weights=[f"{unit}.shared_gate.weight"], n=(0, 0))
        draft.add(Code.BLEND, part, shared, share)
    draft.total(part, x)


def _gated(draft: Draft, prefix: str, own: str, ffn: int, out: int, *, add: bool) -> None:
    """A gated MLP of h, put to a buffer or added to it; `own` sets its buffers apart from others'."""
    h, both, inner = (draft.buffer(name, size) for name, size in (
        ("h", draft.spec.hidden), (f"{own}gate_up", 2 * ffn), (f"{own}inner", ffn)))  # fmt: skip
    draft.add(Code.LINEAR, both, h, weights=[f"{prefix}gate.weight", f"{prefix}up.weight"], n=(0, 0))
    draft.add(Code.GATE, inner, both, n=(0, ffn))
    draft.add(Code.LINEAR, out, inner, weights=[f"{prefix}down.weight"], n=(int(add), 0))


SUBLAYERS: dict[str, Callable[[Draft, str, int], None]] = {
    "attn": attention, "lfa": filtered_attention, "mlp": mlp, "moe": moe,
}  # fmt: skip
