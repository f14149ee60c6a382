"""Plan JSON, both ways (docs/formats.md, "Plan JSON")."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from danlu.errors import UnreadablePlan
from danlu.lines import place
from danlu.nouns import Plan, Stage

VERSION = 3
READ = (1, 2, 3)  # 2 added replicas, and the experts of a stage; 3 the context of a pipeline
FIX = "danlu plan run.yaml writes it anew"


def dumps(plan: Plan) -> str:
    """The plan as JSON text that `loads` reads back equal."""
    return json.dumps({"plan": VERSION, **_plain(plan)}, indent=1)


def loads(text: str, where: str = "plan") -> Plan:
    """The plan of a JSON text.

    where  path of the text, for messages
    Raises UnreadablePlan: no JSON, a newer version, an unknown or missing field, a value of the wrong type, stages that
    do not cover the model's units in order, a card the fleet has not.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UnreadablePlan("the plan is not JSON", where=where, why=str(error), fix=FIX) from error
    version = tree.pop("plan", None) if isinstance(tree, dict) else None
    if version not in READ:
        raise UnreadablePlan(
            "the plan has another version", where=where, why=f"plan: {version}, this danlu reads {VERSION}", fix=FIX
        )
    try:
        plan = _noun(Plan, tree, "plan")
        assert isinstance(plan, Plan)
        _check(plan)
    except (ValueError, KeyError, TypeError) as error:
        line = place(text, where, error.keys) if isinstance(error, _Misplaced) else where
        raise UnreadablePlan("the plan does not hold", where=line, why=str(error), fix=FIX) from error
    return plan


def _plain(value: Any) -> Any:
    """Nouns as dicts and lists; a field that has its default is left out."""
    if dataclasses.is_dataclass(value):
        fields = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {f.name: _plain(each) for f, each in fields if f.default is dataclasses.MISSING or each != f.default}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def _noun(kind: Any, value: Any, path: str) -> Any:
    """A value of the given type hint from plain JSON. Raises ValueError naming the path."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _noun(next(each for each in inner if each is not type(None)), value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{path} is {value!r:.40}, not a list")
        return tuple(_noun(inner[0], each, f"{path}[{i}]") for i, each in enumerate(value))
    if origin is not None:  # a mapping
        if not isinstance(value, dict):
            raise ValueError(f"{path} is {value!r:.40}, not an object")
        return {key: _noun(inner[1], each, f"{path}.{key}") for key, each in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{path} is {value!r:.40}, not {kind.__name__}")
    return value


def _dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {value!r:.40}, not an object")
    hints = typing.get_type_hints(kind)
    unknown = set(value) - set(hints)
    if unknown:
        raise ValueError(f"{path} has no field {', '.join(sorted(unknown))}")
    return kind(**{name: _noun(hints[name], each, f"{path}.{name}") for name, each in value.items()})


class _Misplaced(ValueError):
    """What is wrong, and the keys of the text that say it."""

    def __init__(self, what: str, keys: tuple[str | int, ...]) -> None:
        super().__init__(what)
        self.keys = keys


def keys_of(copy: int) -> tuple[str | int, ...]:
    """Keys of a plan's text under which a copy of the model stands: the first is the plan itself."""
    return ("replicas", copy - 1) if copy else ()


def _check(plan: Plan) -> None:
    """The stages of every copy must follow each other over all units, on cards of the fleet, each card once."""
    for copy, pipeline in enumerate(plan.pipelines):
        _check_stages(plan, pipeline.stages, (*keys_of(copy), "stages"))
    sizes = [plan.micro_batch, plan.seq, *(each.micro_batches for each in plan.pipelines)]
    if min(sizes) < 1:
        raise ValueError("micro_batch, micro_batches and seq must be at least 1")
    held = [name for each in plan.pipelines for stage in each.stages for name in stage.cards]
    if twice := sorted({name for name in held if held.count(name) > 1}):
        raise ValueError(f"card {twice[0]!r} is given more than one place")


def _check_stages(plan: Plan, stages: tuple[Stage, ...], keys: tuple[str | int, ...]) -> None:
    at = 0
    for number, stage in enumerate(stages):
        here = (*keys, number)
        if stage.start != at or stage.stop <= stage.start or not stage.cards:
            held = f"units {stage.start}..{stage.stop} on {stage.cards}"
            raise _Misplaced(f"stage {number} holds {held}; the next unit is {at}", here)
        if len(stage.shares) != (len(stage.cards) if len(stage.cards) > 1 else len(stage.shares)):
            raise _Misplaced(f"stage {number} has {len(stage.cards)} cards and {len(stage.shares)} shares", here)
        at = stage.stop
        for name in stage.cards:
            if name not in {card.name for card in plan.fleet.cards}:
                raise _Misplaced(f"stage {number} wants card {name!r}; the fleet has none of that name", here)
    if at != len(plan.model.units):
        raise _Misplaced(f"the stages hold {at} of the model's {len(plan.model.units)} units", keys)
