"""The interpreter: executes one stage's instruction list, the same list that plan/events.py charges.

Compute instructions run in list order on this thread, each under the card's pacer. A compute instruction waits for the
`recv`s it names in `after`; what it made is posted the moment it ends, before the pacer sleeps. So a list's two streams
overlap although one thread drives both. Tensor axes: T tokens of a micro-batch, D hidden.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.comm.header import Tag
from danlu.comm.mesh import Aborted
from danlu.comm.staging import leaving
from danlu.comm.wire import Message, Wire
from danlu.errors import NotFinite
from danlu.fleet.pace import Pacer
from danlu.memory.arena import Arena
from danlu.model.context import CausalPart
from danlu.model.halves import Halves, Left
from danlu.model.net import Causal, Decoder
from danlu.model.parallel import cross_entropy
from danlu.model.products import PLAIN, Products
from danlu.nouns import Plan, kept_as
from danlu.plan.ranks.parts import parts, sequences_before
from danlu.plan.ranks.seats import receivers, seats, sender
from danlu.train import blame
from danlu.train.counted import counted
from danlu.train.ending import Ending, tied_here
from danlu.train.group import Group, as_tensor
from danlu.train.neighbours import RankNeighbours
from danlu.train.optim import AdamW
from danlu.train.posting import RankPost
from danlu.train.program import Work
from danlu.train.result import Span
from danlu.train.shared import SharedAdamW


@dataclass(frozen=True, slots=True)
class Done:
    """One executed step: mean loss over its tokens, gradient norm before clipping, its end, what took how long."""

    step: int
    loss: float
    norm: float
    end: float
    spans: tuple[Span, ...]

    @property
    def busy_s(self) -> float:
        """Seconds the card computed."""
        return sum(end - start for _, _, start, end in self.spans)


@dataclass(slots=True)
class _Live:
    """A micro-batch between its forward and its backward."""

    x: Tensor
    out: Tensor | None  # None where it is made again
    message: Message | None


@dataclass(slots=True)
class _Half:
    """A micro-batch between the two halves of its backward."""

    weights: list[Left]
    messages: list[Message]


class Interpreter:
    """Owns one stage's decoder and optimizer, and what is in flight; used by one thread.

    index  the rank, which in a plan that shares nothing is the stage's number
    group  sums over the cards of the stage, where there are several;  post  takes tokens to other cards' experts, where
           there are such: the decoder was built with both
    products  how matrices of sub-layers are multiplied
    """

    def __init__(
        self, plan: Plan, index: int, decoder: Decoder, optimizer: AdamW | SharedAdamW, pacer: Pacer, arena: Arena,
        group: Group | None = None, post: RankPost | None = None, products: Products = PLAIN,
    ) -> None:  # fmt: skip
        self.plan, self.index, self._group, self._seats = plan, index, group, seats(plan)
        self.seat = self._seats[index]
        self.decoder, self.optimizer, self.pacer, self.arena = decoder, optimizer, pacer, arena
        self.first, self.last = decoder.embed is not None, decoder.head is not None
        self._device = next(decoder.parameters()).device
        part = parts(plan)[self.seat.replica]
        self._tokens_of = slice(part.start, part.stop)
        around = RankNeighbours(plan, self.seat) if part.tokens < plan.seq else None
        self._state = Causal(plan.micro_batch, plan.seq) if around is None else CausalPart(
            plan.micro_batch, part.start, part.stop, around
        )  # fmt: skip
        self._meets = [each for each in (group, around, post) if each is not None]  # in the middle of an instruction
        self._meta = self._state.meta(device=self._device)
        self._before = sequences_before(plan, self.seat.replica)
        self._shape = (plan.micro_batch * part.tokens, plan.model.hidden)
        self._again = plan.pipelines[self.seat.replica].stages[self.seat.stage].recompute == "full"
        self._ending = Ending(optimizer, self._device, tied=tied_here(plan, decoder), counts=self.seat.part == 0)
        self._activation_bytes = 0
        self._halves, self.products, self._dtype = Halves(), products, kept_as(plan.dtype)
        decoder.halve(self._halves, products)
        self._do: dict[str, Callable[[Work], None]] = {
            "forward": self._forward, "backward": self._backward, "backward_input": self._backward_input,
            "backward_weight": self._backward_weight, "step": self._step,
            "reduce": lambda work: self._ending.reduce(work, self._loss),
        }  # fmt: skip
        for name, size in optimizer.state_bytes.items():
            arena.reserve(name, size)
        arena.reserve("rounded weights", decoder.product_bytes)

    def run(
        self, work: Sequence[Work], wire: Wire, step: int, batch: npt.NDArray[np.int64], rate: float, clip: float,
        save: Callable[[], None],
    ) -> Done:  # fmt: skip
        """Execute one step.

        batch  int64 (sequences, seq + 1), only read by the first and the last stage
        rate   learning rate; clip  largest norm of the whole gradient
        save   called by the `save` instruction
        Raises what Wire.take raises, DoesNotFit; NotFinite on the rank that went wrong first, Aborted on the others.
        """
        self._wire, self._number, self._rate, self._clip, self._work = wire, step, rate, clip, work
        self.products.fresh()
        rows, own = torch.from_numpy(batch).to(self._device), self._tokens_of
        self._x, self._y = rows[:, :-1][:, own].clamp(min=0), rows[:, 1:][:, own]  # below 0: no token, and no target
        self._tokens = max(1, int((batch[:, 1:] >= 0).sum()))
        self._loss = torch.zeros((), device=self._device)
        self._ending.begin(wire, step)
        for meet in self._meets:
            meet.begin(wire, step, self.pacer)
        self._live: dict[int, _Live] = {}
        self._left: dict[int, _Half] = {}
        self._came: dict[str, Message] = {}
        spans = []
        for each in work:
            ready = self._collect(each)
            began = time.monotonic() if self.pacer.real else max(self.pacer.clock, ready)
            with self.pacer.instruction(ready):
                self._do[each.op](each) if each.op != "save" else save()
                if each.op in ("backward", "backward_weight"):
                    self.optimizer.collect()
            spans.append((each.op, each.mb, began, self.pacer.clock))
            self._post(each)
        return Done(step, self._ending.loss, self._ending.norm, self.pacer.settle(), tuple(spans))

    def warm(self) -> None:
        """Run one micro-batch of nothing, unpaced: what torch does only once is no part of a step.

        What autograd keeps of a micro-batch is counted here.
        """
        tokens, width = self._shape
        self.products.fresh()
        for meet in self._meets:
            meet.begin(None, 0)
        x = torch.zeros(tokens, dtype=torch.int64, device=self._device) if self.first else (
            torch.zeros(tokens, width, dtype=self.decoder.dtype, device=self._device).requires_grad_()
        )  # fmt: skip
        with counted(self.optimizer) as held:
            out = self.decoder(x, self._state, self._meta)
            if self.last:
                out = F.cross_entropy(out.float(), torch.zeros(tokens, dtype=torch.int64, device=self._device))
        self._activation_bytes = sum(held.values())
        out.backward(torch.zeros_like(out))
        self.optimizer.grad.zero_()

    def reset(self) -> None:
        """Forget what was in flight when a step broke off."""
        self._live, self._left, self._came = {}, {}, {}
        self._halves.take()
        self.arena.release("activations", self.arena.held.get("activations", 0))
        self.pacer.restart()

    def _collect(self, work: Work) -> float:
        """Wait for the messages of an instruction; returns when they were there."""
        ready = 0.0
        for recv in work.waits:
            tag = Tag(recv.what, self._number, recv.mb)
            peer = sender(self._seats, self.seat, recv.peer)
            self._came[recv.what] = found = self._wire.take(peer, tag, self._dtype, self._shape)
            ready = max(ready, found.header.ready)
        return max(ready, self._ending.collect(work, self.pacer.clock))

    def _post(self, work: Work) -> None:
        for send in work.posts:
            tag = Tag(send.what, self._number, send.mb)
            for peer in receivers(self._seats, self.seat, send.peer):
                self._wire.post(peer, tag, leaving(self._made), self._dtype, self._shape, self.pacer.clock)
        self._ending.post(work, self.pacer.clock)

    def _forward(self, work: Work) -> None:
        message = self._came.pop("act", None)
        if message is None:
            x = self._x[self._rows(work.mb)].reshape(-1)
        else:
            x = as_tensor(message, self._device).requires_grad_()
        self.arena.reserve("activations", x.nbytes if self._again else self._activation_bytes)
        with torch.set_grad_enabled(not self._again):
            out = self._out(x, work.mb)
        if self.last:
            self._loss += out.detach()
        else:
            self._made = out.detach()
        self._live[work.mb] = _Live(x, None if self._again else out, message)

    def _rows(self, mb: int) -> slice:
        begin = self._before + mb * self.plan.micro_batch
        return slice(begin, begin + self.plan.micro_batch)

    def _out(self, x: Tensor, mb: int) -> Tensor:
        """What the stage makes of a micro-batch: what the next one gets, or its part of the loss."""
        out: Tensor = self.decoder(x, self._state, self._meta)
        if not self.last:
            return out
        return self._loss_of(out.float(), self._y[self._rows(mb)].reshape(-1)) / self._tokens

    def _loss_of(self, logits_TV: Tensor, targets_T: Tensor) -> Tensor:
        """Sum over the tokens; logits may be this card's part of the vocabulary."""
        if self._group is None:
            return F.cross_entropy(logits_TV, targets_T, reduction="sum")
        share = self.decoder.share
        return cross_entropy(logits_TV, targets_T, share.vocab[0], share.card, share.cards, self._group)

    def _backward(self, work: Work) -> None:
        self._halves.later = False
        self._free(self._back(work))

    def _backward_input(self, work: Work) -> None:
        self._halves.later = True
        messages = self._back(work)
        self._left[work.mb] = _Half(self._halves.take(), messages)

    def _backward_weight(self, work: Work) -> None:
        half = self._left.pop(work.mb)
        with torch.no_grad():
            for left in half.weights:
                left.run()
        self._free(half.messages)

    def _back(self, work: Work) -> list[Message]:
        """One micro-batch's backward; returns the messages whose memory it read."""
        live, message = self._live.pop(work.mb), self._came.pop("grad", None)
        out = live.out
        if out is None:
            self.arena.release("activations", live.x.nbytes)
            self.arena.reserve("activations", self._activation_bytes)
            out = self._out(live.x, work.mb)
        out.backward(None if message is None else as_tensor(message, self._device))  # type: ignore[no-untyped-call]
        if live.message is not None:
            assert live.x.grad is not None
            self._made = live.x.grad
        return [each for each in (message, live.message) if each is not None]

    def _free(self, messages: list[Message]) -> None:
        """Let go of a micro-batch: what is left of a split backward still reads the messages it came from."""
        for each in messages:
            self._wire.recycle(each.body)
        self.arena.release("activations", self._activation_bytes)

    def _step(self, work: Work) -> None:
        if not (math.isfinite(self._ending.loss) and math.isfinite(self._ending.norm)):
            self._blame()
        self.optimizer.update(self._rate, min(1.0, self._clip / (self._ending.norm + 1e-6)))

    def _blame(self) -> NoReturn:
        """Find who went wrong first, and end the step."""
        rank, found = blame.find(self.decoder, self._wire, self._number, self._rerun)
        if rank != self.index:
            raise Aborted
        known = math.isfinite(found.mb)
        what = f"{found.words(self.plan.model.units)} is not finite" if known else "the gradient's norm is not finite"
        when = f"in micro-batch {found.mb:g}" if 0 <= found.mb < blame.ALL else "summed over the step"
        why = "before it began" if found.mb < 0 else when if known else "though every number of it is"
        raise NotFinite(
            f"step {self._number}: {what}",
            where=f"stage {self.seat.stage}",
            why=f"{why}; loss {self._ending.loss:g}, gradient norm {self._ending.norm:g}",
            fix="go on from the last snapshot with a lower --train.lr: --train.resume true --train.lr LR",
        )

    def _rerun(self, watch: blame.Watch) -> None:
        """Run the step's micro-batches once more. Every rank has ended them, so their messages can go out again."""
        self.reset()
        self.optimizer.clear()
        for meet in self._meets:
            meet.begin(self._wire, self._number)
        for each in self._work:
            if each.op in ("reduce", "step", "save"):
                continue
            watch.mb = self._before // self.plan.micro_batch + each.mb
            self._collect(each)
            self._do[each.op](each)
            self._post(each)
