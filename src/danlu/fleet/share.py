"""A measured fleet without anything personal, fit to be published: kinds of cards and what they reach.

Kept: vendor, model, rates, memory, links, how many cards a host has. Not kept: names of cards, hosts and fleet, health,
and every word of a model that may be a serial number, an address, a path or a name of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import yaml

from danlu.fleet import groups
from danlu.nouns import Fleet

# Long digits or hexadecimal runs, addresses, paths, words with an @.
SUSPICIOUS = re.compile(r"[0-9a-f]{8,}|\d{6,}|[0-9a-f]{2}(:[0-9a-f]{2}){2,}|\d+\.\d+\.\d+\.\d+|[/\\@]", re.IGNORECASE)


def anonymous(fleet: Fleet) -> Fleet:
    """The same cards, links and hosts under numbers."""
    homes = [*(host.name for host in fleet.hosts), *(card.host for card in fleet.cards)]
    hosts = {name: f"host{at}" for at, name in enumerate(dict.fromkeys(homes))}
    cards = {card.name: f"card{at}" for at, card in enumerate(fleet.cards)}
    private = [each.casefold() for each in (fleet.name, *homes) if each and each != "local"]
    ends = hosts | cards
    return Fleet(
        "shared",
        tuple(replace(card, name=cards[card.name], host=hosts[card.host], model=_plain(card.model, private),
                      health="ok") for card in fleet.cards),
        tuple(replace(link, a=ends[link.a], b=ends[link.b]) for link in fleet.links),
        tuple(replace(host, name=hosts[host.name], model=_plain(host.model, private)) for host in fleet.hosts),
    )  # fmt: skip


def entries(fleet: Fleet) -> str:
    """An anonymous fleet's kinds of cards as lines of the card catalogue (fleet/catalogue.yaml, under `cards`).

    One line a kind, each figure as it was measured; a link only where there was one.
    """
    found: dict[str, dict[str, object]] = {}
    for group in groups.grouped(fleet).groups:
        name = re.sub(r"[\s_]+", "-", group.card)
        if name in found:
            continue
        figures = {"bf16": (group.flops / 1e12, "dense"), "memory": (group.mem_bytes / 1e9, "-"),
                   "bandwidth": (group.mem_bw / 1e9, "-")}  # fmt: skip
        if fleet.links:
            figures["link"] = group.link / 1e9, "one-way"
        vendor = next(card.vendor for card in fleet.cards if (card.model or card.name) == group.card)
        line: dict[str, object] = {"vendor": "nvidia" if vendor == "cuda" else vendor}
        for thing, (value, counted) in figures.items():
            line[thing] = [[float(f"{value:.4g}"), counted, "measured", "probe"]]
        found[name] = line | ({"fp8": True} if group.fp8 else {})
    return "".join(f"{name}: " + yaml.safe_dump(each, default_flow_style=True, sort_keys=False, width=1000)
                   for name, each in found.items())  # fmt: skip


def _plain(model: str, private: Iterable[str]) -> str:
    """The words of a model that name hardware."""
    words = [word for word in model.split() if not SUSPICIOUS.search(word)]
    return " ".join(word for word in words if not any(each in word.casefold() for each in private))
