"""`danlu plan MODEL FLEET`: what is read, what is searched, what is written. plan.py has its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.errors import BadModel, BadValue, DanluError, DoesNotFit, ShortBatch, UnsupportedModel

if TYPE_CHECKING:
    from danlu.nouns import GroupedFleet, ModelSpec
    from danlu.plan.groups.choose import Chosen
    from danlu.plan.groups.sum_share import SumShare
    from danlu.plan.groups.unit_cost import Stack
    from danlu.plan.stand_ins import Read
    from danlu.plan.stated.stack_time import Constants


TRUSTED = (
    "seconds and bytes of the cost model's tables, and that the ways in them are all there are; the checker holds a "
    "bound's tables against the plan's where they speak of as many pipelines and the same micro-batches"
)
PLAN_ONLY = ("emit", "html", "svg", "certificate")  # what is written of one plan


def run(args: argparse.Namespace, model: str, fleet_words: str) -> int:
    """Plan, prove, print, write what was asked for."""
    from danlu.cli import output, plan_told
    from danlu.plan.groups import choose, fitting, simple
    from danlu.plan.groups.sum_share import sum_share
    from danlu.plan.groups.unit_cost import Stack
    from danlu.plan.proof import certificate
    from danlu.plan.stated import stack_time

    if not 0 <= args.kg_per_kwh < 100:
        raise BadValue(f"--kg-per-kwh {args.kg_per_kwh:g}", why="it is the CO2 of a kWh in kg: 0 to about 1.2",
                       fix="leave it out: the world's mean is taken")  # fmt: skip
    if args.scale is not None and (beside := [name for name in PLAN_ONLY if getattr(args, name) is not None]):
        raise BadValue(f"--{beside[0]} beside --scale", why="--scale prints how a plan scales instead of the plan",
                       fix=f"leave one of --scale and --{beside[0]} out")  # fmt: skip
    if args.goal != "time" and (args.scale is not None or args.certificate is not None):
        word = "--scale" if args.scale is not None else "--certificate"
        raise BadValue(f"{word} with --goal {args.goal}", why="both the table of --scale and the proof of a gap are "
                       "about seconds", fix=f"leave --goal or {word} out")  # fmt: skip
    if args.to is not None and args.emit is None:
        raise BadValue("--to belongs to --emit", why=f"no framework was named whose files go to {args.to}",
                       fix=f"--emit danlu --to {args.to}")  # fmt: skip
    read = model_of(model)
    spec = read.spec
    fleet = fleet_of(fleet_words, args.price, args.watts)
    progress, stack = output.Progress("plan"), Stack(precision=args.dtype)
    known = None if args.constants is None else stack_time.read(args.constants)
    if args.scale is not None:
        return _scale(args, spec, fleet, stack, known)
    try:
        chosen = choose.best(spec, fleet, batch=args.batch, seq=args.seq, goal=args.goal, schedule=args.schedule,
                             stack=stack, zero=args.zero, constants=known, say=progress.show)  # fmt: skip
    except ShortBatch as error:
        raise error.at(f"--batch {args.batch}") from error
    except DoesNotFit as error:
        change = fitting.cheapest(spec, fleet, batch=args.batch, seq=args.seq, schedule=args.schedule,
                                  stack=stack, zero=args.zero, constants=known, say=progress.show)  # fmt: skip
        raise fitting.explained(error, spec, fleet, change) from error
    chosen = simple.preferred(chosen, fleet, stack)
    if chosen.proves:
        progress.show("how far from the best it can be")
    proved = certificate.prove_gap(chosen.found) if chosen.proves else None
    gap = None if proved is None else proved.gap
    share = sum_share(chosen.found, progress.show)
    plans = len(chosen.others) + 1
    progress.done(f"{fleet.cards:,} cards, {plans} plan{'s' * (plans != 1)} to choose from")
    notes = (*read.notes, *_calibrated(args.constants, fleet))
    said = plan_told.told(chosen, fleet, gap, share, args.kg_per_kwh, notes)
    print(said)
    _written(args, chosen, said, f"{model} on {fleet_words}")
    if args.certificate is not None:
        if proved is None:
            raise BadValue("this plan has no certificate", why="a gap is proved for --goal time on one site, of "
                           "stages in one piece", fix="leave --certificate out, or --schedule zb-h1")  # fmt: skip
        output.write_text(args.certificate, certificate.dumps(proved))
        print(f"\ncertificate written: danlu plan verify {args.certificate}")
    output.write_json(args.json, figures(chosen, fleet, gap, share, args.kg_per_kwh))
    return 0


def _written(args: argparse.Namespace, chosen: Chosen, said: str, heading: str) -> None:
    """Pictures, page and a framework's files, where they were asked for."""
    from danlu.cli import output, plan_emit, plan_picture

    plan = chosen.best.plan
    if args.svg is not None:
        output.write_text(args.svg, plan_picture.svg(plan))
    if args.html is not None:
        output.write_text(args.html, plan_picture.page(plan, said, heading))
        print(f"\npage written to {args.html}")
    if args.emit is not None:
        folder = args.to or Path(f"plan-{args.emit}")
        found = plan_emit.emitted(chosen, args.emit, args.words[1], folder)
        print("\n" + plan_emit.write(found, folder))


