"""Model families without tensors: what a config.json means, which parameters a model has, which axis a card may cut.

A family is one file of this package, named as `model_type` in config.json, with spec(config), config(spec) and
names(spec).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu import plugins
from danlu.errors import BadModel
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


def read(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises BadModel if it is missing or unreadable."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"its top level is {type(config).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel("no readable config.json", where=str(path), why=str(error), fix=f"ls -l {folder}") from error
    return config


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """ModelSpec of a Hugging Face config.json. Raises UnknownPlugin (family), BadModel or UnsupportedModel.

    The way to a new model too: spec({"model_type": "qwen3", "hidden_size": 64, ...}) has the family's own traits.
    """
    family = config.get("model_type")
    if not isinstance(family, str):
        raise BadModel(
            "config.json names no model_type",
            why=f"model_type is {family!r}",
            fix=f"add one of: {', '.join(plugins.names('danlu.families'))}",
        )
    found: ModelSpec = plugins.load("danlu.families", family).spec(config)
    return found


def config(spec: ModelSpec) -> dict[str, Any]:
    """config.json of a spec, for transformers from 4.56 on. Raises UnsupportedModel if the family cannot say it."""
    found: dict[str, Any] = plugins.load("danlu.families", spec.family).config(spec)
    return found


def names(spec: ModelSpec) -> dict[str, str]:
    """Our parameter name -> the one in the family's safetensors files."""
    found: dict[str, str] = plugins.load("danlu.families", spec.family).names(spec)
    return found
