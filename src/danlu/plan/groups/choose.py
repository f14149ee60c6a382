"""The plan to run: the fastest, the cheapest or the thriftiest of all that were searched, over one site or several.

`best(spec, fleet, batch=, seq=, goal=)` searches all cards together and, where the goal is not time or the fleet stands
on several sites, parts of the fleet as well: what is left out is part of the answer. Pure.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from danlu.errors import BadValue, DoesNotFit, ShortBatch
from danlu.nouns import GroupedFleet, ModelSpec
from danlu.plan.groups import large
from danlu.plan.groups.chunks import ORDERS
from danlu.plan.groups.grouped import GroupedPlan
from danlu.plan.groups.large import Found
from danlu.plan.groups.outlook import Outlook, outlook, seconds_of
from danlu.plan.groups.unit_cost import Stack
from danlu.plan.presets import dense
from danlu.plan.stated.stack_time import Constants

GOALS = ("time", "cost", "energy")
MOST_SITES = 4  # up to which every set of them is looked at
PARTS = (1.0, 0.5, 0.25)  # of each group's cards, where fewer may be cheaper
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sites:
    """Two sites or more: what each does alone, and what the best set of them does together.

    alone      (site, seconds of a step) of the whole batch on one site
    members    the set: the one whose better way is the fastest
    together_s  compute of its sites on their parts of the batch; gradient_s more for gradients between sites
    joined_s   both, with the wait of all their cards for the slowest
    crossing_s  of one plan whose pipelines run over the line; infinite where none fits
    line       bytes/s of a card over the slowest line of the set
    sent_bytes  of gradients by each card over the line
    """

    alone: tuple[tuple[str, float], ...]
    members: tuple[str, ...]
    together_s: float
    gradient_s: float
    joined_s: float
    crossing_s: float
    sent_bytes: float
    line: float

    @property
    def seconds(self) -> float:
        """Of a step of the set, the better way."""
        return min(self.joined_s, self.crossing_s)

    @property
    def pays(self) -> bool:
        """Whether more than one site is faster than the best alone."""
        return self.seconds < min((each for _, each in self.alone), default=math.inf)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The plan, what was searched, and everything it was chosen from.

    best     the plan's forecast
    others   forecasts of the other plans, best first by the goal
    found    the search that has the plan
    proves   whether a proof of its gap speaks of this goal, the whole fleet and these orders
    sites    None for a fleet on one site
    fastest  the forecast of the fastest plan, where a simpler one that is hardly slower is preferred (simple.py)
    """

    spec: ModelSpec
    goal: str
    best: Outlook
    others: tuple[Outlook, ...]
    found: Found
    proves: bool = True
    sites: Sites | None = None
    fastest: Outlook | None = None


def best(
    spec: ModelSpec, fleet: GroupedFleet, *, batch: int, seq: int, goal: str = "time", schedule: str = "zb-h1",
    stack: Stack | None = None, zero: int = 1, constants: Constants | None = None, say: Say | None = None,
) -> Chosen:  # fmt: skip
    """The best plan by the goal.

    goal   "time" of a step, "cost" or "energy" of a token
    zero   as in large.search
    constants  of cards and software, where these are not the published ones (danlu plan fit)
    Raises DoesNotFit, BadValue: a goal that is none, or one that needs a price or power that the fleet does not say.
    """
    if goal not in GOALS:
        raise BadValue(f"no goal {goal!r}", why=f"there are {', '.join(GOALS)}", fix="--goal time")
    _check(fleet, goal)
    plain = dense(spec)

    def search(part: GroupedFleet, share: int = batch) -> Found:
        return large.search(plain, part, batch=share, seq=seq, schedule=schedule, stack=stack, zero=zero,
                            constants=constants, say=say)  # fmt: skip

    sites = dict.fromkeys(group.site for group in fleet.groups)
    compared, joined = None, None
    if len(sites) > 1:
        searches, compared, joined = _over_sites(search, fleet, list(sites), batch)
    else:
        searches = [search(fleet)]
    if goal != "time":
        searches += _parts(search, fleet)
    looked = [(outlook(plan, spec, fleet, stack, constants), found) for found in searches for plan in found.alternatives
              if _on_its_sites(plan)]  # fmt: skip
    if joined is not None:
        looked.append((outlook(joined, spec, fleet, stack, constants), searches[0]))
    looked.sort(key=lambda pair: _least(pair[0], goal))
    first, others = looked[0], [each for each, _ in looked[1:]]
    proves = goal == "time" and compared is None and not ORDERS[schedule].chunks
    # What a plan is measured by is the whole fleet's search, also where a part of the fleet is the best by the goal.
    led = searches[0] if goal != "time" and compared is None else first[1]
    led = led if led.plan is first[0].plan else replace(led, plan=first[0].plan)
    return Chosen(spec, goal, first[0], tuple(_distinct(first[0], others)), led, proves, compared)