def _calibrated(path: Path | None, fleet: GroupedFleet) -> list[str]:
    """Which cards of the fleet a file of constants speaks of, and which not."""
    from danlu.plan.stated import stack_time

    if path is None:
        return []
    known, usual = stack_time.read(path), stack_time.published()
    names = dict.fromkeys(group.card for group in fleet.groups)
    fitted = [name for name in names if any(getattr(known, each).get(name) != getattr(usual, each).get(name)
                                            for each in stack_time.BY_CARD)]  # fmt: skip
    rest = [name for name in names if name not in fitted]
    return [f"constants of {path}: {' and '.join(fitted) or 'no card of this fleet'} as fitted there"
            + f"; {' and '.join(rest)} as published" * bool(rest and fitted)]  # fmt: skip


def _scale(
    args: argparse.Namespace, spec: ModelSpec, fleet: GroupedFleet, stack: Stack, known: Constants | None
) -> int:  # fmt: skip
    """The table of --scale."""
    from danlu.cli import output, plan_told
    from danlu.plan.groups import scaling

    try:
        times = [float(each) for each in args.scale.split(",")]
    except ValueError:
        times = [0.0]
    if not all(0 < each <= 1000 for each in times):
        raise BadValue(f"--scale {args.scale}", why="it is numbers above 0, commas between them", fix="--scale 1,2,10")
    points = scaling.scaled(spec, fleet, times, batch=args.batch, seq=args.seq, schedule=args.schedule,
                            stack=stack, constants=known, say=output.Progress("plan").show)  # fmt: skip
    print(plan_told.scale(points))
    output.write_json(args.json, {f"{name}_{point.cards}": getattr(point, name) for point in points
                                  for name in ("speedup", "efficiency")}
                      | {f"step_s_{point.cards}": point.best.seconds for point in points})  # fmt: skip
    return 0


def model_of(words: str) -> Read:
    """The model of a folder, a config.json or a preset. Raises BadModel, UnsupportedModel."""
    from danlu import families
    from danlu.plan import stand_ins
    from danlu.plan.presets import known

    path, fix = Path(words), "give a folder, its config.json or the name of a model"
    if not path.exists():
        return known(words)
    try:
        folder = path.is_dir()
        config = families.read(path) if folder else json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadModel(f"cannot read {path}", where=where, why=str(error), fix=fix) from error
    if not isinstance(config, dict):
        raise BadModel(f"{path} is no config.json", why=f"its top level is {type(config).__name__}", fix=fix)
    path = path / "config.json" if folder else path
    try:
        return stand_ins.read(config)
    except (BadModel, UnsupportedModel) as error:
        raise error.at(_line(path, config, error)) from error


