"""run.yaml: the text of a run, checked once, at the edge.

Precedence: file < environment `DANLU_SECTION__KEY` < flag `--section.key VALUE`. A key nobody reads is an error that
names the nearest one.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic
import yaml

from danlu.cli.run_text import Run
from danlu.errors import BadValue, DanluError, UnknownKey, UnreadableConfig
from danlu.lines import NotYaml, line_of, read


def known_keys(model: type[pydantic.BaseModel] = Run, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration, sections first."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def _field(key: str) -> pydantic.fields.FieldInfo:
    """The field of a dotted key, which exists."""
    owner: Any = Run
    *sections, last = key.split(".")
    for section in sections:
        owner = owner.model_fields[section].annotation
    found: pydantic.fields.FieldInfo = owner.model_fields[last]
    return found


def parse_overrides(words: Sequence[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """`--train.steps 50 --out=x` as {"train.steps": 50, "out": "x"}; values are YAML.

    flags  options of the command itself, one of which a misspelt word may mean
    A key that is true or false may stand alone: `--train.resume`. Raises UnknownKey, BadValue.
    """
    switches = {key for key in known_keys() if _field(key).annotation is bool}
    found: dict[str, Any] = {}
    todo = list(words)
    while todo:
        word = todo.pop(0)
        if not word.startswith("--"):
            raise BadValue(
                f"did not expect {word!r}",
                why="options start with --",
                fix="danlu COMMAND --help",
                where="command line",
            )
        key, equals, value = word[2:].partition("=")
        if key not in set(known_keys()):
            near = difflib.get_close_matches(f"--{key}", flags, 1)
            raise _unknown(key, "command line", near)
        if not equals and key in switches and (not todo or todo[0].startswith("--")):
            value = "true"
        elif not equals:
            if not todo or todo[0].startswith("--"):
                raise BadValue(
                    f"--{key} has no value",
                    why="no value follows it",
                    fix=f"--{key} VALUE",
                    where="command line",
                )
            value = todo.pop(0)
        found[key] = _yaml(value, "command line")
    return found


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Keys set by variables such as DANLU_TRAIN__STEPS=50."""
    names = {key.replace(".", "__").upper(): key for key in known_keys()}
    named = {
        names.get(name.removeprefix("DANLU_")): (name, value)
        for name, value in environ.items()
        if name.startswith("DANLU_")
    }
    return {key: _yaml(value, name) for key, (name, value) in named.items() if key is not None}


def load(
    path: Path | None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Run:
    """The configuration of a run.

    path       run.yaml, or None for the defaults
    overrides  words of the command line that no command took for itself
    base       what a file would say, where there is no file
    Raises UnreadableConfig, UnknownKey or BadValue, each naming file and line, the variable, or the command line.
    """
    text = ""
    tree: dict[str, Any] = copy.deepcopy(dict(base or {}))
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UnreadableConfig(
                f"cannot read {path}", why=str(error), fix=f"check the path: ls -l {path.parent}"
            ) from error
        tree = _yaml(text, str(path))
        if not isinstance(tree, dict):
            raise UnreadableConfig(
                f"{path} is not a mapping", why=f"its top level is {type(tree).__name__}", fix="start it with: danlu: 1"
            )
    named = from_environment(os.environ if environ is None else environ)
    given = parse_overrides(overrides)
    for dotted, value in {**named, **given}.items():
        _set(tree, dotted, value)
    try:
        return Run.model_validate(tree)
    except pydantic.ValidationError as error:
        said = {dotted: f"DANLU_{dotted.replace('.', '__').upper()}" for dotted in named}
        raise _explain(error, path, text, said | dict.fromkeys(given, "command line")) from error


def dump(run: Run) -> str:
    """The resolved configuration as YAML that `load` reads back equal."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _yaml(text: str, where: str) -> Any:
    try:
        return read(text)
    except NotYaml as error:
        raise UnreadableConfig(
            "the text is not YAML",
            where=error.at(where),
            why=str(error),
            fix="indent with spaces, and put a space after every colon",
        ) from error


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise BadValue(f"{section} is not a section", why=f"it is {inner!r}", fix=f"{section}: {{{key}: {value}}}")
        tree = inner
    tree[key] = value


@contextmanager
def lines(path: Path | None, overrides: Sequence[str] = ()) -> Iterator[None]:
    """An error whose place is a key of the run is told with the line of its file that says it, or "command line"."""
    try:
        yield
    except DanluError as error:
        if error.where not in set(known_keys()):
            raise
        if error.where in parse_overrides(overrides):
            raise error.at(f"command line: --{error.where}") from error
        text = path.read_text(encoding="utf-8") if path else ""
        raise error.at(_where(path, text, error.where.split("."))) from error


def _where(path: Path | None, text: str, keys: Sequence[Any]) -> str:
    line = line_of(text, keys)
    return f"{path}:{line}" if path and line else str(path or "command line or environment")


def _unknown(key: str, where: str, flags: Sequence[str] = ()) -> UnknownKey:
    known = list(known_keys())
    near = list(flags) or difflib.get_close_matches(key, known, 1, cutoff=0.5)
    last = key.rsplit(".", 1)[-1]
    near = near or [k for k in known if difflib.get_close_matches(last, [k.rsplit(".", 1)[-1]], 1, cutoff=0.7)][:1]
    section = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == section] or [k for k in known if "." not in k]
    return UnknownKey(
        f"no key {key!r}",
        where=where,
        why=f"here the keys are: {', '.join(siblings)}",
        fix=f"did you mean {near[0]}?" if near else "danlu config schema lists them all",
    )


def _explain(
    error: pydantic.ValidationError, path: Path | None, text: str, said: Mapping[str, str]
) -> UnknownKey | BadValue:
    """The first complaint of pydantic in our words; `said` by key: who said it, where that was not the file."""
    first = error.errors()[0]
    keys = [part for part in first["loc"]]
    dotted = ".".join(map(str, keys))
    where = next((who for key, who in said.items() if f"{dotted}.".startswith(f"{key}.")), _where(path, text, keys))
    if first["type"] == "extra_forbidden":
        return _unknown(dotted, where)
    section = first["type"] == "model_type"
    return BadValue(
        f"{dotted}: input should be a section, keys below it" if section else f"{dotted}: {first['msg'].lower()}",
        where=where,
        why=f"the value is {first['input']!r}",
        fix=f"danlu config explain {dotted}",
    )


def explain(key: str, overrides: Sequence[str] = ()) -> str:
    """One key as a person wants to read it: what it means, its type and its value now. Raises UnknownKey."""
    if key not in set(known_keys()):
        raise _unknown(key, "command line")
    value: Any = load(None, overrides)
    for section in key.split(".")[:-1]:
        value = getattr(value, section)
    owner, last, field = type(value), key.rsplit(".", 1)[-1], _field(key)
    name = getattr(field.annotation, "__name__", str(field.annotation))
    origin = "set" if key in {**from_environment(os.environ), **parse_overrides(overrides)} else "default"
    rules = "".join(f", {rule}" for rule in field.metadata)
    meaning = field.description or owner.__doc__
    return f"{key}: {meaning}\n  type: {name}{rules}\n  value: {getattr(value, last)!r} ({origin})"