def _least(each: Outlook, goal: str) -> float:
    """What is to be least; infinite where it is not known."""
    value = {"time": each.seconds, "cost": each.price, "energy": each.kwh}[goal]
    return math.inf if value is None else value


def _on_its_sites(plan: GroupedPlan) -> bool:
    """Whether a plan of several sites is on more than one: its networks are as slow as the line, one site's are not."""
    used = {group.site for group, n in zip(plan.fleet.groups, plan.used, strict=True) if n}
    return len(used) > 1 or len({group.site for group in plan.fleet.groups}) == 1


def _distinct(first: Outlook, others: Sequence[Outlook]) -> list[Outlook]:
    """Plans of other cards or other kinds, and other pipelines; equal ones once."""
    found = [first]
    for each in others:
        if not any((each.plan.name, _taken(each.plan)) == (one.plan.name, _taken(one.plan))
                   or (each.plan.replicas, each.plan.fleet) == (one.plan.replicas, one.plan.fleet)
                   for one in found):  # fmt: skip
            found.append(each)
    return found[1:]


def _taken(plan: GroupedPlan) -> Counter[str]:
    """Cards in use by name, whichever part of the fleet was searched."""
    found: Counter[str] = Counter()
    for group, n in zip(plan.fleet.groups, plan.used, strict=True):
        found[group.card] += n
    return +found


def _check(fleet: GroupedFleet, goal: str) -> None:
    without = [g.card for g in fleet.groups if not (g.price if goal == "cost" else g.watts)]
    if goal != "time" and without:
        thing = "price" if goal == "cost" else "watts"
        raise BadValue(f"--goal {goal} needs the {thing} of every card", why=f"nobody said it of {', '.join(without)}",
                       fix=f"--{thing} {without[0]}=2.5, or `{thing}:` in the group of the fleet file")  # fmt: skip


def _parts(search: Callable[[GroupedFleet], Found], fleet: GroupedFleet) -> list[Found]:
    """Searches over parts of the fleet: every mix of PARTS of its groups, or none of a group."""
    found = []
    for shares in itertools.product((0.0, *PARTS), repeat=min(3, len(fleet.groups))):
        whole = (*shares, *[1.0] * (len(fleet.groups) - len(shares)))
        groups = tuple(replace(group, count=int(group.count * share)) for group, share in
                       zip(fleet.groups, whole, strict=True))  # fmt: skip
        kept = tuple(group for group in groups if group.count)
        if kept and kept != fleet.groups and len(kept) == 1:
            try:
                found.append(search(replace(fleet, groups=kept)))
            except DoesNotFit:
                continue
    return found


def _over_sites(
    search: Callable[..., Found], fleet: GroupedFleet, sites: Sequence[str], batch: int
) -> tuple[list[Found], Sites, GroupedPlan | None]:  # fmt: skip
    """Each site alone, then every set of sites together: the searches, the best set's comparison and its joined plan.

    Of a set, two ways: every site with its own pipelines and gradients over the line, or pipelines that cross it.
    """
    alone: dict[str, Found] = {}
    for site in sites:
        try:
            alone[site] = search(_of_sites(fleet, [site]))
        except DoesNotFit:
            continue
    crossing, best = [], None
    for count in range(len(sites), 1, -1):
        if len(sites) > MOST_SITES and count < len(sites):
            break
        for chosen in itertools.combinations(sites, count):
            found, compared, joined = _together(search, fleet, chosen, alone, batch)
            crossing += found
            if best is None or compared.seconds < best[0].seconds:
                best = compared, joined
    assert best is not None, "several sites make a set"
    if not alone and not crossing:
        search(_slowed(fleet, sites))  # says why it does not fit
    return [*alone.values(), *crossing], *best


