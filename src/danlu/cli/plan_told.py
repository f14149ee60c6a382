"""A plan over a large fleet as a person reads it: the pipelines, why, memory, what it costs, what else there is."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from danlu.cli.output import size, span, table

if TYPE_CHECKING:
    from danlu.nouns import GroupedFleet
    from danlu.plan.groups.choose import Chosen
    from danlu.plan.groups.grouped import GroupedPlan, Replicas
    from danlu.plan.groups.outlook import Outlook
    from danlu.plan.groups.scaling import Point
    from danlu.plan.groups.sum_share import SumShare

LEAST = 0.005  # of a step's card-seconds: what is less is told together
ROWS = 12  # of pipelines and of stages that are printed; --json and --html have all
CARD_TERMS = {
    "busy": "at work on micro-batches", "step": "gradients and optimizer", "fill": "filling, draining, waiting",
    "spare": "done before the slowest pipeline", "unused": "left out",
}  # fmt: skip


def told(
    chosen: Chosen, fleet: GroupedFleet, gap: float | None, share: SumShare, kg_per_kwh: float,
    notes: Sequence[str] = (),
) -> str:  # fmt: skip
    """All of it; `notes` are what to know of the model's numbers."""
    from danlu.plan.groups import advice

    parts = [
        headline(chosen), pipelines(chosen.best.plan), stages(chosen.best.plan), forecast(chosen, gap, share),
        "why\n" + "\n".join(f"  {each}" for each in advice.why(chosen, fleet)), costs(chosen.best, kg_per_kwh),
        alternatives(chosen),
    ]  # fmt: skip
    said = [*notes, *advice.warnings(chosen, fleet), *card_warnings(fleet), *short_of_bf16(chosen.best.plan)]
    if said:
        parts.append("read with care\n" + "\n".join(f"  {each}" for each in said))
    return "\n\n".join(parts)


def headline(chosen: Chosen) -> str:
    """Model, fleet and batch in one line each."""
    from danlu.plan.presets import active_params

    plan, spec = chosen.best.plan, chosen.spec
    active = active_params(spec)
    running = f", {active / 1e9:.1f} G of them per token" if active < 0.99 * spec.params else ""
    return (f"{spec.family}, {spec.params / 1e9:.1f} G parameters{running}, {spec.layers} layers; "
            f"{_many(plan.batch, 'sequence')} of {_many(plan.seq, 'token')} a step\n"
            f"best plan for {chosen.goal}: {plan.name}, {plan.pipelines} pipeline{'s' * (plan.pipelines != 1)} on "
            f"{sum(plan.used):,} card{'s' * (sum(plan.used) != 1)}, "
            f"{plan.orders}, {plan.precision}, optimizer sharded over replicas")  # fmt: skip


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def pipelines(plan: GroupedPlan) -> str:
    """Which pipelines run how often."""
    woven = any(each.chunks > 1 for each in plan.replicas)
    rows = [[each.copies, cards_of(plan, each), len(each.stages), *[each.chunks] * woven,
             f"{each.micro_batches} x {each.micro_batch}", span(each.seconds)] for each in plan.replicas]  # fmt: skip
    more = f"\n... and {len(rows) - ROWS} more kinds of pipelines" if len(rows) > ROWS else ""
    head = ["pipelines", "cards of each", "stages", *["chunks of each"] * woven, "micro-batches", "takes"]
    return table(head, rows[:ROWS]) + more


