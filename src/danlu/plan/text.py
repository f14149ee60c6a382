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
    Raises UnreadablePlan, naming the line: no JSON, a newer version, an unknown or missing field, a value of the wrong
    type, stages that do not cover the model's units in order, a card the fleet has not.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UnreadablePlan("the plan is not JSON", where=where + line, why=str(error), fix=FIX) from error
    version = tree.pop("plan", None) if isinstance(tree, dict) else None
    if version not in READ:
        raise UnreadablePlan(
            "the plan has another version", where=where, why=f"plan: {version}, this danlu reads {VERSION}", fix=FIX
        )
    try:
        plan = _noun(Plan, tree, ())
        assert isinstance(plan, Plan)
        _check(plan)
    except _Wrong as error:
        at = place(text, where, error.keys)
        raise UnreadablePlan("the plan does not hold", where=at, why=str(error), fix=FIX) from error
    except (ValueError, KeyError, TypeError) as error:  # its model's numbers do not hold together
        raise UnreadablePlan("the plan does not hold", where=where, why=str(error), fix=FIX) from error
    return plan


Keys = tuple[int | str, ...]


class _Wrong(Exception):
    """What does not hold, and the keys that lead to it."""

    def __init__(self, why: str, *keys: int | str) -> None:
        super().__init__(why)
        self.keys = keys


def _named(keys: Keys) -> str:
    """plan.stages[0].cards"""
    return "plan" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


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


def _noun(kind: Any, value: Any, keys: Keys) -> Any:
    """A value of the given type hint from plain JSON. Raises _Wrong."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, keys)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _noun(next(each for each in inner if each is not type(None)), value, keys)
    if origin is tuple:
        if not isinstance(value, list):
            raise _Wrong(f"{_named(keys)} is {value!r:.40}, not a list", *keys)
        return tuple(_noun(inner[0], each, (*keys, i)) for i, each in enumerate(value))
    if origin is not None:  # a mapping
        if not isinstance(value, dict):
            raise _Wrong(f"{_named(keys)} is {value!r:.40}, not an object", *keys)
        return {key: _noun(inner[1], each, (*keys, key)) for key, each in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _Wrong(f"{_named(keys)} is {value!r:.40}, not {kind.__name__}", *keys)
    return value


def _dataclass(kind: Any, value: Any, keys: Keys) -> Any:
    if not isinstance(value, dict):
        raise _Wrong(f"{_named(keys)} is {value!r:.40}, not an object", *keys)
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise _Wrong(f"{_named(keys)} has no field {', '.join(unknown)}", *keys, unknown[0])
    if missing := [f.name for f in dataclasses.fields(kind) if _must(f) and f.name not in value]:
        raise _Wrong(f"{_named(keys)} lacks {', '.join(missing)}", *keys)
    found = {name: _noun(hints[name], each, (*keys, name)) for name, each in value.items()}
    try:
        return kind(**found)
    except ValueError as error:  # a noun that checks itself
        raise _Wrong(f"{_named(keys)}: {error}", *keys) from error


def _must(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def keys_of(copy: int) -> Keys:
    """Keys of a plan's text under which a copy of the model stands: the first is the plan itself."""
    return ("replicas", copy - 1) if copy else ()


def _check(plan: Plan) -> None:
    """The stages of every copy must follow each other over all units, on cards of the fleet, each card once."""
    held = set[str]()
    for copy, pipeline in enumerate(plan.pipelines):
        keys = keys_of(copy)
        _check_stages(plan, pipeline.stages, keys)
        if pipeline.micro_batches < 1:
            raise _Wrong(f"micro_batches is {pipeline.micro_batches}, not at least 1", *keys, "micro_batches")
        for number, stage in enumerate(pipeline.stages):
            for at, name in enumerate(stage.cards):
                if name in held:
                    raise _Wrong(f"card {name!r} is given more than one place", *keys, "stages", number, "cards", at)
                held.add(name)
    for key, size in (("micro_batch", plan.micro_batch), ("seq", plan.seq)):
        if size < 1:
            raise _Wrong(f"{key} is {size}, not at least 1", key)


def _check_stages(plan: Plan, stages: tuple[Stage, ...], keys: Keys) -> None:
    at, names = 0, {card.name for card in plan.fleet.cards}
    for number, stage in enumerate(stages):
        here = (*keys, "stages", number)
        if stage.start != at or stage.stop <= stage.start or not stage.cards:
            held = f"units {stage.start}..{stage.stop} on {stage.cards}"
            raise _Wrong(f"stage {number} holds {held}; the next unit is {at}", *here)
        if len(stage.shares) != (len(stage.cards) if len(stage.cards) > 1 else len(stage.shares)):
            raise _Wrong(f"stage {number} has {len(stage.cards)} cards and {len(stage.shares)} shares", *here, "shares")
        at = stage.stop
        for index, name in enumerate(stage.cards):
            if name not in names:
                why = f"stage {number} wants card {name!r}; the fleet has none of that name"
                raise _Wrong(why, *here, "cards", index)
    if at != len(plan.model.units):
        raise _Wrong(f"the stages hold {at} of the model's {len(plan.model.units)} units", *keys, "stages")
