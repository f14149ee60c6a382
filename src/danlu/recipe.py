"""What a unit of each kind holds: the one place that says a kind's weights, their shapes and where cards may cut them.

`ModelSpec.unit_params`, the names in files, the decoder's modules and the shares of cards all follow from this table. A
new kind of sub-layer is one function here, its line in KINDS, and its forward in danlu/model. No tensors, no imports.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from danlu.nouns import Latent, ModelSpec

MLPS = ("mlp", "moe")  # kinds that the first layers of a mixture have "dense" in place of
ATTENDS = ("attn", "lfa")  # kinds with attention: they rotate positions and keep keys and values
# Where a token goes hangs on these few numbers: of an 8-bit run's sub-layers the only products that are not in 8 bits.
WIDE = ("router.weight", "shared_gate.weight")


class Weight(NamedTuple):
    """One parameter of a unit.

    name    after the unit's own: "q.weight"; an expert's begins with "experts.N."
    shape   uncut
    axis    the one that cards may cut, None where every card holds all of it
    counts  what that axis is made of: "heads", "kv_heads", "ffn", "shared", "filter" or "vocab"
    size    elements of one of those
    once    True for what is added after a sum over cards: only the first of them holds it
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None = None
    counts: str = ""
    size: int = 1
    once: bool = False

    @property
    def expert(self) -> int | None:
        """The number of the expert it belongs to, None for what is no expert's."""
        return int(self.name.split(".")[1]) if self.name.startswith("experts.") else None


def kind_of(unit: str) -> str:
    """ "attn" of "layers.3.attn"; "embed" and "head" are kinds of their own."""
    return unit.rsplit(".", 1)[-1]


@lru_cache(maxsize=256)
def weights(spec: ModelSpec, kind: str) -> tuple[Weight, ...]:
    """The parameters of a unit of that kind, in order. KeyError for a kind that is not in KINDS."""
    return KINDS[kind](spec)


@lru_cache(maxsize=256)
def params(spec: ModelSpec, kind: str) -> int:
    """Number of parameters of a unit of that kind."""
    return sum(_count(each.shape) for each in weights(spec, kind))


def narrow(weight: Weight) -> bool:
    """True for what is multiplied in 8 bits where a run asks for it: a sub-layer's matrices, not embedding and head."""
    return len(weight.shape) == 2 and "." in weight.name and weight.name not in WIDE


def weight_of(spec: ModelSpec, name: str) -> Weight:
    """The table's entry of a parameter by its whole name. KeyError for one that the model has not.

    A tied head far from its embedding has "head.weight", which is the embedding's.
    """
    if name == "head.weight" and spec.tied:
        name = "embed.weight"
    parts = name.split(".")
    at = 3 if parts[0] == "layers" else 1
    return _by_name(spec, parts[at - 1])[".".join(parts[at:])]


@lru_cache(maxsize=256)
def _by_name(spec: ModelSpec, kind: str) -> dict[str, Weight]:
    return {each.name: each for each in weights(spec, kind)}


def _count(shape: tuple[int, ...]) -> int:
    found = 1
    for each in shape:
        found *= each
    return found


def _norm(width: int, name: str = "norm") -> Weight:
    return Weight(f"{name}.weight", (width,))


def _embed(spec: ModelSpec) -> tuple[Weight, ...]:
    return (Weight("weight", (spec.vocab, spec.hidden), 0, "vocab"),)


def _head(spec: ModelSpec) -> tuple[Weight, ...]:
    own = () if spec.tied else (Weight("weight", (spec.vocab, spec.hidden), 0, "vocab"),)
    return (_norm(spec.hidden), *own)


