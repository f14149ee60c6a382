"""One fleet of several machines, each of which was probed alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from danlu.errors import BadFleet
from danlu.nouns import Fleet, Host, Link


def join(machines: Mapping[str, Fleet], *, latency_s: float, bandwidth: float) -> Fleet:
    """The cards of all machines, named HOST/CARD, with one link between every two hosts.

    machines   by the name their host has from now on: how launchers know it
    latency_s  of a message between two hosts
    bandwidth  bytes/s between two hosts, one way
    Raises BadFleet for a file that is of several hosts already, or a link no network has.
    """
    if not (latency_s >= 0 and 0 < bandwidth < float("inf")):
        raise BadFleet(f"no network has {latency_s:g} s and {bandwidth:g} bytes/s", why="seconds >= 0, bytes/s > 0",
                       fix="danlu probe --join ... --bandwidth 1.25e9 for 10 Gb/s; iperf3 measures it")  # fmt: skip
    found = [_renamed(machine, host) for host, machine in machines.items()]
    names = list(machines)
    between = tuple(Link(a, b, latency_s, bandwidth) for at, a in enumerate(names) for b in names[at + 1 :])
    return Fleet(
        " and ".join(names),
        tuple(card for each in found for card in each.cards),
        (*(link for each in found for link in each.links), *between),
        tuple(host for each in found for host in each.hosts),
    )


def _renamed(machine: Fleet, host: str) -> Fleet:
    homes = {card.host for card in machine.cards} | {each.name for each in machine.hosts}
    if len(homes) != 1:
        raise BadFleet(f"the fleet of {host} is of {len(homes)} hosts", why=f"they are {', '.join(sorted(homes))}",
                       fix="name files that danlu probe wrote on one machine each")  # fmt: skip
    cards = tuple(replace(card, name=f"{host}/{card.name}", host=host) for card in machine.cards)
    links = tuple(replace(link, a=f"{host}/{link.a}", b=f"{host}/{link.b}") for link in machine.links)
    hosts = machine.hosts or (Host(host, sum(card.mem_bytes for card in cards)),)
    return Fleet(host, cards, links, tuple(replace(each, name=host) for each in hosts))