def _together(
    search: Callable[..., Found], fleet: GroupedFleet, sites: Sequence[str], alone: Mapping[str, Found], batch: int
) -> tuple[list[Found], Sites, GroupedPlan | None]:  # fmt: skip
    """Several sites as one: the search whose pipelines cross the line, the comparison, the plan of apart pipelines."""
    line = _line(fleet, sites)
    try:
        crossing = [search(_slowed(fleet, sites))]
    except DoesNotFit:
        crossing = []
    known = next((each.ask.constants for each in (*alone.values(), *crossing)), None)
    seconds = {site: seconds_of(each.plan, known) for site, each in alone.items()}
    together, sent, joined = math.inf, 0.0, None
    parts: list[Found] = []
    if all(site in alone for site in sites):
        rate = sum(1.0 / seconds[site] for site in sites)
        try:
            parts = [search(alone[site].ask.fleet, max(1, round(batch / seconds[site] / rate))) for site in sites]
        except ShortBatch:
            parts = []  # a site's part of the batch fills none of its pipelines
        together = max((seconds_of(each.plan, known) for each in parts), default=math.inf)
    if parts:
        # Each card holds the gradient of 1 / (its site's replicas) of its stage once its site has summed it.
        sent = max(2 * (len(parts) - 1) / len(parts) * 4.0 * _held(each.plan) / each.plan.pipelines for each in parts)
        joined = _joined(fleet, [each.plan for each in parts], batch, sent / line)
    over = [plan for each in crossing for plan in each.alternatives if _on_its_sites(plan)]
    crossing_s = min((seconds_of(each, known) for each in over), default=math.inf)
    joined_s = math.inf if joined is None else seconds_of(joined, known)
    compared = Sites(tuple(seconds.items()), tuple(sites), together, sent / line, joined_s, crossing_s, sent, line)
    return crossing, compared, joined


def _line(fleet: GroupedFleet, sites: Sequence[str]) -> float:
    return min(fleet.line(a, b) for a, b in itertools.combinations(sites, 2))


def _slowed(fleet: GroupedFleet, sites: Sequence[str]) -> GroupedFleet:
    """Some sites as if every network of theirs were no faster than their slowest line."""
    line, part = _line(fleet, sites), _of_sites(fleet, sites)
    return replace(part, groups=tuple(replace(group, network=min(group.network, line)) for group in part.groups))


def _of_sites(fleet: GroupedFleet, sites: Sequence[str]) -> GroupedFleet:
    return replace(fleet, groups=tuple(group for group in fleet.groups if group.site in sites))


def _joined(fleet: GroupedFleet, parts: Sequence[GroupedPlan], batch: int, gradient_s: float) -> GroupedPlan:
    """Plans of several sites as one of the whole fleet, with the seconds of gradients between them."""
    index = {group: at for at, group in enumerate(fleet.groups)}
    replicas = tuple(
        replace(each, seconds=each.seconds + gradient_s, stages=tuple(
            replace(stage, group=index[part.fleet.groups[stage.group]], step_s=stage.step_s + gradient_s)
            for stage in each.stages
        ))
        for part in parts for each in part.replicas
    )  # fmt: skip
    return replace(parts[0], kind="sites", fleet=fleet, batch=batch, replicas=replicas,
                   seconds=max(each.seconds for each in replicas))  # fmt: skip


def _held(plan: GroupedPlan) -> float:
    """Most parameters that a card holds."""
    units = plan.model.units
    return max(
        sum(plan.model.unit_params(unit) for unit in units[stage.start : stage.stop]) / stage.tp
        for each in plan.replicas
        for stage in each.stages
    )