def stages(plan: GroupedPlan) -> str:
    """The most frequent pipeline's stages with the memory of a card; of the others, the fullest card."""
    first, per = plan.replicas[0], len(plan.model.recipe)
    rows = []
    for number, stage in enumerate(first.stages):
        group = plan.fleet.groups[stage.group]
        body = sum(unit.startswith("layers.") for unit in plan.model.units[stage.start : stage.stop]) / per
        busy = first.micro_batches * stage.time_s / plan.seconds
        rows.append([number, group.card, f"{stage.tp}", f"{body:g}", stage.recompute, stage.way.words or "-",
                     size(stage.peak), f"{stage.peak / group.mem_bytes:.0%}", f"{busy:.0%}"])  # fmt: skip
    shown = rows if len(rows) <= ROWS else [*rows[: ROWS // 2], *rows[-ROWS // 2 :]]
    gap = "" if len(rows) <= ROWS else f" (first and last {ROWS // 2} of {len(rows)})"
    fullest = max(stage.peak / plan.fleet.groups[stage.group].mem_bytes for r in plan.replicas for stage in r.stages)
    head = ["stage", "card", "tensor-parallel", "layers", "recompute", "besides", "memory a card", "of it", "busy"]
    return (f"stages of the first kind{gap}\n" + table(head, shown)
            + f"\nfullest card of the plan: {fullest:.0%} of its memory")  # fmt: skip


def forecast(chosen: Chosen, gap: float | None, share: SumShare) -> str:
    """Seconds, their interval, the shares of what is possible."""
    best, there = chosen.best, {group.card: group.count for group in chosen.found.ask.fleet.groups}
    u_sum = "no type holds the model, on any number" if math.isinf(share.value) else f"{share.value:.1%}"
    more = [f"{name} cannot alone: counted at the rate of {n:,} of them" if n else f"{name}: on no number of them"
            for name, n in share.cards.items() if n != there.get(name, n)]  # fmt: skip
    wait = best.seconds / best.plan.seconds
    lines = [
        f"forecast  {span(best.seconds)} a step, {span(best.low)} to {span(best.high)} in 8 of 10 published runs like "
        f"it; {best.tokens_per_s:,.0f} tokens/s",
        f"U_sum     {u_sum} (simulated: over the sum of the best of each card type alone, by this same predictor"
        + "".join(f"; {each}" for each in more) + ")",
        f"U_peak    {best.u_peak:.1%} of the published dense 16-bit rate of all cards of the fleet",
        f"waiting   x{wait:.3f} because {sum(best.plan.used):,} cards wait for the slowest; in the forecast, not in "
        "the pipelines' seconds or the bound",
    ]  # fmt: skip
    if gap is not None:
        lines.append(f"bound     no plan of these classes is faster by more than {gap:.2%}: this one has "
                     f"{1 / (1 + gap):.1%} of its proved bound")  # fmt: skip
    else:
        lines.append("bound     none proved: that is done for --goal time on one site, of stages in one piece")
    return "\n".join(lines)


def costs(best: Outlook, kg_per_kwh: float) -> str:
    """Energy, carbon dioxide and price of a step and of a billion tokens, with where the rates are from."""
    from danlu.plan.groups.outlook import KG_PER_KWH, KG_SOURCE

    source = KG_SOURCE if kg_per_kwh == KG_PER_KWH else "--kg-per-kwh"
    groups = [group for group, n in zip(best.plan.fleet.groups, best.plan.used, strict=True) if n]
    rows = []
    if best.kwh is not None:
        energy, watts = best.per_billion(best.kwh), ", ".join(f"{g.card} {g.watts:g} W" for g in groups)
        assert energy is not None
        rows.append(["energy", f"{best.kwh:.3g} kWh", f"{energy:,.4g} kWh", f"board power: {watts}; no hosts, cooling"])
        rows.append(["CO2", f"{best.kwh * kg_per_kwh:.3g} kg", f"{energy * kg_per_kwh:,.4g} kg",
                     f"{kg_per_kwh:g} kg/kWh: {source}"])  # fmt: skip
    else:
        card = next(group.card for group in groups if not group.watts)
        rows.append(["energy", "-", "-", f"say --watts {shlex.quote(f'{card}=400')}"])
    if best.price is not None:
        whole = best.per_billion(best.price)
        rows.append(["price", f"{best.price:.4g}", f"{whole:,.5g}", "hours of the used cards at the fleet's `price`"])
    else:
        card = next(group.card for group in groups if not group.price)
        rows.append(["price", "-", "-", f"say --price {shlex.quote(f'{card}=2.5')} (an hour)"])
    return table(["", "a step", "a billion tokens", "by"], rows)


def alternatives(chosen: Chosen) -> str:
    """Every other plan that was looked at, beside this one."""
    best = chosen.best
    rows = [[each.plan.name, span(each.seconds), f"{each.tokens_per_s:,.0f}", f"{each.seconds / best.seconds:.3f}",
             f"{sum(each.plan.used):,}", each.dominant, _short(each.kwh), _short(each.price)]
            for each in (best, *chosen.others)]  # fmt: skip
    return table(["plan", "a step", "tokens/s", "x this one", "cards", "largest term", "kWh", "price"], rows)


def scale(points: Sequence[Point]) -> str:
    """The same model and batch on more cards, and where the card-seconds that are lost go."""
    rows = [[f"{each.cards:,}", span(each.best.seconds), f"{each.best.tokens_per_s:,.0f}", f"{each.speedup:.2f}",
             f"{each.efficiency:.0%}", each.best.plan.pipelines, *(f"{share:.1%}" for share in
             each.best.plan.terms.values()), f"{each.best.seconds / each.best.plan.seconds - 1:.1%}"]
            for each in points]  # fmt: skip
    first, last = points[0], points[-1]
    head = ["cards", "a step", "tokens/s", "speed-up", "efficiency", "pipelines", *CARD_TERMS, "waiting"]
    said = [table(head, rows), ""]
    if len(points) > 1:
        said.append(f"{last.cards / first.cards:.3g} times the cards: {last.speedup:.2f} times as fast. Card-seconds "
                    f"of a step {1 / last.efficiency - 1:+.1%}: {_rest(first, last)}")  # fmt: skip
    said.append("from busy on: shares of all card-seconds; waiting comes on top. Simulated, never run by us")
    return "\n".join(said)


def _rest(first: Point, last: Point) -> str:
    """Where the card-seconds of a step go that a larger fleet takes more, or fewer; they sum to the difference."""
    spent = []
    for point in (first, last):
        used, seconds = sum(point.best.plan.used), point.best.seconds
        found = {name: share * used * seconds for name, share in point.best.shares.items()}
        spent.append(found | {"cards left out": (point.cards - used) * seconds})
    whole = first.cards * first.best.seconds
    more = {name: (spent[1][name] - before) / whole for name, before in spent[0].items()}
    shown = sorted((name for name in more if abs(more[name]) >= LEAST), key=lambda name: -abs(more[name]))
    small = sum(value for name, value in more.items() if name not in shown)
    rest = [f"all else {small:+.1%}"] if abs(small) >= LEAST / 10 else []
    return ", ".join([*(f"{name} {more[name]:+.1%}" for name in shown), *rest])


def cards_of(plan: GroupedPlan, each: Replicas) -> str:
    """Cards of one of the pipelines, in the order of its stages."""
    names = [group.card for group in plan.fleet.groups]
    count = {at: each.cards(at) // each.copies for at in dict.fromkeys(stage.group for stage in each.stages)}
    return " + ".join(f"{n} {names[at]}" for at, n in count.items())


def card_warnings(fleet: GroupedFleet) -> list[str]:
    """What the catalogue's sources disagree about, of the cards of this fleet."""
    from danlu.fleet import catalogue

    known = catalogue.entries()
    names = dict.fromkeys(group.card for group in fleet.groups)
    return [f"{each}: planned with the middle" for name in names if name in known for each in known[name].warnings]


def short_of_bf16(plan: GroupedPlan) -> list[str]:
    """What to know of used cards whose 16 bits are fp16, where the plan asks for bf16."""
    from danlu.fleet import catalogue

    used = dict.fromkeys(group.card for group, n in zip(plan.fleet.groups, plan.used, strict=True) if n)
    short = [name for name in used if (card := catalogue.known(name)) is not None and not card.bf16_runs]
    if not short or plan.dtype in ("fp16", "fp32"):
        return []
    return [f"{' and '.join(short)}: no bf16 in these cards; the forecast is of fp16 at their rate: --dtype fp16"]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
