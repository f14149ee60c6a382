"""Fleets too large to name their cards: from "128xA100-80+640xH20", from YAML with `groups`, from a measured fleet."""

from __future__ import annotations

from pathlib import Path

from danlu.errors import BadFleet
from danlu.fleet import catalogue
from danlu.fleet.catalogue import NETWORK, PER_HOST
from danlu.nouns import Card, Fleet, Group, GroupedFleet


def shorthand(words: str, *, network: float = NETWORK, per_host: int = PER_HOST) -> GroupedFleet:
    """The fleet of "128xA100-80+640xH20": catalogue figures, hosts of `per_host` cards, `network` bytes/s a card.

    Raises BadFleet, UnknownCard.
    """
    groups = []
    for count, entry in catalogue.shorthand(words):
        flops, memory, bandwidth, link = (entry.span(thing).value for thing in catalogue.NAMES)
        groups.append(Group(entry.name, count, flops, int(memory), bandwidth, link, network, per_host,
                            watts=entry.watts or 0.0, fp8=entry.fp8))  # fmt: skip
    return GroupedFleet(words, tuple(groups))


def load(path: Path) -> GroupedFleet:
    """The grouped fleet of a YAML file: its `groups`, or its measured cards grouped. Raises BadFleet with the line."""
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadFleet(f"cannot read {path}", why=str(error), fix="write it as 128xA100-80+640xH20") from error


def loads(words: str, where: str = "fleet") -> GroupedFleet:
    """The same of a YAML text; `where` names it in messages."""
    from danlu.fleet import groups_text, text  # what they check with takes longer to import than a fleet to plan
    from danlu.lines import place

    found = groups_text.parsed(words, where)
    if found is not None:
        return found
    fleet = text.loads(words, where)
    groups_text.check_units(fleet, words, where)
    if far := apart(fleet):
        at = next(at for at, card in enumerate(fleet.cards) if card.host == far[0])
        raise _unconnected(fleet, far, place(words, where, ("links",) if fleet.links else ("cards", at)))
    return grouped(fleet)


def grouped(fleet: Fleet) -> GroupedFleet:
    """A measured fleet with like cards of like hosts counted together (`alike`).

    A group's link and network are the slowest among its cards. Raises BadFleet where hosts are not connected.
    """
    if far := apart(fleet):
        raise _unconnected(fleet, far)
    return GroupedFleet(fleet.name, tuple(_of_cards(fleet, list(cards)) for cards in alike(fleet)))


def apart(fleet: Fleet) -> list[str]:
    """Hosts that no chain of links joins to the first card's."""
    home = {card.name: card.host for card in fleet.cards}
    hosts = dict.fromkeys(home.values())
    reached, open_ = set(), [next(iter(hosts))]
    while open_:
        here = open_.pop()
        reached.add(here)
        for link in fleet.links:
            a, b = home.get(link.a, link.a), home.get(link.b, link.b)
            ends = ((a, b), (b, a))
            open_ += [there for one, there in ends if one == here and there in hosts and there not in reached]
    return [host for host in hosts if host not in reached]


def _unconnected(fleet: Fleet, far: list[str], where: str = "") -> BadFleet:
    hosts = list(dict.fromkeys(card.host for card in fleet.cards))
    return BadFleet(f"no link leads to {', '.join(far[:4])}", where=where,
                    why=f"{len(hosts) - len(far)} of {len(hosts)} hosts are connected by the {len(fleet.links)} links "
                    "given", fix=f"add to links: {{a: {hosts[0]}, b: {far[0]}, latency_s: 1.0e-5, "
                    "bandwidth: 2.5e10}")  # fmt: skip


def alike(fleet: Fleet) -> tuple[tuple[Card, ...], ...]:
    """Cards of the same model, rates and memory on hosts with as many cards, together; in the fleet's order."""
    hosts: dict[str, int] = {}
    for card in fleet.cards:
        hosts[card.host] = hosts.get(card.host, 0) + 1
    found: dict[tuple[object, ...], list[Card]] = {}
    for card in fleet.cards:
        key = (
            card.vendor,
            card.model,
            tuple(sorted(card.flops.items())),
            card.mem_bytes,
            card.mem_bw,
            hosts[card.host],
        )
        found.setdefault(key, []).append(card)
    return tuple(tuple(cards) for cards in found.values())


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
                 first.mem_bw, slowest, min(outside, default=slowest), per_host,
                 fp8="fp8" in first.flops)  # fmt: skip
