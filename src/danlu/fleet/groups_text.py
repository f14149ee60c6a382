"""The YAML of a fleet of groups, checked entry by entry (docs/formats.md, "Fleet YAML")."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from danlu.errors import BadFleet, UnknownCard
from danlu.fleet import catalogue, text
from danlu.fleet.catalogue import MOST, NETWORK, PER_HOST
from danlu.lines import NotYaml, place, read
from danlu.nouns import Fleet, Group, GroupedFleet, Link

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Least and most that a card may have, the unit, and what a figure below it was probably given in.
SANE = {
    "flops": (1e9, 1e17, "FLOP/s", 1e12), "mem_bytes": (1 << 20, 1e14, "bytes", 1e9),
    "mem_bw": (1e7, 1e15, "bytes/s", 1e9), "link": (1e6, 1e14, "bytes/s", 1e9),
    "network": (1e4, 1e14, "bytes/s", 1e9), "host_link": (1e6, 1e14, "bytes/s", 1e9),
    "host_mem_bytes": (1 << 20, 1e14, "bytes", 1e9), "disk_link": (1e6, 1e14, "bytes/s", 1e9),
    "disk_bytes": (1 << 20, 1e15, "bytes", 1e9),
}  # fmt: skip


def unlikely(name: str, value: float) -> str:
    """What is wrong with a figure so small, or so large, that another unit must have been meant; nothing if none is."""
    low, high, unit, meant = SANE[name]
    if value < low:
        return f"{name} is {value:g} {unit}, which no card has; {value * meant:g} may be meant"
    if value > high:
        return f"{name} is {value:g} {unit}, which no card has: the most that is taken is {high:g}"
    return ""


def check_units(fleet: Fleet, words: str, where: str) -> None:
    """The same of a fleet whose cards have names. Raises BadFleet with the line."""
    said = [(("cards", at, name), value) for at, card in enumerate(fleet.cards)
            for name, value in (("flops", max(card.flops.values())), ("mem_bytes", card.mem_bytes),
                                ("mem_bw", card.mem_bw))]  # fmt: skip
    for keys, value in said:
        if wrong := unlikely(str(keys[2]), value):
            raise BadFleet(wrong, where=place(words, where, keys), why=f"the value is {value:g}",
                           fix="FLOP/s, bytes and bytes/s: 3.12e14, 80GiB, 2.0e12")  # fmt: skip


class GroupText(pydantic.BaseModel, extra="forbid"):
    """One entry of `groups`; what is left out comes from the card catalogue."""

    card: text.Name
    count: Annotated[int, Field(ge=1, le=MOST)]
    per_host: Annotated[int, Field(ge=1)] = PER_HOST
    flops: Positive | None = None
    mem_bytes: Annotated[pydantic.ByteSize, Field(gt=0)] | None = None
    mem_bw: Positive | None = None
    link: Positive | None = None
    network: Positive = NETWORK
    oversubscription: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    site: str = "here"
    watts: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    host_link: Positive | None = None
    host_mem_bytes: Annotated[pydantic.ByteSize, Field(gt=0)] | None = None
    disk_link: Positive | None = None
    disk_bytes: Annotated[pydantic.ByteSize, Field(gt=0)] | None = None
    fp8: bool | None = None

    @pydantic.model_validator(mode="after")
    def _host(self) -> GroupText:
        """A host's memory, or its disk, is of use with the link to it, and the other way round."""
        for link, size in (("host_link", "host_mem_bytes"), ("disk_link", "disk_bytes")):
            if (getattr(self, link) is None) != (getattr(self, size) is None):
                raise ValueError(f"{link} and {size} go together: say both, or neither")
        return self

    @pydantic.field_validator(*SANE)
    @classmethod
    def _units(cls, value: float | None, field: pydantic.ValidationInfo) -> float | None:
        """A figure in the unit it should have."""
        if value is not None and (wrong := unlikely(field.field_name or "", value)):
            raise ValueError(wrong)
        return value

    def noun(self) -> Group:
        """The noun it says. Raises UnknownCard for a card that is neither declared whole nor in the catalogue."""
        said = {"bf16": self.flops, "memory": self.mem_bytes, "bandwidth": self.mem_bw, "link": self.link}
        missing = [thing for thing, value in said.items() if value is None]
        entry = catalogue.entry(self.card) if missing else None
        fp8 = self.fp8 if self.fp8 is not None else entry is not None and entry.fp8
        found = {thing: entry.span(thing).value if value is None and entry else float(value or 0)
                 for thing, value in said.items()}  # fmt: skip
        watts = self.watts if self.watts is not None else (entry.watts if entry else None)
        return Group(entry.name if entry else self.card, self.count, found["bf16"], int(found["memory"]),
                     found["bandwidth"], found["link"], self.network / self.oversubscription, self.per_host,
                     self.site, watts or 0.0, self.price, self.host_link or 0.0,
                     int(self.host_mem_bytes or 0), self.disk_link or 0.0, int(self.disk_bytes or 0), fp8)  # fmt: skip


