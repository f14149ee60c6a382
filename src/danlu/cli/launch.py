"""Train over several hosts: start a helper on every host of the fleet, then train by the plan as `danlu train` does.

Hosts are those of the fleet's cards; `danlu probe --join` makes one fleet of several. All of them must see OUT and the
text at the same paths (a shared folder), and have danlu in the same Python; docs/launch.md has it step by step. Under
Slurm the i-th node of the allocation stands for the i-th host. torchrun works too:
  torchrun --nnodes 2 --nproc-per-node 1 -m danlu.launch.torchrun ...
    where ... is OUT/orders HOST1,HOST2 train run.yaml --launch.by orders

example:
  danlu launch run.yaml --on slurm --dry-run
  danlu launch run.yaml --on ssh --train.steps 200
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PLACES = ("local", "ssh", "slurm", "ray", "k8s")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where."""
    parser.add_argument("config", type=Path, nargs="?", help="run.yaml; the defaults without it")
    parser.add_argument("--on", choices=PLACES, default="local", help="who starts the helpers; local needs none")
    parser.add_argument("--dry-run", action="store_true", help="print what would be started, and stop")
    parser.add_argument("--ssh", default="", metavar="OPTIONS", help='for ssh: more options, such as "-p 2222"')
    parser.add_argument("--address", metavar="HOST:PORT", help="for ray: the cluster; default: this machine's")
    parser.add_argument("--image", default="danlu", help="for k8s: container image that has danlu")
    parser.add_argument("--claim", default="danlu", help="for k8s: volume claim that all pods can write to")
    parser.add_argument("--mount", default="/run/danlu", help="for k8s: where that volume appears; OUT must be in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Start the helpers, then the run."""
    from danlu.cli import config, output, wiring

    asked = config.load(args.config, args.overrides)
    line = output.Progress("launch")
    fleet = wiring.fleet_of(asked, line.show)
    hosts = tuple(dict.fromkeys(card.host for card in fleet.cards))
    out = asked.out.resolve()
    orders = out / "orders"
    text = told(args, hosts, orders, out)
    if args.dry_run:
        print(text)
        return 0
    if args.on == "k8s":
        path = out / "launch.k8s.yaml"
        output.write_text(path, text + "\n")
        print(f"rendered, not run by us: {path}\nkubectl apply -f {path}")
        return 0
    if args.on == "slurm":
        return _slurm(out, text, orders, line)
    from danlu.cli import train

    if args.on != "local":
        args.overrides = [*args.overrides, "--launch.by", "orders"]
    args.kill = None
    with _helpers(args, hosts, orders, out):
        return train.run(args)


def told(args: argparse.Namespace, hosts: Sequence[str], orders: Path, out: Path) -> str:
    """What would be started: commands, a Slurm script, or a Kubernetes manifest."""
    from danlu.launch import k8s, slurm, ssh
    from danlu.launch.orders import helper

    words = [*([str(args.config.resolve())] if args.config else []), *args.overrides]
    train = [sys.executable, "-m", "danlu.cli", "train", *words]
    apart = [*train, "--launch.by", "orders"]
    name = f"danlu-{out.name}".lower()
    if args.on == "slurm":
        return slurm.script(name, hosts, apart, orders, out)
    if args.on == "k8s":
        _check_mount(out, Path(args.mount))
        inside = ["python", *apart[1:]]
        return k8s.manifest(name, hosts, inside, orders, image=args.image, claim=args.claim, mount=args.mount)
    if args.on == "ssh":
        lines = [shlex.join(ssh.command(host, orders, shlex.split(args.ssh))) for host in hosts]
        return "\n".join([*lines, shlex.join(apart)])
    if args.on == "ray":
        lines = [f"a Ray task on a node for {host}: {shlex.join(helper(orders, host))}" for host in hosts]
        return "\n".join([*lines, shlex.join(apart)])
    return shlex.join(train)


def _check_mount(out: Path, mount: Path) -> None:
    """Raises BadValue for a run that the pods would write outside the volume they share, and so not meet."""
    from danlu.errors import BadValue

    if not out.is_relative_to(mount):
        raise BadValue(f"{out} is not in the volume of the pods", where="--mount", why=f"it appears there as {mount}",
                       fix=f"--out {mount}/{out.name}, with run.yaml and the text in {mount} too")  # fmt: skip


@contextmanager
def _helpers(args: argparse.Namespace, hosts: Sequence[str], orders: Path, out: Path) -> Iterator[None]:
    """The helpers of a run; whatever happens inside, they end with it."""
    from danlu.launch import ray, ssh
    from danlu.launch.orders import appear

    if args.on == "local":
        yield
        return
    shutil.rmtree(orders, ignore_errors=True)
    if args.on == "ssh":
        lines = ssh.Connections(hosts, orders, shlex.split(args.ssh), out / "logs")
    else:
        tasks = ray.start(hosts, orders, args.address)
    try:
        yield
    finally:
        orders.mkdir(parents=True, exist_ok=True)
        appear(orders / "all.over", "")
        if args.on == "ssh":
            lines.close()
        else:
            ray.stop(tasks)


def _slurm(out: Path, text: str, orders: Path, line: object) -> int:
    """Submit the script and stay with the job until it ends."""
    from danlu.cli import output
    from danlu.errors import LaunchFailed
    from danlu.launch import slurm

    assert isinstance(line, output.Progress)
    path = out / "launch.sbatch"
    output.write_text(path, text)
    shutil.rmtree(orders, ignore_errors=True)
    job = slurm.submit(path)
    log = out / f"slurm-{job}.log"
    line.show(f"Slurm job {job}; its output: {log}", force=True)
    state = slurm.follow(job, lambda state: line.show(f"job {job} {state}"))
    if state != "COMPLETED":
        end = log.read_text(errors="replace").strip().splitlines()[-5:] if log.exists() else ["it wrote no log"]
        raise LaunchFailed(
            f"Slurm job {job} ended as {state}",
            where=str(log),
            why=" | ".join(end),
            fix=f"less {log}; snapshots stay: --train.resume true goes on",
        )
    line.done(f"Slurm job {job} completed; danlu runs show {out}")
    return 0
