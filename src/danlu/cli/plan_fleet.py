"""Split a model over a large fleet of unlike cards: the best plan found, and how far from the best there is it can be.

MODEL is a Hugging Face folder; FLEET is 128xA100-80+640xH20, or a file of groups or measured cards (docs/formats.md).

example:
  danlu plan fleet ./Llama-3-70B 128xA100-80+640xH20 --batch 1024 --seq 4096 --certificate cert.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.plan.grouped import GroupedPlan, Replicas
    from danlu.plan.large import Found


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu plan fleet`."""
    parser.add_argument("model", type=Path, help="a Hugging Face folder; its config.json is enough")
    parser.add_argument("fleet", help="128xA100-80+640xH20, or a fleet file")
    parser.add_argument("--batch", type=int, default=1024, help="sequences of one step (default 1024)")
    parser.add_argument("--seq", type=int, default=4096, help="tokens of a sequence (default 4096)")
    parser.add_argument("--schedule", choices=("1f1b", "zb-h1"), default="zb-h1", help="order of a pipeline's work")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="write the proof of the gap")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Plan, prove, print, write what was asked for."""
    from danlu import families
    from danlu.cli import output
    from danlu.fleet import groups
    from danlu.plan import certificate, large

    spec = families.spec(families.read(args.model))
    path = Path(args.fleet)
    fleet = groups.load(path) if path.exists() else groups.shorthand(args.fleet)
    progress = output.Progress("plan")
    found = large.search(spec, fleet, batch=args.batch, seq=args.seq, schedule=args.schedule, say=progress.show)
    progress.show("how far from the best it can be")
    proved = certificate.prove_gap(found)
    print(told(found, proved.bound_s, proved.gap))
    if args.certificate is not None:
        output.write_text(args.certificate, certificate.dumps(proved))
        print(f"\ncertificate: danlu plan verify {args.certificate}")
    output.write_json(args.json, figures(found, proved.bound_s, proved.gap))
    return 0


def told(found: Found, bound_s: float, gap: float) -> str:
    """The plan, its alternatives, and where the time goes."""
    from danlu.cli.output import table

    plan = found.plan
    rows = [[each.copies, pipeline(plan, each), len(each.stages), f"{each.micro_batches} x {each.micro_batch}",
             f"{each.seconds:.4g}"] for each in plan.replicas]  # fmt: skip
    others = [[each.kind, f"{each.seconds:.4g}", f"{each.tokens_per_s:.0f}", f"{each.seconds / plan.seconds:.3f}x",
               sum(each.used)] for each in found.alternatives]  # fmt: skip
    terms = ", ".join(f"{name} {share:.1%}" for name, share in plan.terms.items())
    return "\n".join([
        table(["pipelines", "cards of each", "stages", "micro-batches", "seconds"], rows), "",
        table(["plan (forecast)", "seconds a step", "tokens/s", "of the best", "cards"], others), "",
        f"no plan of these classes has a step below {bound_s:.4g} s: proved gap {gap:.2%}",
        f"U_sum {found.sum_share:.1%}, U_peak {plan.peak_share:.1%}; never run by us: a forecast on catalogue figures",
        f"card-seconds: {terms}",
    ])  # fmt: skip


def pipeline(plan: GroupedPlan, each: Replicas) -> str:
    """Cards of one of the pipelines, in the order of its stages."""
    names = [group.card for group in plan.fleet.groups]
    count = {at: each.cards(at) // each.copies for at in dict.fromkeys(stage.group for stage in each.stages)}
    return " + ".join(f"{n} {names[at]}" for at, n in count.items())


def figures(found: Found, bound_s: float, gap: float) -> dict[str, Any]:
    """The command's flat JSON."""
    plan = found.plan
    return {
        "step_s": plan.seconds, "tokens_per_s": plan.tokens_per_s, "kind": plan.kind, "pipelines": plan.pipelines,
        "used": list(plan.used), "u_sum": found.sum_share, "u_peak": plan.peak_share, "bound_s": bound_s, "gap": gap,
        "kwh": plan.kwh, "price": plan.price, **{f"share.{name}": value for name, value in plan.terms.items()},
        **{f"alternative.{each.kind}_s": each.seconds for each in found.alternatives},
    }  # fmt: skip
