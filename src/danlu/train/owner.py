"""The owner of a training job: gives places, keeps the curve, commits snapshots, and gets the job over every death.

The life of an epoch: everyone idle -> `go` with the step of the last committed snapshot -> steps -> the end, or a
death: `halt` to all, a warm spare takes the empty place, a new spare is started, and the next epoch begins.
"""

from __future__ import annotations

import errno
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from danlu import atomic, errors
from danlu.errors import RankLost
from danlu.events import EventLog
from danlu.fault import suspect
from danlu.fault.drill import SIGNALS, Drill
from danlu.plan.ranks.seats import seats
from danlu.store import checkpoint
from danlu.train import job as job_text
from danlu.train.crew import Crew, Member, Spawn, tail
from danlu.train.faults import Faults, as_error
from danlu.train.job import TrainJob
from danlu.train.result import Fault, Result, Step, StepLog, step_seconds
from danlu.train.snapshot import sweep
from danlu.train.strikes import Strikes
from danlu.train.tally import Tally

TURN_S = 0.05
DEATHS = 5  # deaths in a row, beyond one of every rank, without one good step after which the job gives up
SLOW = 1.5  # times the forecast's compute time from which a stage is called slow
AWAY = 3  # deaths in a row of one rank, without one good step, after which its card is taken to be away
HEARSAY_S = 1.0  # a rank that lost a peer is believed after so long even if no process ended


def run(
    job: TrainJob, argv: Sequence[str], spawn: Spawn, *,
    on_step: Callable[[Step], None] | None = None, drills: Sequence[Drill] = (), spares: int = 1,
    interface: str | None = None,
) -> Result:  # fmt: skip
    """Train; returns when the last step is committed. Whatever happens, no process is left.

    argv     command of a rank's process; the job file and the owner's address are appended
    spawn    starts a process; it must be called, and stay, on a thread that lives as long as the run
    on_step  called after every step of the curve (a recomputed one again)
    drills   faults to cause
    spares   warm processes on each host that wait to take a dead one's place
    interface  address by which other hosts reach this one; every rank then runs on the host of its card. None: all here
    Raises what a rank reported (where = its stage and card), RankLost, DiskFull, NotRunnable; CardAway when a card does
    not come back, from whose newest snapshot a plan over the others can go on.
    """
    job_text.check(job.plan)
    sweep(job.checkpoints)
    path = job.out / "job.json"
    atomic.write(path, job_text.dumps(job).encode())
    log = EventLog(job.out / "events.jsonl", room="train")
    steps = StepLog(job.out / "steps.jsonl", job.start)
    crew = Crew(
        (*argv, str(path)), job.out / "logs", spawn, key=job.key, patience_s=job.patience_s, start_s=job.limit_s,
        interface=interface,
    )  # fmt: skip
    homes = [job.card(rank).host if interface else "local" for rank in range(len(seats(job.plan)))]
    owner = _Owner(job, homes, crew, log, steps, job.start, on_step or (lambda step: None), list(drills))
    kindly = False
    try:
        for host in [*homes, *sorted(set(homes)) * spares] if job.start < job.steps else ():
            crew.start(host)
        result = owner.work()
        kindly = True
        return result
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise errors.DiskFull(
            "no room for the run's logs",
            where=str(job.out),
            why=str(error),
            fix=f"df -h {job.out}; free some space, then go on with --train.resume true",
        ) from error
    finally:
        crew.stop(kindly=kindly)
        if not kindly:
            with suppress(OSError):  # the disk may be what ended it
                log.emit("train.stop", step=owner.at)
        steps.close()
        log.close()
        sweep(job.checkpoints)


