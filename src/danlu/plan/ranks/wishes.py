"""What a run wants of its plan, and the best plan that has it: one door for every combination of the keys of `plan`.

How cards may share the model: layers (tensor), batches (copies), sequences (context), experts (spread); in which order
a pipeline works (schedule). Whatever is asked for is looked at, or refused by name: nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from danlu.errors import BadContext, BadValue, DanluError, DoesNotFit, ShortBatch
from danlu.nouns import Fleet, Plan
from danlu.plan import room, splits
from danlu.plan.candidates import Ask
from danlu.plan.forecast import forecast, slipped
from danlu.plan.ranks import copies, step_search, tensor_search
from danlu.plan.ranks.halved import halved
from danlu.plan.ranks.seats import shared
from danlu.plan.splits import Order


@dataclass(frozen=True, slots=True)
class Wishes:
    """The keys of `plan` by their names in run.yaml; `spread` is `experts: spread`."""

    split: str = "best"
    schedule: Order = "auto"
    copies: int = 1
    tensor: int = 1
    context: int = 1
    spread: bool = False

    @property
    def in_step(self) -> bool:
        """True where pipelines are to meet in every layer: parts of sequences, or experts spread."""
        return self.context > 1 or self.spread


def best(ask: Ask, fleet: Fleet, wishes: Wishes) -> Plan:
    """The plan with the shortest forecast step among those that the wishes allow, forecast included.

    Raises BadValue for wishes that no plan is looked for, BadContext, DoesNotFit, ShortBatch.
    """
    check(ask, wishes)
    if wishes.split == "even":
        return _even(ask, fleet, wishes)
    found, refused = list[Plan](), list[DanluError]()
    for look in _looks(ask, fleet, wishes):
        try:
            found += [ordered(plan, wishes.schedule) for plan in look()]
        except (BadContext, DoesNotFit, ShortBatch) as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return min(found, key=_step_s)


def check(ask: Ask, wishes: Wishes) -> None:
    """Raise BadValue, naming the key, for wishes that no plan is looked for."""
    shares = {"copies": wishes.copies, "tensor": wishes.tensor, "context": wishes.context}
    more = [name for name, count in shares.items() if count > 1] + ["experts"] * wishes.spread
    if wishes.split == "even" and more:
        raise _refused(more[0], "split: even", "the even split is one pipeline, a card for each stage")
    if wishes.in_step and wishes.tensor > 1:
        raise _refused("tensor", "context: 2" if wishes.context > 1 else "experts: spread",
                       "cards of pipelines that meet in every layer are planned one for each stage")  # fmt: skip
    if wishes.spread and (not ask.spec.experts or max(wishes.copies, wishes.context) == 1):
        raise BadValue("experts have nothing to spread over" if ask.spec.experts else "there are no experts to spread",
                       where="plan.experts", why=f"the model has {ask.spec.experts} experts a layer; plan.context is "
                       f"{wishes.context}, plan.copies {wishes.copies}",
                       fix="leave plan.experts out, or give plan.context: 2")  # fmt: skip


def _refused(name: str, other: str, why: str) -> BadValue:
    return BadValue(f"plan.{name} and plan.{other} are not planned together", where=f"plan.{name}", why=why,
                    fix="leave one of them out, or write it: in the plan.json that a run without plan.tensor keeps, "
                        "name several \"cards\" in a stage, keep \"context\" and \"experts\" of the pipelines, and "
                        "give --plan.path; docs/life-of-a-step.md lists what goes with what")  # fmt: skip


def ordered(plan: Plan, schedule: Order) -> Plan:
    """The plan under the schedule that was asked for; auto takes the faster one that also bears slower stages better.

    What shares nothing was searched for with its schedule. Raises DoesNotFit where no zero-bubble order fits.
    """
    if schedule == "1f1b" or not shared(plan) or all(len(each.stages) == 1 for each in plan.pipelines):
        return plan
    other = halved(plan)
    if schedule == "auto":
        better = other is not None and all(a < b for a, b in zip(slipped(other), slipped(plan), strict=True))
        return other if other is not None and better else plan
    if other is None:
        raise DoesNotFit("no zero-bubble order fits the cards", where="plan.schedule",
                         why="a split backward holds what it read until its weights' half",
                         fix="--plan.schedule auto, or a smaller --plan.micro_batch")  # fmt: skip
    return other


def _looks(ask: Ask, fleet: Fleet, wishes: Wishes) -> Iterator[Callable[[], list[Plan]]]:
    """The searches that the wishes allow: one copy of the model, shared in the ways they name; several of these."""

    def copied(pipeline: copies.Search, cards: int) -> list[Plan]:
        found = copies.best(ask, fleet, wishes.copies, pipeline, cards)
        return [] if found is None else [found]

    if wishes.in_step:
        parts = wishes.context > 1
        ways = step_search.Ways(wishes.context if parts else wishes.copies, parts, wishes.spread)
        yield lambda: [step_search.best(ask, fleet, ways)]
        if parts and wishes.copies > 1:
            yield lambda: copied(lambda asked, some: step_search.best(asked, some, ways), wishes.context)
        return
    yield lambda: [splits.search(ask.spec, fleet, micro_batch=ask.micro_batch, micro_batches=ask.micro_batches,
                                 seq=ask.seq, dtype=ask.dtype, schedule=wishes.schedule)]  # fmt: skip
    if wishes.tensor > 1:
        yield lambda: [found] if (found := tensor_search.best(ask, fleet, wishes.tensor)) else []
    if wishes.copies > 1:
        yield lambda: copied(lambda asked, some: _pipeline(asked, some, wishes.tensor), 1)


def _pipeline(ask: Ask, fleet: Fleet, tensor: int) -> Plan:
    """The best pipeline over cards, `tensor` of which may share a stage, under 1F1B. Raises DoesNotFit, ShortBatch."""
    cut = tensor_search.best(ask, fleet, tensor) if tensor > 1 else None
    try:
        return copies.faster(copies.plain(ask, fleet), cut)
    except (DoesNotFit, ShortBatch):
        if cut is None:
            raise
        return cut


def _even(ask: Ask, fleet: Fleet, wishes: Wishes) -> Plan:
    plan = splits.even(ask.spec, fleet, micro_batch=ask.micro_batch, micro_batches=ask.micro_batches, seq=ask.seq,
                       dtype=ask.dtype)  # fmt: skip
    room.check_length(plan, lambda copy: "plan.micro_batches", "--plan.micro_batches {stages}, or --plan.split best")
    if wishes.schedule != "zero-bubble" or len(plan.stages) == 1:
        return plan
    return forecast(replace(plan, schedule="zb", orders=splits.ordered(plan, None)[0][1]))


def _step_s(plan: Plan) -> float:
    assert plan.forecast is not None
    return plan.forecast.step_s
