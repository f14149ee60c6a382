"""Model families without tensors: what a config.json means, and what the parameters are called in a family's files.

A family is one file of this package, named as `model_type` in config.json, with FAMILY: what differs from Llama as a
table, or a class of its own with spec(config), config(spec), names(spec) and stored(spec).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu import plugins, recipe
from danlu.errors import BadModel
from danlu.nouns import ModelSpec


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stored tensor: `name[index]`; an empty index is all of it.

    index  per axis (start, stop), or a number, which drops the axis
    """

    name: str
    index: tuple[tuple[int, int] | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """How a family's files hold what we keep otherwise.

    shapes  of the tensors in the files that are not one of ours
    pieces  by our name: joined along the first axis, they are the parameter
    """

    shapes: Mapping[str, tuple[int, ...]]
    pieces: Mapping[str, tuple[Piece, ...]]


def unit_shapes(spec: ModelSpec, unit: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of one unit, by our name, uncut. A tied head has no weight of its own here."""
    return {f"{unit}.{each.name}": each.shape for each in recipe.weights(spec, recipe.kind_of(unit))}


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
    found: ModelSpec = _find(family).spec(config)
    return found


def config(spec: ModelSpec) -> dict[str, Any]:
    """config.json of a spec, for transformers from 4.56 on. Raises UnsupportedModel if the family cannot say it."""
    found: dict[str, Any] = _find(spec.family).config(spec)
    return found


def names(spec: ModelSpec) -> dict[str, str]:
    """Our parameter name -> the one in the family's safetensors files, or in a quantized folder made from them."""
    found: dict[str, str] = _find(spec.family).names(spec)
    return found


def pieces(spec: ModelSpec) -> dict[str, tuple[Piece, ...]]:
    """Our parameter name -> the parts of the files' tensors that it is made of, joined along the first axis."""
    special = _find(spec.family).stored(spec)
    own = special.pieces if special else {}
    return {ours: own.get(ours, (Piece(name),)) for ours, name in names(spec).items()}


def stored_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of every tensor in the family's files, by its name there."""
    special, ours = _find(spec.family).stored(spec), shapes(spec)
    if special is None:
        return {name: ours[own] for own, name in names(spec).items()}
    kept = {name: ours[own] for own, name in names(spec).items() if own not in special.pieces}
    return {**kept, **special.shapes}


def _find(family: str) -> Any:
    return plugins.load("danlu.families", family).FAMILY