def _attn(spec: ModelSpec) -> tuple[Weight, ...]:
    """q, k, v by their heads, o by the heads it takes in."""
    if spec.latent is not None:
        return _latent(spec, spec.latent)
    width, size = spec.hidden, spec.head_dim
    found = [_norm(width)]
    for name, counts in (("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads")):
        rows = getattr(spec, counts) * size
        found.append(Weight(f"{name}.weight", (rows, width), 0, counts, size))
        if spec.qkv_bias:
            found.append(Weight(f"{name}.bias", (rows,), 0, counts, size))
    found.append(Weight("o.weight", (width, spec.heads * size), 1, "heads", size))
    if spec.out_bias:
        found.append(Weight("o.bias", (width,), once=True))
    if spec.qk_norm:
        found += [_norm(size, "q_norm"), _norm(size, "k_norm")]
    return tuple(found)


def _latent(spec: ModelSpec, ranks: Latent) -> tuple[Weight, ...]:
    """Latent attention: down to a few numbers, a norm, up to heads; a key's positions are the same for all heads."""
    width, heads, q_size = spec.hidden, spec.heads, ranks.head + ranks.rope
    queries = [Weight("q.weight", (heads * q_size, width), 0, "heads", q_size)]
    if ranks.q_rank:
        queries = [Weight("q_down.weight", (ranks.q_rank, width)), _norm(ranks.q_rank, "q_norm"),
                   Weight("q_up.weight", (heads * q_size, ranks.q_rank), 0, "heads", q_size)]  # fmt: skip
    size = ranks.head + ranks.value
    return (_norm(width), *queries, Weight("kv_down.weight", (ranks.kv_rank + ranks.rope, width)),
            _norm(ranks.kv_rank, "kv_norm"), Weight("kv_up.weight", (heads * size, ranks.kv_rank), 0, "heads", size),
            Weight("o.weight", (width, heads * ranks.value), 1, "heads", ranks.value))  # fmt: skip


def _lfa(spec: ModelSpec) -> tuple[Weight, ...]:
    """Attention whose q and k see a local filter: two convolutions over time of two taps, `past` and `here`."""
    width, inner = spec.hidden, spec.hidden // 2
    taps = []
    for tap in ("past", "here"):
        taps.append(Weight(f"conv1.{tap}.weight", (inner, width), 0, "filter"))
    taps.append(Weight("conv1.here.bias", (inner,), 0, "filter"))
    for tap in ("past", "here"):
        taps.append(Weight(f"conv2.{tap}.weight", (width, inner), 1, "filter"))
    taps.append(Weight("conv2.here.bias", (width,), once=True))
    first, *rest = _attn(spec)
    return (first, *taps, _norm(width, "filter_norm"), *rest)


def _gated(prefix: str, width: int, ffn: int, counts: str) -> tuple[Weight, ...]:
    return (
        Weight(f"{prefix}gate.weight", (ffn, width), 0, counts),
        Weight(f"{prefix}up.weight", (ffn, width), 0, counts),
        Weight(f"{prefix}down.weight", (width, ffn), 1, counts),
    )


def _mlp(spec: ModelSpec) -> tuple[Weight, ...]:
    return (_norm(spec.hidden), *_gated("", spec.hidden, spec.ffn, "ffn")[not spec.gated :])


def _dense(spec: ModelSpec) -> tuple[Weight, ...]:
    return (_norm(spec.hidden), *_gated("", spec.hidden, spec.dense_ffn, "ffn"))


def _moe(spec: ModelSpec) -> tuple[Weight, ...]:
    """A router over experts, each a gated MLP; beside them, where there is one, a shared expert behind a gate."""
    found = [_norm(spec.hidden), Weight("router.weight", (spec.experts, spec.hidden))]
    if spec.shared_ffn:
        found += [*_gated("shared.", spec.hidden, spec.shared_ffn, "shared"),
                  Weight("shared_gate.weight", (1, spec.hidden))]  # fmt: skip
    for expert in range(spec.experts):
        found += _gated(f"experts.{expert}.", spec.hidden, spec.ffn, "ffn")
    return tuple(found)


KINDS: dict[str, Callable[[ModelSpec], tuple[Weight, ...]]] = {
    "embed": _embed, "head": _head, "attn": _attn, "lfa": _lfa, "mlp": _mlp, "moe": _moe, "dense": _dense,
}  # fmt: skip
