"""What one process of a training job does: follow the owner's orders with the stage it is given.

A process is nobody until the owner's `go` names its rank, so one spare process, already warm, can take the place of any
that dies. Survivors of a fault keep their Python, torch and memory; they only break off, and go again.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.comm.mesh import Aborted, Door, PeerLost, join
from danlu.comm.staging import memory
from danlu.comm.wire import Wire
from danlu.errors import BadPath, DanluError, LateRank, RankLost
from danlu.fleet.driver import vendor
from danlu.memory.arena import Arena
from danlu.model.net import Decoder, init
from danlu.nouns import FP8, Stage, kept_as
from danlu.plan.ranks.cells import cells, share_of
from danlu.plan.ranks.parts import deals
from danlu.plan.ranks.seats import group, instructions_of, seats, shared
from danlu.plan.schedule import Instruction
from danlu.ready import ready
from danlu.train import optim
from danlu.train.control import Line
from danlu.train.group import TORCH, Group
from danlu.train.job import TrainJob
from danlu.train.posting import RankPost
from danlu.train.precision import products, words
from danlu.train.program import program
from danlu.train.shared import SharedAdamW
from danlu.train.snapshot import Place, Saver
from danlu.train.stage import Done, Interpreter
from danlu.train.start import agreed, begin, held_twice, restore, stage_of

Batches = Callable[[int], npt.NDArray[np.int64]]  # step, counted from 0 -> (sequences, seq + 1)
BEAT_S = 0.25


def follow(line: Line, job: TrainJob, opened: Callable[[], Batches], name: str) -> None:
    """Do what the owner says until it says `end` or is gone.

    opened  opens the data; called once, and what it raises is told to the owner
    name    what the owner calls this process
    """

    def hello(address: str) -> None:
        line.say("hello", name=name, address=address, key=job.key, clock=time.monotonic())

    try:
        batches = opened()
        warm_up(job)
    except Exception as error:
        hello("")  # the owner hears nobody whom it does not know
        report(line, error)
        return
    member = _Member(line, job, batches)
    threading.Thread(target=member.listen, name="control", daemon=True).start()
    hello(member.door.address)
    while (order := member.orders.get())["say"] != "end":
        try:
            if order["say"] == "go":
                member.go(order)
            else:
                member.rest(order["epoch"])
        except Aborted:
            continue
        except PeerLost as lost:
            line.say("lost", epoch=order["epoch"], peer=lost.peer)
        except LateRank as late:
            line.say("late", epoch=order["epoch"], error=late.as_dict())
        except Exception as error:  # anything else ends the job: the owner names this rank
            report(line, error)


def warm_up(job: TrainJob) -> None:
    """Make torch load and start what it starts at first use (0.3 s), so that a spare takes a place without it."""
    model = replace(job.plan.model, layers=1, hidden=16, heads=1, kv_heads=1, head_dim=16, ffn=16, vocab=16)
    model = replace(model, experts=min(model.experts, 2), experts_used=min(model.experts_used, 1), shared_ffn=16)
    here = [seat.card for seat in seats(job.plan) if not vendor(job.plan.fleet.card(seat.card)).present()]
    if not here:
        return  # a rank says what is wrong when it gets its place
    plan = replace(job.plan, model=model, stages=(Stage((here[0],), 0, len(model.units)),), replicas=(), context=0,
                   experts=0, dtype=kept_as(job.plan.dtype))  # fmt: skip
    tiny = build(replace(job, plan=plan), 0)
    init(tiny.decoder, job.seed)
    tiny.warm()
    tiny.optimizer.update(0.0, 0.5)


def settle() -> None:
    """Take what there is now out of Python's search for garbage.

    With torch's half million objects in it, every full search was 90 ms in the middle of some instruction.
    """
    gc.collect()
    gc.freeze()


def report(line: Line, error: Exception) -> None:
    """Tell the owner why this process cannot go on; the traceback of a fault of ours goes to the log."""
    if isinstance(error, OSError) and error.filename:
        error = BadPath(
            f"a rank cannot use {error.filename}",
            why=error.strerror or str(error),
            fix=f"ls -ld {error.filename}; see that its disk is there and not read-only; then --train.resume true",
        )
    if not isinstance(error, DanluError):
        traceback.print_exc()
        error = RankLost(
            f"a rank met {type(error).__name__}",
            why=str(error) or "no message",
            fix="its log in OUT/logs has the traceback; report it if it is not the disk or the network",
        )
    print(error, file=sys.stderr, flush=True)
    line.say("error", **error.as_dict())


class _Member:
    """Owns what a process keeps over epochs: its door, its saver, and its stage once it has one."""

    def __init__(self, line: Line, job: TrainJob, batches: Batches) -> None:
        self.line, self.job, self.batches = line, job, _Ahead(batches)
        self.door = Door(line.interface)
        self.orders: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._halted = 0  # newest epoch that was broken off
        self._wire: Wire | None = None
        self._stage: Interpreter | None = None
        self._saver = Saver(job.checkpoints, self._saved, lambda error: report(line, error))

    def listen(self) -> None:
        """The control thread: passes orders on, breaks off at once on `halt`, and shows that the process lives."""
        while True:
            if not ready([self.line], BEAT_S):
                self.line.say("beat")
                continue
            found = self.line.hear()
            if found is None:
                os._exit(1)  # the owner is gone; nothing here is worth keeping
            for order in found:
                if order["say"] == "committed":
                    self._saver.committed(order["step"])
                    continue
                if order["say"] == "halt":
                    self._halted = order["epoch"]
                    self._saver.drop()
                    if (wire := self._wire) is not None:
                        wire.abort()
                self.orders.put(order)

    def rest(self, epoch: int) -> None:
        """Break off for good: lines closed, nothing in flight, no shard half-written."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if epoch:
            self._saver.rest()
        self.line.say("idle", epoch=epoch)

    def go(self, order: dict[str, Any]) -> None:
        """Take a place in an epoch, restore its step, and train from there to the end."""
        rank, epoch, step = order["rank"], order["epoch"], order["step"]
        addresses = {int(peer): address for peer, address in order["addresses"].items()}
        if self._stage is None:
            print(f"rank {rank} on card {self.job.card(rank).name}, process {os.getpid()}", flush=True)
            self._stage = build(self.job, rank)
            if self.job.plan.dtype in FP8:
                print(words(self._stage.products), flush=True)
            self._restore(self._stage, rank, step)
            self._stage.warm()
            settle()
        stage = self._stage
        stage.reset()
        self._restore(stage, rank, step)

        def given_up() -> bool:
            return bool(self._halted >= epoch)

        key = bytes.fromhex(self.job.key)
        limit_s, name = self.job.limit_s, self.job.name
        lines = join(self.door, rank, epoch, addresses, key, limit_s=limit_s, given_up=given_up,
                     same=agreed(self.job, step), name=name)  # fmt: skip
        self._wire = wire = Wire(rank, epoch, lines, links=paced_links(self.job, rank), limit_s=limit_s, name=name,
                                 memory=memory(stage.decoder.device))  # fmt: skip
        if given_up():
            raise Aborted
        self._train(stage, wire, rank, epoch, step)

    def _train(self, stage: Interpreter, wire: Wire, rank: int, epoch: int, begun: int) -> None:
        job = self.job
        listed = instructions_of(job.plan, stage.seat)
        plain = program(listed)
        saving = program((*listed, Instruction("save", after=(len(listed) - 1,))))
        skipped = held_twice(job, stage)
        stage.reset()
        for step in range(begun + 1, job.steps + 1):
            rate = optim.learning_rate(step, peak=job.lr, warmup=job.warmup, steps=job.steps)

            def save(step: int = step) -> None:
                self._saver.keep(stage.optimizer.copy(step), Place(step, rank, epoch), skipped)

            batch = self.batches.at(step - 1)
            done = stage.run(saving if job.saves(step) else plain, wire, step, batch, rate, job.clip, save)
            self._tell(done, epoch, rate, stage)

    def _tell(self, done: Done, epoch: int, rate: float, stage: Interpreter) -> None:
        spans = {"spans": done.spans} if done.step == self.job.trace_step else {}
        self.line.say("step", epoch=epoch, step=done.step, loss=done.loss, norm=done.norm, lr=rate, end=done.end,
                      busy=done.busy_s, peak=stage.arena.peak, host=self._saver.held_bytes, **spans)  # fmt: skip

    def _saved(self, place: Place, shard: dict[str, Any]) -> None:
        self.line.say("shard", step=place.step, epoch=place.epoch, shard=shard)

    def _restore(self, stage: Interpreter, rank: int, step: int) -> None:
        copy = self._saver.copy(step)
        if copy is not None:
            stage.optimizer.restore(copy)
        elif step == 0:
            begin(self.job, stage)
        else:
            restore(self.job, stage, step)


