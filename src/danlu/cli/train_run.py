"""One training run by a plan: its job, the processes of its ranks, its progress line and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.cli.train_told import label

if TYPE_CHECKING:
    from danlu.cli.run_text import Run
    from danlu.fault.drill import Drill
    from danlu.nouns import Job, Plan
    from danlu.store.checkpoint import Snapshot
    from danlu.train.crew import Running, Spawn
    from danlu.train.job import TrainJob
    from danlu.train.result import Result, Step


def train_run(
    run: Run, plan: Plan, *, drills: Sequence[Drill] = (), on_step: Callable[[Step], None] | None = None,
    name: str = "train", started: tuple[Spawn, str | None] | None = None,
) -> Result:  # fmt: skip
    """Train by a plan with the tokens of the run; progress goes to stderr. Everything is written under run.out.

    drills   faults to cause on the way
    on_step  told of every step beside the progress line
    name     what the progress line starts with
    started  what `starter` gave, where one serves several runs
    Raises what train.owner.run raises, OtherTokens when a resumed run would see other batches, BadValue.
    """
    import sys

    from danlu import atomic
    from danlu.cli import config, output
    from danlu.cli.train_line import StepLine
    from danlu.plan import text
    from danlu.plan.ranks.seats import seats
    from danlu.train import owner
    from danlu.train.tensorboard import EventFile

    job = job_of(run, plan)
    atomic.write(run.out / "plan.json", text.dumps(plan).encode())
    atomic.write(run.out / "config.yaml", config.dump(run).encode())
    line = output.Progress(name)
    show, board = StepLine(line, job), EventFile(run.out / "tensorboard")

    def step(done: Step) -> None:
        show.step(done)
        board.scalars(
            done.step,
            {
                "loss": done.loss,
                "gradient_norm": done.norm,
                "lr": done.lr,
                "step_s": done.seconds,
                "tokens_per_s": job.tokens_per_step / done.seconds,
            },
        )
        if on_step is not None:
            on_step(done)

    line.show(f"starting {len(seats(plan))} ranks and a spare{label(plan)}", force=True)
    argv = (sys.executable, "-m", "danlu.cli.rank")
    try:
        with starter(run, plan) if started is None else nullcontext(started) as (spawn, interface):
            result = owner.run(job, argv, spawn, on_step=step, drills=drills, interface=interface)
    except (KeyboardInterrupt, SystemExit):
        line.done(kept(job))
        raise
    finally:
        board.close()
    line.done(f"{len(result.steps)} steps, {output.span(result.step_s)} each, {result.tokens_per_s:,.0f} tokens/s")
    return result


def kept(job: TrainJob) -> str:
    """What a run that was stopped can go on from."""
    from danlu.store import checkpoint

    there = checkpoint.steps(job.checkpoints)
    return (
        f"kept the snapshot of step {there[-1]}: --train.resume true goes on" if there else "no snapshot was kept yet"
    )


@contextmanager
def starter(run: Run, plan: Plan) -> Iterator[tuple[Spawn, str | None]]:
    """What starts the ranks, and the address they call when they are on other hosts."""
    from danlu.events import fallback
    from danlu.launch import local
    from danlu.launch.nursery import Nursery
    from danlu.launch.orders import Orders

    if run.launch.by == "orders":
        orders = Orders(run.out.resolve() / "orders")
        try:
            yield orders.spawn, _interface(run, [card.host for card in plan.fleet.cards])
        finally:
            orders.close()
        return
    nursery = Nursery(["danlu.train.rank"])

    def spawn(each: Job, log: Path | None) -> Running:
        try:
            return nursery.spawn(each, log)
        except ChildProcessError:
            fallback("train.nursery", "the process that starts ranks fast is gone; they start one by one")
            return local.spawn(each, log)

    try:
        yield spawn, None
    finally:
        nursery.close()


def _interface(run: Run, hosts: Sequence[str]) -> str:
    """This machine's address that other hosts call: as run.yaml says, else the one that the way to them leaves by."""
    import socket

    if run.launch.interface is not None:
        return run.launch.interface
    for host in hosts:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))  # a datagram socket only looks the way up
                return str(probe.getsockname()[0])
        except OSError:
            continue  # a host's name in the fleet need not be a name of the network
    return socket.gethostbyname(socket.gethostname())


def job_of(run: Run, plan: Plan) -> TrainJob:
    """The training job of a run. Raises OtherTokens, BadValue, RunExists, BadShares,
    and what opening the token file raises."""
    import secrets

    from danlu import families
    from danlu.cli.wiring import tokens_of
    from danlu.data.loader import Loader
    from danlu.errors import BadValue
    from danlu.plan.ranks.cells import cells
    from danlu.plan.ranks.seats import shared
    from danlu.store import checkpoint
    from danlu.train.job import TrainJob
    from danlu.train.snapshot import start_of

    tokens, train = tokens_of(run).resolve(), run.train
    loader = Loader(tokens, seq=plan.seq, batch=plan.sequences, seed=train.seed, packing=run.data.packing)
    vocab = int(loader.manifest["vocab"])
    if vocab > plan.model.vocab:
        raise BadValue("the tokens are of another vocabulary", where=str(tokens),
                       why=f"token ids go up to {vocab - 1}, the model knows {plan.model.vocab}",
                       fix="encode the text with the model's own tokenizer, or train a new one")  # fmt: skip
    if shared(plan):
        cells(plan)  # shares that cut a head are refused before any process starts
    out = run.out.resolve()
    start = start_of(out, train.resume)
    if start:
        snapshot = checkpoint.read(out / "checkpoints", start)
        loader.check(snapshot.meta["loader"])
        _check_model(plan, out / "checkpoints", snapshot)
    if run.model.path is not None and "danlu_quant" in families.read(run.model.path):
        raise BadValue("a quantized model cannot be trained on", where=str(run.model.path),
                       why="its 4-bit weights take no gradient",
                       fix="model.path: the folder it was made from")  # fmt: skip
    return TrainJob(
        plan=plan, out=out, tokens=tokens, steps=train.steps, lr=train.lr, warmup=train.warmup,
        weight_decay=train.weight_decay, clip=train.clip, seed=train.seed, save_every=train.save_every,
        key=secrets.token_hex(16), trace_step=quiet_step(start, train.steps, train.save_every),
        start=start, weights=run.model.path.resolve() if run.model.path else None, loader=loader.state(),
    )  # fmt: skip


def _check_model(plan: Plan, folder: Path, snapshot: Snapshot) -> None:
    """Raises OtherModel unless the snapshot holds just the parameters of the plan's model.

    A rank reads only what it needs, so it would take the first layers of a deeper model without a word.
    """
    from danlu import families
    from danlu.errors import OtherModel

    held = {name: shape for name, shape in snapshot.shapes.items() if not name.endswith((".m", ".v"))}
    wanted = families.shapes(plan.model)
    if other := sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name)):
        raise OtherModel(f"the snapshot of step {snapshot.step} is of another model", where=str(folder),
                         why=f"{other[0]} is {held.get(other[0], 'absent')} there and "
                             f"{wanted.get(other[0], 'absent')} here; {len(other)} parameters differ",
                         fix="give the model it was trained with, or another --out")  # fmt: skip


def quiet_step(start: int, steps: int, save_every: int) -> int:
    """A step like most: some steps after the start, and not beside a snapshot; the second one of a very short run."""
    later = range(start + 4, steps + 1)
    return next((step for step in later if step % save_every > 1), min(start + 2, steps))
