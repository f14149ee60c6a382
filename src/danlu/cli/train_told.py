"""What a training run says of itself: who holds what, what came of it, and the figures of its JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.cli.run_text import Run
    from danlu.nouns import Plan
    from danlu.plan.ranks.seats import Seat
    from danlu.train.result import Result


def placed(plan: Plan) -> str:
    """Who holds what: "4 + 2 layers on a + b"; cards that share a stage are joined by "|", copies of the model by ;.

    Parts of one copy's sequences are told as copies, with their tokens.
    """
    from danlu.plan.ranks.parts import deals, parts
    from danlu.plan.ranks.seats import alone

    found, known, held = [], parts(plan), deals(plan)
    for number, each in enumerate(plan.pipelines):
        layers = " + ".join(f"{count:g}" for count in alone(plan, number).layers_per_stage)
        cards = " + ".join("|".join(stage.cards) for stage in each.stages)
        found.append(f"{layers} layers on {cards}{known[number].words(plan.seq)}"
                     f"{held[number].words(plan.model.experts)}")  # fmt: skip
    return "; ".join(found)


def label(plan: Plan) -> str:
    """Said beside every figure of cards that are paced, or of numbers that are imitated."""
    return f" ({plan.emulated})" if plan.emulated else ""


def figures(run: Run, plan: Plan, result: Result) -> dict[str, Any]:
    """The command's JSON: step time beside its forecast, losses, and what the last fault cost."""
    from danlu.cli.wiring import tokens_of
    from danlu.data.token_file import manifest_of

    values: dict[str, Any] = {
        "train.steps": result.steps[-1].step if result.steps else result.began_at,
        "train.dtype": plan.dtype,
        "train.emulated": plan.emulated,
        "train.step_s": result.step_s,
        "train.tokens_per_s": result.tokens_per_s,
        "train.loss_first": result.steps[0].loss if result.steps else None,
        "train.loss_last": result.steps[-1].loss if result.steps else None,
        "train.unigram_entropy": manifest_of(tokens_of(run))["unigram_entropy"],
        "train.snapshots": result.snapshots,
        "train.peak_bytes": list(result.peak_bytes),
        "train.busy_s": list(result.busy_s),
        "plan.layers_per_card": list(plan.layers_per_stage),
        "plan.forecast_step_s": plan.forecast.step_s if plan.forecast else None,
        "fault.count": len(result.faults),
        "fault.steps_lost": result.lost,
        "fault.steps_repeated": result.repeated,
        "fault.steps_recomputed": sum(fault.recomputed for fault in result.faults),
    }
    if result.faults:
        last = result.faults[-1]
        values |= {"fault.card": last.card, "fault.during": last.during, "fault.restored": last.restored,
                   "fault.detected_s": last.detected_s, "fault.recovery_s": last.recovery_s}  # fmt: skip
    return values


def summary(plan: Plan, result: Result) -> str:
    """What a person wants to know at the end."""
    from danlu.cli.output import size, span, table
    from danlu.plan.ranks.seats import alone, seats

    if not result.steps:
        return f"nothing to do: the run is already at step {result.began_at}"
    every = seats(plan)
    layers = [alone(plan, seat.replica).layers_per_stage[seat.stage] for seat in every]
    rows = [
        [seat.card, f"{held:g}" + part(plan, seat), span(busy), f"{busy / result.step_s:.0%}", size(peak)]
        for seat, held, busy, peak in zip(every, layers, result.busy_s, result.peak_bytes, strict=True)
    ]
    forecast = f", forecast {span(plan.forecast.step_s)}" if plan.forecast else ""
    lines = [
        table(["card", "layers", "computes", "busy", "memory"], rows), "",
        f"{span(result.step_s)} a step{forecast}{label(plan)}, {result.tokens_per_s:,.0f} tokens/s",
        f"loss {result.steps[0].loss:.3f} -> {result.steps[-1].loss:.3f} in {len(result.steps)} steps",
    ]  # fmt: skip
    lines += [
        f"{fault.card or 'a line'} was lost in step {fault.during}: seen after {span(fault.detected_s)}, "
        f"next good step after {span(fault.recovery_s)}, {fault.recomputed} steps done again, none lost"
        for fault in result.faults
    ]
    return "\n".join(lines)


def part(plan: Plan, seat: Seat) -> str:
    """What share of its stage a card holds, where it is not alone, and of which tokens and experts, if not of all."""
    from danlu.plan.ranks.parts import deals, parts

    shares = plan.pipelines[seat.replica].stages[seat.stage].shares
    held = f" x {shares[seat.part]}/{sum(shares)}" if len(shares) > 1 else ""
    known = parts(plan)[seat.replica].words(plan.seq) + deals(plan)[seat.replica].words(plan.model.experts)
    return held + known
