"""What is published about cards, and the fleets one can write with their names: "128xA100-80+640xH20".

catalogue.yaml holds the figures and their sources. Figures are brought to one way of counting (dense FLOP/s, one way of
a link); where they are more than a tenth apart the answer is an interval, and `warnings` says so.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from statistics import median

import yaml

from danlu.errors import BadFleet, UnknownCard

APART = 1.1  # figures further apart than this ratio are an interval
NAMES = {"bf16": "FLOP/s", "memory": "bytes", "bandwidth": "bytes/s", "link": "bytes/s one way"}
NETWORK = 25e9  # bytes/s of one card to other hosts where nobody says: one 200 Gb/s port a card
MOST = 10_000_000  # cards of one kind; more than were ever made of one
PER_HOST = 8  # cards of a host where nobody says
# what a fleet file calls these, and how one is written
FIELDS = {"bf16": ("flops", "1.0e14"), "memory": ("mem_bytes", "64GiB"), "bandwidth": ("mem_bw", "1.6e12"),
          "link": ("link", "2.0e11")}  # fmt: skip
_SCALE = {"bf16": 1e12, "memory": 1e9, "bandwidth": 1e9, "link": 1e9}


@dataclass(frozen=True, slots=True)
class Figure:
    """One published number, as it was printed.

    value    in SI units
    counted  "dense" or "sparse" (FLOP/s), "one-way" or "both" (links), "-" where there is one way to count
    kind     "claimed" or "measured"
    source   where it stands
    """

    value: float
    counted: str
    kind: str
    source: str

    @property
    def plain(self) -> float:
        """The value counted dense, or one way."""
        return self.value / 2 if self.counted in ("sparse", "both") else self.value


@dataclass(frozen=True, slots=True)
class Span:
    """What the figures of one thing come to: a value to plan with, and how far they reach."""

    value: float
    low: float
    high: float

    @property
    def wide(self) -> bool:
        """True where sources are more than a tenth apart."""
        return self.high > APART * self.low


@dataclass(frozen=True, slots=True)
class Entry:
    """One card of the catalogue; `figures` by the names in NAMES, () for what nobody published."""

    name: str
    vendor: str
    names: tuple[str, ...]
    figures: dict[str, tuple[Figure, ...]]
    watts: float | None
    note: str
    fp8: bool = False
    bf16_runs: bool = True

    def span(self, thing: str) -> Span:
        """The figures of `thing` as one: the middle of what was measured, else of what is claimed.

        Raises UnknownCard when nobody published one.
        """
        found = self.figures[thing]
        if not found:
            missing = ", ".join(": ".join(FIELDS[name]) for name, each in self.figures.items() if not each)
            raise UnknownCard(f"nobody published the {thing} of {self.name}", why=f"the catalogue knows "
                              f"{', '.join(name for name, each in self.figures.items() if each)} of it",
                              fix="measure it with danlu probe, or say what is missing, the figures yours, in a fleet "
                              f"file: {{fleet: 1, groups: [{{card: {self.name}, count: 8, {missing}}}]}}")  # fmt: skip
        plain = [each.plain for each in found]
        best = [each.plain for each in found if each.kind == "measured"] or plain
        return Span(median(best), min(plain), max(plain))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for everything about which the sources disagree."""
        said = []
        for thing, found in self.figures.items():
            if found and (span := self.span(thing)).wide:
                scale = _SCALE[thing]
                each = "; ".join(f"{f.plain / scale:g} ({f.kind}, {f.source})" for f in found)
                said.append(f"{self.name}: {thing} is {span.low / scale:g} to {span.high / scale:g}: {each}")
        return tuple(said)


DECLARE = (
    "{fleet: 1, groups: [{card: mine, count: 8, flops: 1.0e14, mem_bytes: 64GiB, mem_bw: 1.6e12, link: 2.0e11}]} "
    '(docs/formats.md, "Fleet YAML")'
)

# The parser in C where PyYAML has it: 30 ms instead of 250 for the catalogue.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """Every card of the catalogue by its name. The file is our own: a test checks its form, not every reader."""
    return parsed(files("danlu.fleet").joinpath("catalogue.yaml").read_text(encoding="utf-8"))


def parsed(text: str) -> dict[str, Entry]:
    """The cards of a catalogue's text by their names."""
    tree = yaml.load(text, _LOADER)  # noqa: S506  both are safe ones
    found = {}
    for name, card in tree["cards"].items():
        figures = {
            thing: tuple(Figure(value * _SCALE[thing], counted, kind, tree["sources"][source])
                         for value, counted, kind, source in card.get(thing, ()))
            for thing in NAMES
        }  # fmt: skip
        names = tuple(card.get("names", ()))
        found[name] = Entry(name, card["vendor"], names, figures, card.get("watts"), card.get("note", ""),
                            card.get("fp8", False), card.get("bf16_runs", True))  # fmt: skip
    return found


def entry(name: str) -> Entry:
    """The card of that name, or of one of its other names; capitals, spaces and underscores do not matter.

    Raises UnknownCard with the nearest names and how to declare a card.
    """
    if (card := known(name)) is not None:
        return card
    near = [_known()[each].name for each in difflib.get_close_matches(_plain(name), _known(), 4, 0.4)]
    raise UnknownCard(f"the catalogue has no card {name!r}",
                      why=f"it has {len(entries())} cards; nearest: {', '.join(dict.fromkeys(near)) or 'none'}",
                      fix=f"use one of these names, or declare the card in a fleet file: {DECLARE}")  # fmt: skip


def shorthand(text: str) -> tuple[tuple[int, Entry], ...]:
    """Counts and cards of a fleet written as "128xA100-80+640xH20", in the order written.

    Raises BadFleet for a part that is not COUNTxNAME with a count above 0, UnknownCard for a name.
    """
    found = []
    for at, part in enumerate(text.split("+"), 1):
        match = re.fullmatch(r"\s*(\d{1,12})\s*[xX×*]\s*(\S.*?)\s*", part)
        if match is None or not 0 < int(match[1]) <= MOST:
            raise BadFleet(f"{part.strip()!r} is no part of a fleet", where=f"{text!r}, part {at}",
                           why=f"a part is COUNTxNAME with a count of 1 to {MOST:,}",
                           fix=_part(part))  # fmt: skip
        found.append((int(match[1]), entry(match[2])))
    return tuple(found)


def _part(said: str) -> str:
    """What a part that is none may have meant: its card, if the catalogue has one of that name, or an example."""
    card = known(re.sub(r"^[-\d.,e\s]*([xX×*]\s*|\s+)", "", said))
    return f"1x{card.name}" if card else "128xA100-80+640xH20"


def known(name: str) -> Entry | None:
    """The card that answers to that name; None where the catalogue has none."""
    return _known().get(_plain(name))


@lru_cache(maxsize=1)
def _known() -> dict[str, Entry]:
    return {_plain(name): each for each in entries().values() for name in (each.name, *each.names)}


def _plain(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip()).casefold()