def _line(path: Path, config: Mapping[str, Any], error: DanluError) -> str:
    """file:line of the first key of config.json that an error speaks of."""
    said = f"{error.what} {error.why.partition(': ')[0]} {error.fix}"
    inner = config.get("text_config")
    keys = {*config, *inner} if isinstance(inner, Mapping) else set(config)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        key = line.partition(":")[0].strip().strip('{" ')
        if key in keys and key in said:
            return f"{path}:{number}"
    return str(path)


def fleet_of(words: str, prices: Sequence[str] = (), watts: Sequence[str] = ()) -> GroupedFleet:
    """The fleet of a file or a shorthand, with what is said beside it. Raises BadFleet, UnknownCard, BadValue."""
    from danlu.fleet import groups

    path = Path(words)
    file = bool(words) and (path.exists() or words.endswith((".yaml", ".yml")))
    fleet = groups.load(path) if file else groups.shorthand(words)
    for name, said in (("price", prices), ("watts", watts)):
        for each in said:
            card, value = _said(each, name, fleet.groups[0].card)
            if card not in {group.card for group in fleet.groups}:
                raise BadValue(f"--{name} {each}: the fleet has no {card}",
                               why=f"it has {', '.join(group.card for group in fleet.groups)}",
                               fix=f"--{name} {fleet.groups[0].card}={value:g}")  # fmt: skip
            fleet = replace(fleet, groups=tuple(
                group if group.card != card else replace(group, price=value) if name == "price"
                else replace(group, watts=value) for group in fleet.groups
            ))  # fmt: skip
    return fleet


def _said(each: str, name: str, example: str) -> tuple[str, float]:
    card, _, text = each.rpartition("=")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not card or not 0 < value < 1e9:
        raise BadValue(
            f"--{name} {each}",
            why="it is CARD=NUMBER with a number above 0",
            fix=f"--{name} {example}={400 if name == 'watts' else 2.5}",
        )
    return card, value


def figures(
    chosen: Chosen, fleet: GroupedFleet, gap: float | None, share: SumShare, kg_per_kwh: float
) -> dict[str, Any]:  # fmt: skip
    """The command's flat JSON."""
    from danlu.plan.groups import put_off

    best, plan = chosen.best, chosen.best.plan
    return {
        "goal": chosen.goal, "kind": plan.name, "dtype": plan.dtype, "pipelines": plan.pipelines,
        "step_s": best.seconds,
        "step_low_s": best.low, "step_high_s": best.high, "tokens_per_s": best.tokens_per_s,
        "search_s": plan.seconds, "gap": gap, "gap_trusts": None if gap is None else TRUSTED,
        "fastest_step_s": (chosen.fastest or best).seconds,
        "put_off_short": sum(each.copies * put_off.short(plan, each) for each in plan.replicas),
        "put_off_step_s": best.seconds * put_off.longest(plan) / plan.seconds,
        "u_sum_simulated": share.value, "u_peak": best.u_peak,
        "cards": fleet.cards, "used": {group.card: n for group, n in zip(plan.fleet.groups, plan.used, strict=True)},
        "dominant": best.dominant, "kwh_per_step": best.kwh, "price_per_step": best.price,
        "co2_kg_per_step": None if best.kwh is None else best.kwh * kg_per_kwh,
        "mem_bytes_most": max(stage.peak for each in plan.replicas for stage in each.stages),
        **{f"share.{name.replace(' ', '_')}": value for name, value in best.shares.items()},
        **{f"cards.{name}": value for name, value in plan.terms.items()},
        "alternatives": [[each.plan.name, each.seconds, sum(each.plan.used)] for each in chosen.others],
    }  # fmt: skip