class _Owner:
    """Owns the state of the job."""

    def __init__(
        self, job: TrainJob, homes: Sequence[str], crew: Crew, log: EventLog, steps: StepLog, start: int,
        on_step: Callable[[Step], None], drills: list[Drill],
    ) -> None:  # fmt: skip
        self._job, self._crew, self._log, self._steps, self._on_step = job, crew, log, steps, on_step
        self._strikes = Strikes(drills)
        self._ranks, self._homes = range(len(seats(job.plan))), homes
        self._start = self._committed = start
        self._epoch, self._running = 1, False
        self._curve: list[Step] = []
        self._faults = Faults()
        self._tally = Tally(self._ranks)
        self._shards: defaultdict[int, dict[int, checkpoint.Shard]] = defaultdict(dict)
        self._ended = 0.0  # end of the newest step, or the start of the epoch
        self._deaths = self._snapshots = 0
        self._fallen: Counter[int] = Counter()  # deaths by rank since the newest good step
        self._hearsay: float | None = None
        self._watch = suspect.Watch()
        self._slow: set[int] = set()

    @property
    def at(self) -> int:
        """The newest step of the curve."""
        return self._curve[-1].step if self._curve else self._start

    def work(self) -> Result:
        """Turn until the last step is committed."""
        answers = {"idle": self._idle, "step": self._step, "shard": self._shard, "lost": self._lost,
                   "late": self._late, "error": self._error}  # fmt: skip
        while not (self.at >= self._job.steps and self._committed >= self._job.steps):
            said, dead = self._crew.listen(self._strikes.wait_s(TURN_S))
            for member, message in said:
                answers[message["say"]](member, message)
            for member in dead:
                self._died(member)
            if self._hearsay is not None and time.monotonic() > self._hearsay:
                self._count("a line between two ranks", "no process ended")
                self._break(None)
            if not self._running:
                self._gather()
            elif (drill := self._strikes.due()) is not None:
                self._strike(drill)
        return self._result()

    def _gather(self) -> None:
        """Give every empty place to someone who waits; begin the epoch when all places are taken and idle."""
        members = self._crew.members
        vacant = sorted(set(self._ranks) - {m.rank for m in members})
        for rank in vacant:
            waiting = [m for m in members if m.rank is None and m.idle and m.host == self._homes[rank]]
            if waiting:
                waiting[0].rank = rank
        placed = {m.rank: m for m in members if m.rank is not None and m.idle}
        if len(placed) < len(self._ranks):
            return
        addresses = {rank: placed[rank].address for rank in self._ranks}
        for rank in self._ranks:
            placed[rank].idle = False
            placed[rank].say("go", rank=rank, epoch=self._epoch, step=self._committed, addresses=addresses)
        self._running, self._ended = True, time.monotonic()
        self._log.emit("train.go", epoch=self._epoch, step=self._committed)
        self._plan_strike()

    def _idle(self, member: Member, message: dict[str, Any]) -> None:
        member.idle = member.idle or message["epoch"] == self._epoch - 1

    def _step(self, member: Member, message: dict[str, Any]) -> None:
        """A stage finished a step; the step is done when all stages have."""
        number = message["step"]
        if message["epoch"] != self._epoch or member.rank is None:
            return
        reports = self._tally.add(member.rank, message)
        if reports is None:
            return
        ended = max(each["end"] for each in reports.values())
        for rank, each in reports.items():
            self._watch = suspect.stepped(self._watch, rank, each["busy"])
        done = Step(
            number, message["loss"], message["norm"], message["lr"], ended - self._ended, ended, self._epoch,
            self._committed, self._tally.peaks,
            sum(each["host"] for each in reports.values()),
        )  # fmt: skip
        self._ended, self._deaths = ended, 0
        self._fallen.clear()
        self._faults.stepped(number, ended)
        self._curve.append(done)
        self._steps.add(done)
        self._on_step(done)
        self._plan_strike()
        self._note_slow()

    def _note_slow(self) -> None:
        """Put a stage that computes longer than its plan says into the events, once."""
        forecast = self._job.plan.forecast
        if forecast is None:
            return
        found = suspect.slow(self._watch, dict(enumerate(forecast.stage_busy_s)), SLOW)
        for rank in set(found) - self._slow:
            self._log.emit("train.slow", stage=rank, card=self._job.card(rank).name, times=found[rank])
        self._slow = set(found)

    def _shard(self, member: Member, message: dict[str, Any]) -> None:
        """A stage's part of a snapshot is on disk; the snapshot is whole when all are."""
        step = message["step"]
        if message["epoch"] != self._epoch or member.rank is None:
            return
        self._shards[step][member.rank] = checkpoint.shard_of(message["shard"])
        if len(self._shards[step]) < len(self._ranks):
            return
        found = self._shards.pop(step)
        job = self._job
        meta = {"seed": job.seed, "batch": job.batch, "seq": job.plan.seq, "loader": dict(job.loader)}
        checkpoint.commit(self._job.checkpoints, step, [found[rank] for rank in self._ranks], meta)
        self._committed = step
        self._snapshots += 1
        for each in self._crew.members:
            each.say("committed", step=step)
        self._log.emit("train.snapshot", step=step)

    def _lost(self, member: Member, message: dict[str, Any]) -> None:
        """A rank's line to a peer broke. Mostly the peer died, and its process says so within moments."""
        if self._running and message["epoch"] == self._epoch and self._hearsay is None:
            self._hearsay = time.monotonic() + HEARSAY_S

    def _late(self, member: Member, message: dict[str, Any]) -> None:
        if message["epoch"] == self._epoch:
            self._error(member, message["error"])

    def _error(self, member: Member, message: dict[str, Any]) -> None:
        """A rank cannot go on: raise what it said, with its name."""
        who = f"a rank that has no place yet, {member.name} on host {member.host}"
        if member.rank is not None:
            who = f"rank {member.rank} on host {member.host}, card {self._job.card(member.rank).name}"
        if message["code"] == errors.NotFinite.code and not self._committed:
            message = {**message, "fix": "there is no snapshot yet: begin again with a lower --train.lr LR"}
        elif message["code"] == errors.NotFinite.code and self._committed == self.at:
            dead = checkpoint.folder_of(self._job.checkpoints, self._committed)
            message = {**message, "fix": f"rm -r {dead}, which leads straight here; then {message['fix']}"}
        raise as_error(message, who)

    def _died(self, member: Member) -> None:
        """A process ended that should not have: someone else takes its place, and a new spare is started."""
        self._count(f"{member.name} on host {member.host}, exit code {member.process.poll()}", tail(member.log))
        try:
            self._crew.start(member.host)
        except errors.HostMissing as error:
            gone = {self._job.card(rank).name for rank in self._ranks if self._homes[rank] == member.host}
            raise self._away(tuple(sorted(gone)), error.why) from error
        if member.rank is not None and self._running:
            self._fallen[member.rank] += 1
            if self._fallen[member.rank] >= AWAY:
                why = f"its rank died {AWAY} times without one good step between: {tail(member.log)}"
                raise self._away((self._job.card(member.rank).name,), why)
            self._break(member.rank)

    def _away(self, cards: tuple[str, ...], why: str) -> errors.CardAway:
        self._log.emit("train.away", cards=list(cards), step=self._committed)
        return errors.CardAway(
            f"{', '.join(cards)} did not come back", where=f"step {self.at + 1}", why=why, cards=cards,
            fix="take it out of the fleet, then go on from the last snapshot: --train.resume true",
        )  # fmt: skip

    def _count(self, where: str, why: str) -> None:
        self._deaths += 1
        if self._deaths > DEATHS + len(self._ranks):
            raise RankLost(f"the job broke {self._deaths} times without one good step between", where=where, why=why,
                           fix=f"look at {self._job.out / 'logs'}")  # fmt: skip

    def _break(self, dead: int | None) -> None:
        """End the epoch: everyone breaks off and waits; the curve goes back to the last snapshot."""
        now = time.monotonic()
        self._hearsay = None
        broken, self._epoch, self._running = self._epoch, self._epoch + 1, False
        during, recomputed = self.at + 1, self.at - self._committed
        for member in self._crew.members:
            if member.rank is not None:
                member.say("halt", epoch=broken)
        stage = -1 if dead is None else dead
        card = "" if dead is None else self._job.card(dead).name
        struck = self._strikes.seen(now)
        self._faults.add(Fault(stage, card, during, self._committed, now - struck, recomputed=recomputed), struck)
        gone = [each for each in self._curve if each.step > self._committed]
        self._log.emit("train.fault", stage=stage, card=card, during=during, restored=self._committed,
                       rewound=[[each.step, each.loss] for each in gone])  # fmt: skip
        self._curve = [each for each in self._curve if each.step <= self._committed]
        self._steps.rewind(self._committed)
        self._tally.clear()
        self._shards.clear()

    def _plan_strike(self) -> None:
        self._strikes.plan(self.at + 1, min((each.seconds for each in self._curve), default=0.0))

    def _strike(self, drill: Drill) -> None:
        member = next(m for m in self._crew.members if m.rank == drill.stage)
        self._log.emit("train.drill", stage=drill.stage, step=drill.step, kind=drill.kind)
        member.process.signal(SIGNALS[drill.kind])

    def _result(self) -> Result:
        job, curve = self._job, tuple(self._curve)
        seconds = step_seconds(curve, job.save_every) if curve else 0.0
        self._log.emit("train.end", step=self.at, step_s=seconds)
        return Result(
            curve, self._faults.found, seconds, job.tokens_per_step / seconds if seconds else 0.0,
            self._tally.busy_s, self._tally.spans, self._tally.peaks, self._snapshots, self._start,
        )  # fmt: skip
