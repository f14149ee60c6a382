"""Plain sentences about a plan: why it is the best, what the runner-up lost by, what does not pay. With numbers."""

from __future__ import annotations

import math

from danlu.nouns import GroupedFleet
from danlu.plan.groups import put_off
from danlu.plan.groups.choose import Chosen, Sites
from danlu.plan.groups.chunks import ORDERS
from danlu.plan.groups.outlook import Outlook
from danlu.plan.stated.stack_forecast import residuals

FAR = 1.15  # an interval wider than this is worth a warning


def why(chosen: Chosen, fleet: GroupedFleet) -> list[str]:
    """What the seconds are spent on, what the next best lost by, which cards stay out and what mixing gains."""
    best = chosen.best
    largest = sorted(best.shares.items(), key=lambda pair: -pair[1])[:4]
    said = [f"dominated by {best.dominant}: " + ", ".join(f"{name} {share:.0%}" for name, share in largest)]
    idle = ", ".join(f"{name} {share:.1%}" for name, share in best.plan.terms.items())
    said.append(f"card-seconds of the cards searched: {idle}")
    slower = chosen.others if chosen.fastest is None else [o for o in chosen.others if o.seconds >= best.seconds]
    if slower:
        said.append(_lost(best, slower[0], chosen.goal))
    said += _simple(best, chosen.fastest)
    more = _sites(chosen.sites) if chosen.sites else []
    return [*said, *_memory(chosen), *_chunks(chosen), *_mixing(chosen), *_left_out(chosen, fleet), *more]


def _simple(best: Outlook, fastest: Outlook | None) -> list[str]:
    """Why the fastest plan is not the one chosen."""
    if fastest is None:
        return []
    (kinds, longest), (more, longer) = (
        (len(each), max(map(len, each)))
        for each in ({one.stages for one in of.plan.replicas} for of in (best, fastest))
    )
    many = f"{kinds} kind{'s' * (kinds != 1)} of pipelines of up to {longest} stages"
    return [f"{best.seconds / fastest.seconds - 1:.1%} slower than the fastest plan found ({fastest.plan.name}), and "
            f"simpler: {many}, not {more} of up to {longer}"]  # fmt: skip


def _chunks(chosen: Chosen) -> list[str]:
    """What chunks of layers gain over stages in one piece, where they were looked at."""
    if not ORDERS[chosen.found.ask.schedule].chunks:
        return []
    best = chosen.best
    whole = [each for each in (best, *chosen.others) if all(one.chunks == 1 for one in each.plan.replicas)]
    if best in whole:
        return ["chunks of layers (interleaved 1F1B) do not pay here: the best plan has every stage in one piece"]
    first = min(whole, key=lambda each: each.seconds, default=None)
    if first is None:
        return ["chunks of layers (interleaved 1F1B) are in every plan found"]
    return [f"chunks of layers (interleaved 1F1B) pay: {first.seconds / best.seconds:.3f} times the throughput of the "
            f"best with every stage in one piece ({first.plan.name})"]  # fmt: skip


def _memory(chosen: Chosen) -> list[str]:
    """What memory made the search do."""
    said, stages = [], [(each.copies, stage) for each in chosen.best.plan.replicas for stage in each.stages]
    if chosen.found.unfit:
        tried = " or ".join(f"ZeRO-{level}" for level in chosen.found.unfit)
        said.append(f"nothing fits with {tried}: plans that share more over their pipelines were looked at as well")
    for what, count in (
        ("share gradients too (ZeRO-2)", sum(n for n, stage in stages if stage.way.zero == 2)),
        ("share gradients and weights too (ZeRO-3)", sum(n for n, stage in stages if stage.way.zero == 3)),
        ("keep the optimizer's states in the host's memory", sum(n for n, s in stages if s.way.offload == "host")),
        ("keep the optimizer's states on disk", sum(n for n, stage in stages if stage.way.offload == "disk")),
        ("keep activations in the host's memory", sum(n for n, stage in stages if stage.way.spill)),
    ):
        if count:
            said.append(f"{count:,} of {sum(n for n, _ in stages):,} stages {what}")
    return said


def _lost(best: Outlook, other: Outlook, goal: str) -> str:
    """By which term the runner-up is worse."""
    n, m = sum(best.plan.used), sum(other.plan.used)
    more = {name: (share * other.seconds * m - best.shares[name] * best.seconds * n) / (best.seconds * n)
            for name, share in other.shares.items()}  # fmt: skip
    term = max(more, key=lambda name: more[name])
    if goal == "cost" and best.price and other.price:
        return f"runner-up {other.plan.name}: {other.price / best.price - 1:+.1%} price on {m:,} cards"
    if goal == "energy" and best.kwh and other.kwh:
        return f"runner-up {other.plan.name}: {other.kwh / best.kwh - 1:+.1%} energy on {m:,} cards"
    lost = f"runner-up {other.plan.name}: {other.seconds / best.seconds - 1:+.1%} time on {m:,} cards"
    if m < n:
        return f"{lost}, for it leaves {n - m:,} more card{'s' * (n - m > 1)} out"
    return f"{lost}, most of it by {term} ({more[term]:+.1%} of this plan's card-seconds)"


