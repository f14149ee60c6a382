"""Fleet YAML, both ways (docs/formats.md, "Fleet YAML")."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from danlu.errors import BadFleet
from danlu.lines import NotYaml, place, read
from danlu.nouns import DTYPE_BYTES, Card, Fleet, Host, Link, Rate

VERSION = 1
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# What a right line looks like.
FLOPS_BY_DTYPE = "{bf16: 1.0e14}"
EXAMPLES = {
    "fleet": "1", "cards": "[{name: a, vendor: cuda, flops: {bf16: 1.0e14}, mem_bytes: 64GiB, mem_bw: 1.6e12}]",
    "groups": "[{card: A100-80, count: 8}]", "card": "A100-80", "count": "8", "per_host": "8", "name": "a",
    "vendor": "cuda", "model": "A100-80", "host": "local", "flops": "3.12e14", "bf16": "1.0e14", "fp16": "1.0e14",
    "fp32": "2.0e13", "mem_bytes": "80GiB", "mem_bw": "2.0e12", "link": "3.0e11", "network": "2.5e10",
    "oversubscription": "2", "site": "north", "watts": "400", "price": "2.5", "host_link": "2.5e10",
    "host_mem_bytes": "128GiB", "disk_link": "3.0e9", "disk_bytes": "2TB", "fp8": "true", "between_sites": "1.25e9",
    "bandwidth": "1.0e10", "latency_s": "1.0e-5", "cores": "1.0", "health": "ok",
}  # fmt: skip


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name is printable text on one line")
    return name


Name = Annotated[str, Field(min_length=1), pydantic.AfterValidator(_printable)]


class Entry(pydantic.BaseModel, extra="forbid"):
    """Base of every entry: unknown fields are refused."""


class HostText(Entry):
    """One host."""

    name: Name
    mem_bytes: Annotated[pydantic.ByteSize, Field(gt=0)]
    model: str = ""

    def noun(self) -> Host:
        """The noun it says."""
        return Host(self.name, int(self.mem_bytes), self.model)


class CardText(Entry):
    """One card."""

    name: Name
    vendor: Name
    model: str = ""
    flops: Annotated[dict[str, Positive], Field(min_length=1)]
    mem_bytes: Annotated[pydantic.ByteSize, Field(gt=0)]
    mem_bw: Positive
    host: Name = "local"
    cores: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    rates: list[tuple[str, str, list[int], Positive]] = Field(default_factory=list)
    health: Literal["ok", "slow", "quarantined"] = "ok"

    @pydantic.field_validator("flops")
    @classmethod
    def _known_dtypes(cls, flops: dict[str, float]) -> dict[str, float]:
        unknown = set(flops) - set(DTYPE_BYTES)
        if unknown:
            raise ValueError(f"no dtype {', '.join(sorted(unknown))}; there are {', '.join(DTYPE_BYTES)}")
        return flops

    @pydantic.model_validator(mode="after")
    def _speed(self) -> CardText:
        if self.vendor == "emulated" and self.cores <= 0:
            raise ValueError("an emulated card needs cores above 0: its speed in cores of the host")
        return self

    def noun(self) -> Card:
        """The noun it says."""
        rates = tuple(Rate(op, dtype, tuple(shape), per_s) for op, dtype, shape, per_s in self.rates)
        return Card(
            self.name,
            self.vendor,
            self.model,
            self.flops,
            int(self.mem_bytes),
            self.mem_bw,
            self.host,
            self.cores,
            rates,
            self.health,
        )


class LinkText(Entry):
    """One link."""

    a: Name
    b: Name
    latency_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    bandwidth: Positive

    def noun(self) -> Link:
        """The noun it says."""
        return Link(self.a, self.b, self.latency_s, self.bandwidth)


class FleetText(Entry):
    """The whole file."""

    fleet: Literal[1]
    name: str = ""
    hosts: list[HostText] = Field(default_factory=list)
    cards: Annotated[list[CardText], Field(min_length=1)]
    links: list[LinkText] = Field(default_factory=list)


ENTRIES: Mapping[str, type[pydantic.BaseModel]] = {
    "": FleetText,
    "hosts": HostText,
    "cards": CardText,
    "links": LinkText,
}


def load(path: Path) -> Fleet:
    """The fleet of a YAML file. Raises BadFleet naming file and line."""
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadFleet(f"cannot read {path}", why=str(error), fix=f"danlu probe --out {path}") from error


def dump(fleet: Fleet, path: Path) -> None:
    """Write the fleet as YAML, whole or not at all."""
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_text(dumps(fleet), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def loads(text: str, where: str = "fleet") -> Fleet:
    """The fleet of a YAML text; `where` names it in messages. Raises BadFleet."""
    try:
        tree = read(text)
    except NotYaml as error:
        raise BadFleet(
            "the fleet is not YAML", where=error.at(where), why=str(error), fix="danlu probe --out fleet.yaml"
        ) from error
    try:
        found = FleetText.model_validate(tree)
    except pydantic.ValidationError as error:
        raise explained(error, text, where, ENTRIES) from error
    fleet = Fleet(
        found.name,
        tuple(c.noun() for c in found.cards),
        tuple(e.noun() for e in found.links),
        tuple(h.noun() for h in found.hosts),
    )
    _check(fleet, text, where)
    return fleet


def dumps(fleet: Fleet) -> str:
    """The fleet as YAML text that `loads` reads back equal; one line per host, link and rate.

    Cards with the same rates share one list of them (a YAML anchor): a machine of 64 like cores is no long file.
    """
    lines = [f"fleet: {VERSION}", f"name: {_flow(fleet.name)}"]
    for section, entries in (("hosts", fleet.hosts), ("links", fleet.links)):
        if entries:
            lines += [f"{section}:", *(f"  - {_flow(dataclasses.asdict(entry))}" for entry in entries)]
    lines.append("cards:")
    said: dict[tuple[Rate, ...], str] = {}
    for card in fleet.cards:
        plain = dataclasses.asdict(card)
        plain["flops"] = dict(card.flops)
        del plain["rates"]
        first, *rest = (f"{key}: {_flow(value)}" for key, value in plain.items())
        lines += [f"  - {first}", *(f"    {line}" for line in rest)]
        if card.rates in said:
            lines.append(f"    rates: *{said[card.rates]}")
        elif card.rates:
            said[card.rates] = f"rates{len(said)}"
            lines += [f"    rates: &{said[card.rates]}"]
            lines += [f"      - {_flow([r.op, r.dtype, list(r.shape), r.per_s])}" for r in card.rates]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """One value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _check(fleet: Fleet, text: str, where: str) -> None:
    """Names must be unique, and links must join what there is."""
    for section, entries in (("cards", fleet.cards), ("hosts", fleet.hosts)):
        names = [entry.name for entry in entries]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise BadFleet(
                    f"two {section} are named {name!r}",
                    where=place(text, where, (section, at)),
                    why="a name must point to one of them",
                    fix=f"name it {name}-2",
                )
    for at, card in enumerate(fleet.cards):
        if any(rate.op == "reference" for rate in card.rates):
            raise BadFleet(
                f"card {card.name} was probed by an older danlu",
                where=place(text, where, ("cards", at)),
                why="its rate `reference` is of other work than `usual`, which a card's clock is corrected by now",
                fix=f"measure again: danlu probe --out {where}",
            )
    known = (
        {card.name for card in fleet.cards} | {card.host for card in fleet.cards} | {host.name for host in fleet.hosts}
    )
    for at, link in enumerate(fleet.links):
        for end in (link.a, link.b):
            if end not in known:
                raise BadFleet(
                    f"a link ends at {end!r}",
                    where=place(text, where, ("links", at)),
                    why=f"the cards and hosts are {', '.join(sorted(known))}",
                    fix="name one of these",
                )