class _Ahead:
    """Reads the next step's batch while this one computes."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self._pool = batches, ThreadPoolExecutor(1, "batches")
        self._next: dict[int, Future[npt.NDArray[np.int64]]] = {}

    def at(self, index: int) -> npt.NDArray[np.int64]:
        """The batch of step `index`; starts reading the one after it."""
        coming = self._next.pop(index, None)
        found = self._batches(index) if coming is None else coming.result()
        self._next = {index + 1: self._pool.submit(self._batches, index + 1)}
        return found


def build(job: TrainJob, rank: int) -> Interpreter:
    """The interpreter of a stage on its card, weights not yet set. Raises DoesNotFit when they do not fit the card."""
    plan, card = job.plan, job.card(rank)
    every = seats(plan)
    seat, driver = every[rank], vendor(card)
    stage, ranks = stage_of(job, seat), group(every, seat)
    share, together = share_of(plan, seat.replica, seat.stage, seat.part), Group(ranks) if len(ranks) > 1 else None
    deal = deals(plan)[seat.replica]
    post = RankPost(plan, seat) if deal.stop - deal.start < plan.model.experts else None
    decoder = Decoder(plan.model, stage.start, stage.stop, dtype=TORCH[kept_as(plan.dtype)], device=driver.device(card),
                      share=share, reduce=together, post=post)  # fmt: skip
    optimizer: optim.AdamW | SharedAdamW = (
        SharedAdamW(decoder, cells(plan), rank, weight_decay=job.weight_decay) if shared(plan)
        else optim.AdamW(decoder, weight_decay=job.weight_decay)
    )  # fmt: skip
    arena = Arena(card.name, card.mem_bytes)
    multiply = products(plan.dtype, driver, card, job.name(rank))
    return Interpreter(plan, rank, decoder, optimizer, driver.pace(card), arena, together, post, multiply)


def paced_links(job: TrainJob, rank: int) -> dict[int, Any]:
    """The links of a stage to all others that an emulated card must be made to wait for."""
    mine = job.card(rank)
    others = {peer: job.card(peer) for peer in range(len(seats(job.plan))) if peer != rank}
    found = {peer: job.plan.fleet.link(mine.name, other.name) for peer, other in others.items()}
    return {peer: link for peer, link in found.items() if link is not None and (mine.emulated or others[peer].emulated)}
