"""Fleets too large to name their cards: from "128xA100-80+640xH20", from YAML with `groups`, from a measured fleet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml
from pydantic import Field

from danlu.errors import BadFleet
from danlu.fleet import catalogue, text
from danlu.nouns import Card, Fleet, Group, GroupedFleet

NETWORK = 25e9  # bytes/s of one card to other hosts where nobody says: one 200 Gb/s port a card
PER_HOST = 8
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GroupText(pydantic.BaseModel, extra="forbid"):
    """One entry of `groups`; what is left out comes from the card catalogue."""

    card: text.Name
    count: Annotated[int, Field(ge=1)]
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

    def noun(self) -> Group:
        """The noun it says. Raises UnknownCard for a card that is neither declared whole nor in the catalogue."""
        said = {"bf16": self.flops, "memory": self.mem_bytes, "bandwidth": self.mem_bw, "link": self.link}
        missing = [thing for thing, value in said.items() if value is None]
        entry = catalogue.entry(self.card) if missing else None
        found = {thing: entry.span(thing).value if value is None and entry else float(value or 0)
                 for thing, value in said.items()}  # fmt: skip
        watts = self.watts if self.watts is not None else (entry.watts if entry else None)
        return Group(entry.name if entry else self.card, self.count, found["bf16"], int(found["memory"]),
                     found["bandwidth"], found["link"], self.network / self.oversubscription, self.per_host,
                     self.site, watts or 0.0, self.price)  # fmt: skip


class GroupsText(pydantic.BaseModel, extra="forbid"):
    """The whole file."""

    fleet: Literal[1]
    name: str = ""
    groups: Annotated[list[GroupText], Field(min_length=1)]
    between_sites: Positive = 1.25e9


def shorthand(words: str, *, network: float = NETWORK, per_host: int = PER_HOST) -> GroupedFleet:
    """The fleet of "128xA100-80+640xH20": catalogue figures, hosts of `per_host` cards, `network` bytes/s a card.

    Raises BadFleet, UnknownCard.
    """
    groups = tuple(GroupText(card=entry.name, count=count, per_host=per_host, network=network).noun()
                   for count, entry in catalogue.shorthand(words))  # fmt: skip
    return GroupedFleet(words, groups)


def load(path: Path) -> GroupedFleet:
    """The grouped fleet of a YAML file: its `groups`, or its measured cards grouped. Raises BadFleet with the line."""
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadFleet(f"cannot read {path}", why=str(error), fix="write it as 128xA100-80+640xH20") from error


def loads(words: str, where: str = "fleet") -> GroupedFleet:
    """The same of a YAML text; `where` names it in messages."""
    try:
        tree = yaml.safe_load(words)
    except yaml.YAMLError as error:
        raise BadFleet("the fleet is not YAML", where=where, why=" ".join(str(error).split()),
                       fix="docs/formats.md, Fleet YAML") from error  # fmt: skip
    if not isinstance(tree, Mapping) or "groups" not in tree:
        return grouped(text.loads(words, where))
    try:
        found = GroupsText.model_validate(tree)
    except pydantic.ValidationError as error:
        raise text.explained(error, words, where) from error
    return GroupedFleet(found.name, tuple(each.noun() for each in found.groups), found.between_sites)


def grouped(fleet: Fleet) -> GroupedFleet:
    """A measured fleet with like cards of like hosts counted together.

    Cards are alike when model, rate, memory and links are; a group's link and network are the slowest among its cards.
    """
    hosts: dict[str, int] = {}
    for card in fleet.cards:
        hosts[card.host] = hosts.get(card.host, 0) + 1
    alike: dict[tuple[object, ...], list[Card]] = {}
    for card in fleet.cards:
        key = (
            card.vendor,
            card.model,
            tuple(sorted(card.flops.items())),
            card.mem_bytes,
            card.mem_bw,
            hosts[card.host],
        )
        alike.setdefault(key, []).append(card)
    groups = tuple(_of_cards(fleet, cards) for cards in alike.values())
    return GroupedFleet(fleet.name, groups)


def _of_cards(fleet: Fleet, cards: list[Card]) -> Group:
    first, names = cards[0], {card.name for card in cards}
    home = {card.name: card.host for card in fleet.cards}
    inside, outside = [], []
    for link in fleet.links:
        if names & {link.a, link.b} and home.get(link.a) == home.get(link.b):
            inside.append(link.bandwidth)
        elif names & {link.a, link.b} or {link.a, link.b} & {card.host for card in cards}:
            outside.append(link.bandwidth)
    per_host = max(sum(card.host == host for card in cards) for host in {card.host for card in cards})
    flops = next((first.flops[name] for name in ("bf16", "fp16", "fp32") if name in first.flops), None)
    slowest = min(inside, default=min(outside, default=NETWORK))
    return Group(first.model or first.name, len(cards), flops or max(first.flops.values()), first.mem_bytes,
                 first.mem_bw, slowest, min(outside, default=slowest), per_host)  # fmt: skip
