"""What is known of a model without tensors: which parameters it has, their shapes, and the axis a card may cut."""

from __future__ import annotations

from danlu.nouns import ModelSpec

# Last parts of a parameter's name -> (axis that is cut over cards, what the axis counts). A name not here is never cut.
CUTS = {
    "embed.weight": (0, "vocab"), "head.weight": (0, "vocab"),
    "attn.q.weight": (0, "heads"), "attn.q.bias": (0, "heads"), "attn.o.weight": (1, "heads"),
    "attn.k.weight": (0, "kv_heads"), "attn.k.bias": (0, "kv_heads"),
    "attn.v.weight": (0, "kv_heads"), "attn.v.bias": (0, "kv_heads"),
    "mlp.gate.weight": (0, "ffn"), "mlp.up.weight": (0, "ffn"), "mlp.down.weight": (1, "ffn"),
}  # fmt: skip


def cut_of(name: str) -> tuple[int, str] | None:
    """(axis, what it counts) of the parameter `name`, or None when every card holds the whole of it."""
    parts = name.split(".")
    return CUTS.get(".".join(parts[-3:])) or CUTS.get(".".join(parts[-2:]))


def unit_shapes(spec: ModelSpec, unit: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of one unit, by our name, uncut. A tied head has no weight of its own here."""
    kind = unit.rsplit(".", 1)[-1]
    width, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    if kind == "embed":
        shapes["weight"] = (spec.vocab, width)
    elif kind == "head":
        shapes["norm.weight"] = (width,)
        if not spec.tied:
            shapes["weight"] = (spec.vocab, width)
    elif kind == "attn":
        shapes["norm.weight"] = (width,)
        for name, rows, columns, bias in (
            ("q", q, width, spec.qkv_bias), ("k", kv, width, spec.qkv_bias),
            ("v", kv, width, spec.qkv_bias), ("o", width, q, spec.out_bias),
        ):  # fmt: skip
            shapes[f"{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{name}.bias"] = (rows,)
        if spec.qk_norm:
            shapes["q_norm.weight"] = shapes["k_norm.weight"] = (spec.head_dim,)
    elif kind == "mlp":
        shapes |= {"norm.weight": (width,), "gate.weight": (spec.ffn, width), "up.weight": (spec.ffn, width),
                   "down.weight": (width, spec.ffn)}  # fmt: skip
    else:
        raise KeyError(unit)
    return {f"{unit}.{name}": shape for name, shape in shapes.items()}


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of every parameter of the model, by our name, in order of the units."""
    return {name: shape for unit in spec.units for name, shape in unit_shapes(spec, unit).items()}
