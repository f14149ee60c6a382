"""`danlu plan MODEL FLEET --emit FRAMEWORK`: the plan as files of the framework, and what it cannot say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.cli.output import span

if TYPE_CHECKING:
    from danlu.nouns import Card, Fleet, Group, GroupedFleet
    from danlu.plan.groups.choose import Chosen
    from danlu.plan.groups.emit_alike import Emitted

VENDORS = {"nvidia": "cuda"}
NARROW = 2.0  # a published 8-bit rate beside the 16-bit one, on every card of the catalogue that has it


def emitted(chosen: Chosen, framework: str, fleet_words: str, folder: Path) -> Emitted:
    """The files of one framework: of the best plan that it can run whole, or of most of the best."""
    from danlu.plan.groups import emit, emit_alike

    best = chosen.best
    if framework == "danlu":
        fleet, seats = named(best.plan.fleet, fleet_words)
        return emit.danlu(best.plan, chosen.spec, fleet, seats, str(folder))
    able = next((each for each in (best, *chosen.others) if emit_alike.is_even(each.plan)), best)
    found = emit.FRAMEWORKS[framework](able.plan, chosen.spec)
    if able is best:
        return found
    longer = able.seconds / best.seconds - 1
    cost = f"{longer:.1%} longer" if longer >= 0.0005 else "as long"
    said = (f"the best plan of all: its pipelines are not alike. Written is the best whose are, {span(able.seconds)} a "
            f"step on {sum(able.plan.used):,} cards, {cost}")  # fmt: skip
    return replace(found, cannot=(said, *found.cannot))


def write(found: Emitted, folder: Path) -> str:
    """Write the files; what a person should read about them."""
    from danlu.cli import output

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in found.files.items():
        output.write_text(folder / name, text)
    lines = [
        f"written to {folder}: {', '.join(found.files)}",
        f"start: {found.start.replace('FOLDER', str(folder.resolve()))}",
    ]
    return "\n".join([*lines, *(f"not in it: {each}" for each in found.cannot)])


def named(fleet: GroupedFleet, words: str) -> tuple[Fleet, list[list[str]]]:
    """Cards by name, and the names of each group: those of a measured fleet file, else made up to be edited."""
    from danlu.fleet import groups, text
    from danlu.nouns import Fleet, Host, Link

    path = Path(words)
    if path.is_file() and "\ngroups:" not in path.read_text(encoding="utf-8"):
        measured = text.load(path)
        return measured, [[card.name for card in cards] for cards in groups.alike(measured)]
    cards, seats, hosts, links = [], [], [], []
    for at, group in enumerate(fleet.groups):
        names = [f"g{at}-{number}" for number in range(group.count)]
        for number, name in enumerate(names):
            cards.append(_card(group, name, f"g{at}-host{number // group.per_host}"))
        seats.append(names)
        for start in range(0, group.count, group.per_host):
            inside = names[start : start + group.per_host]
            hosts.append(Host(f"g{at}-host{start // group.per_host}", 1 << 40))
            links += [Link(a, b, 1e-5, group.link) for i, a in enumerate(inside) for b in inside[i + 1 :]]
    slow = min(group.network for group in fleet.groups)
    links += [Link(a.name, b.name, 2e-5, slow) for i, a in enumerate(hosts) for b in hosts[i + 1 :]]
    return Fleet(fleet.name, tuple(cards), tuple(links), tuple(hosts)), seats


def _card(group: Group, name: str, host: str) -> Card:
    from danlu.fleet import catalogue
    from danlu.nouns import Card

    known = catalogue.entries().get(group.card)
    vendor = known.vendor if known else "cuda"
    vendor = VENDORS.get(vendor, vendor)
    flops = {"bf16": group.flops} | ({"fp8": NARROW * group.flops} if group.fp8 else {})
    return Card(name, vendor, group.card, flops, group.mem_bytes, group.mem_bw, host)