class LineText(pydantic.BaseModel, extra="forbid"):
    """What joins two sites, where it is not `between_sites`."""

    a: text.Name
    b: text.Name
    bandwidth: Positive
    oversubscription: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


class GroupsText(pydantic.BaseModel, extra="forbid"):
    """The whole file."""

    fleet: Literal[1]
    name: str = ""
    groups: Annotated[list[GroupText], Field(min_length=1)]
    between_sites: Positive = 1.25e9
    links: list[LineText] = Field(default_factory=list)


ENTRIES: Mapping[str, type[pydantic.BaseModel]] = {"": GroupsText, "groups": GroupText, "links": LineText}
WHOLE = "flops: 1.0e14, mem_bytes: 64GiB, mem_bw: 1.6e12, link: 2.0e11"  # that makes a group need no catalogue


def parsed(words: str, where: str) -> GroupedFleet | None:
    """The fleet of a YAML text with `groups`, None for one without. Raises BadFleet, UnknownCard with the line."""
    try:
        tree = read(words)
    except NotYaml as error:
        raise BadFleet("the fleet is not YAML", where=error.at(where), why=str(error),
                       fix="docs/formats.md, Fleet YAML") from error  # fmt: skip
    if not isinstance(tree, Mapping) or "groups" not in tree:
        return None
    try:
        found = GroupsText.model_validate(tree)
    except pydantic.ValidationError as error:
        raise text.explained(error, words, where, ENTRIES) from error
    nouns = []
    for at, each in enumerate(found.groups):
        try:
            nouns.append(each.noun())
        except UnknownCard as error:
            raise UnknownCard(error.what, where=place(words, where, ("groups", at, "card")), why=error.why,
                              fix=_declared(each)) from error  # fmt: skip
    return GroupedFleet(found.name, tuple(nouns), found.between_sites, _lines(found, words, where))


def _declared(each: GroupText) -> str:
    """The entry with what the catalogue lacks, to be written in its place."""
    card = catalogue.known(each.card)
    if card is None:
        return f"use one of these names, or say all of it there: {{card: {each.card}, count: {each.count}, {WHOLE}}}"
    missing = [f"{name}: {example}" for thing, (name, example) in catalogue.FIELDS.items()
               if not card.figures[thing] and getattr(each, name) is None]  # fmt: skip
    return f"say what is missing there, the figures yours: {', '.join(missing)}"


def _lines(found: GroupsText, words: str, where: str) -> tuple[Link, ...]:
    """The lines between sites. Raises BadFleet for an end that is no site, for two lines between the same two, and for
    two sites between which nothing is said."""
    sites = sorted({each.site for each in found.groups})
    pairs = [{each.a, each.b} for each in found.links]
    apart = [pair for pair in itertools.combinations(sites, 2) if set(pair) not in pairs]
    if apart and "between_sites" not in found.model_fields_set:
        a, b = apart[0]
        at = next(at for at, each in enumerate(found.groups) if each.site == b)
        raise BadFleet(f"no line joins {a} and {b}", where=place(words, where, ("groups", at)),
                       why=f"{len(sites)} sites and {len(pairs)} links between them; nothing is said of the others",
                       fix="add `between_sites: 1.25e9` (bytes/s of one card to another site), or to links: "
                       f"{{a: {a}, b: {b}, bandwidth: 1.25e9}}")  # fmt: skip
    for at, (each, pair) in enumerate(zip(found.links, pairs, strict=True)):
        if len(pair) < 2 or not pair <= set(sites) or pair in pairs[:at]:
            raise BadFleet(f"a link from {each.a!r} to {each.b!r}", where=place(words, where, ("links", at)),
                           why=f"links of a file of groups join two sites, each two once; the sites are "
                           f"{', '.join(sites)}", fix="name two of these, or give the groups a `site`")  # fmt: skip
    return tuple(Link(each.a, each.b, 0.0, each.bandwidth / each.oversubscription) for each in found.links)