def _mixing(chosen: Chosen) -> list[str]:
    """What several card types gain over the best of them alone."""
    if len(chosen.found.alone) < 2 or chosen.sites is not None:
        return []
    if chosen.goal != "time":
        return _mixing_by(chosen)
    alone = {name: plan.seconds for name, plan in chosen.found.alone.items() if plan is not None}
    if not alone:
        return ["no card type holds the model alone: only mixing makes it possible"]
    name = min(alone, key=lambda each: alone[each])
    gain = alone[name] / chosen.best.plan.seconds
    cards = {g.card for g, n in zip(chosen.best.plan.fleet.groups, chosen.best.plan.used, strict=True) if n}
    if len(cards) == 1:
        return [f"mixing does not pay: {next(iter(cards))} alone is as fast as any mix found"]
    return [f"mixing pays: {gain:.2f} times the throughput of the best type alone ({name})"]


def _mixing_by(chosen: Chosen) -> list[str]:
    """The same where price or energy of a step is to be least."""
    least: dict[bool, float] = {}
    for each in (chosen.best, *chosen.others):
        value = each.price if chosen.goal == "cost" else each.kwh
        mixed = sum(n > 0 for n in each.plan.used) > 1
        least[mixed] = min(least.get(mixed, math.inf), math.inf if value is None else value)
    if len(least) < 2:
        return ["no card type holds the model alone: only mixing makes it possible"] if least.get(True) else []
    gain, thing = least[True] / least[False] - 1, {"cost": "price", "energy": "energy"}[chosen.goal]
    pays = "pays" if gain < 0 else "does not pay"
    return [f"mixing {pays}: the best mix of cards takes {gain:+.1%} {thing} beside the best type alone"]


def _left_out(chosen: Chosen, fleet: GroupedFleet) -> list[str]:
    """Cards that stay unused, with what they could have added."""
    used: dict[tuple[str, str], int] = {}
    for group, n in zip(chosen.best.plan.fleet.groups, chosen.best.plan.used, strict=True):
        used[group.card, group.site] = used.get((group.card, group.site), 0) + n
    said = []
    for group in fleet.groups:
        spare = group.count - used.get((group.card, group.site), 0)
        if spare > 0:
            rate = spare * group.flops / sum(each.count * each.flops for each in fleet.groups)
            gains = (
                f"no plan found is better by {chosen.goal}" if chosen.fastest is None else "no simpler one was found"
            )
            said.append(f"{spare:,} of {group.count:,} {group.card} stay unused ({rate:.1%} of the fleet's rate): "
                        f"{gains} with them")  # fmt: skip
    return said


def _sites(sites: Sites) -> list[str]:
    """The arithmetic of a line between sites."""
    alone = "; ".join(f"{site} alone {seconds:.4g} s" for site, seconds in sites.alone) or "no site alone holds it"
    said, names = [alone], " and ".join(sites.members)
    if sites.together_s < float("inf"):
        said.append(
            f"{names} with pipelines of their own: {sites.together_s:.4g} s of work + "
            f"{sites.sent_bytes / 2**30:.3g} GiB of gradients a card / "
            f"{sites.line / 1e9:.3g} GB/s = {sites.gradient_s:.4g} s, for which all their cards wait: "
            f"{sites.joined_s:.4g} s"
        )
    if sites.crossing_s < float("inf"):
        said.append(f"pipelines over the line between {names}, every network taken as {sites.line / 1e9:.3g} GB/s: "
                    f"{sites.crossing_s:.4g} s")  # fmt: skip
    if len(sites.alone) > 0:
        best = min(sites.alone, key=lambda pair: pair[1])
        out = [site for site, _ in sites.alone if site not in sites.members]
        left = f"; {', '.join(out)} would make it slower" if out else ""
        said.append(f"the far site pays: {names} together{left}" if sites.pays else
                    f"the far site does not pay: {best[0]} alone is faster")  # fmt: skip
    return said


def _put_off(best: Outlook) -> list[str]:
    """What the memory of put-off gradients of weights can cost, where stages lack it."""
    plan = best.plan
    few = sum(each.copies * put_off.short(plan, each) for each in plan.replicas)
    if not few:
        return []
    stages = sum(each.copies * len(each.stages) for each in plan.replicas)
    return [f"{plan.schedule} puts gradients of weights off, which {few:,} of {stages:,} stages lack the memory for: "
            f"where none waits a step takes up to {put_off.longest(plan) / plan.seconds - 1:.1%} longer"]  # fmt: skip


def warnings(chosen: Chosen, fleet: GroupedFleet) -> list[str]:
    """What nobody has measured about such a plan."""
    sources = len({each.source for each in residuals()})
    said = [f"never run by us: a forecast on catalogue figures, by a predictor scored on {sources} published sources "
            "(docs/plan-accuracy.md), none with unlike cards in one run"]  # fmt: skip
    said += _put_off(chosen.best)
    if chosen.best.high > FAR * chosen.best.seconds:
        said.append("no published run is made of the same terms: the interval is wide")
    fuller = [g.card for g in fleet.groups if not g.watts]
    if fuller:
        said.append(f"no board power is known of {', '.join(fuller)}: no energy is forecast")
    return said
