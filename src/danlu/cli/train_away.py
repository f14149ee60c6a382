"""A run that outlives its cards: when one does not come back, it goes on by a new plan over those that are left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from danlu.cli.train_told import label, placed

if TYPE_CHECKING:
    from danlu.cli.run_text import Run
    from danlu.errors import CardAway
    from danlu.fault.drill import Drill
    from danlu.nouns import Plan
    from danlu.train.result import Result, Step


@dataclass(frozen=True, slots=True)
class Away:
    """Cards that stayed away, the plan without them, and seconds from knowing so to the next good step."""

    cards: tuple[str, ...]
    plan: Plan
    seconds: float

    @property
    def words(self) -> str:
        """What a person wants to know of it."""
        from danlu.cli.output import span

        return f"{', '.join(self.cards)} stayed away: planned anew, {placed(self.plan)}; {span(self.seconds)} to a step"


def trained(run: Run, plan: Plan, *, drills: Sequence[Drill] = ()) -> tuple[Plan, Result, list[Away]]:
    """Train by a plan and, when a card does not come back, from the last snapshot by a new one over those left.

    Returns the last plan, its result, and what was lost on the way. Raises what train_run raises; CardAway when no card
    is left, DoesNotFit when the others have too little memory.
    """
    from danlu.cli import output
    from danlu.cli.train_run import starter, train_run
    from danlu.errors import CardAway

    away: list[Away] = []
    with starter(run, plan) as started:
        while True:
            known = time.monotonic()

            def step(done: Step, known: float = known) -> None:
                if away and not away[-1].seconds:
                    away[-1] = replace(away[-1], seconds=done.ended - known)

            try:
                return plan, train_run(run, plan, drills=drills, on_step=step, started=started), away
            except CardAway as error:
                plan = without(run, plan, error)
                output.Progress("train").done(f"{error.what} ({error.why}); planned anew: {placed(plan)}{label(plan)}")
                away.append(Away(error.cards, plan, 0.0))
                run, drills = run.model_copy(update={"train": run.train.model_copy(update={"resume": True})}), ()


def without(run: Run, plan: Plan, error: CardAway) -> Plan:
    """The best plan for the same batches over the cards that are left. Raises the error when there are none.

    It may share the model in the ways that the run names; whole sequences and experts where too few cards are left.
    """
    from danlu.cli import wiring
    from danlu.errors import BadContext
    from danlu.events import fallback
    from danlu.plan.candidates import Ask
    from danlu.plan.ranks import wishes

    left = plan.fleet.without(error.cards)
    if not left.cards or not error.cards:
        raise error
    ask = Ask(plan.model, plan.micro_batch, plan.sequences // plan.micro_batch, plan.seq, plan.dtype)
    wanted = wiring.wishes_of(run)
    try:
        return wishes.best(ask, left, wanted)
    except BadContext as refused:
        fallback("plan.context", f"whole sequences and experts from now on: {refused.why}")
        return wishes.best(ask, left, replace(wanted, context=1, spread=False))