def explained(
    error: pydantic.ValidationError, text: str, where: str, entries: Mapping[str, type[pydantic.BaseModel]]
) -> BadFleet:
    """The first complaint of pydantic in our words; `entries` of each section, "" for the whole file."""
    first = error.errors()[0]
    keys, kind = first["loc"], first["type"]
    dotted = ".".join(map(str, keys)) or "the fleet"
    said = first["msg"].removeprefix("Value error, ")
    what = {"extra_forbidden": f"no field {dotted}", "missing": f"{dotted} is missing"}.get(kind, f"{dotted}: {said}")
    return BadFleet(what, where=place(text, where, keys), why=f"the value is {first['input']!r:.80}",
                    fix=_fix(keys, kind, entries))  # fmt: skip


def _fix(keys: Sequence[int | str], kind: str, entries: Mapping[str, type[pydantic.BaseModel]]) -> str:
    """The line to write instead, or what the entry may have."""
    entry = entries.get(str(keys[0]) if len(keys) > 1 else "")
    fields = list(entry.model_fields) if entry else []
    key = str(keys[-1]) if keys else ""
    near = [key] if kind != "extra_forbidden" else difflib.get_close_matches(key, fields, 1)
    example = FLOPS_BY_DTYPE if near == ["flops"] and keys[0] == "cards" else EXAMPLES.get("".join(near))
    if example is not None:
        return f"write `{near[0]}: {example}` (docs/formats.md, Fleet YAML)"
    return f"it may have {', '.join(fields)} (docs/formats.md, Fleet YAML)" if fields else "docs/formats.md, Fleet YAML"
