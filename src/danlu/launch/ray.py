"""Processes on the nodes of a Ray cluster. Ray starts them and sees them end; no byte of the job goes through it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from danlu.errors import LaunchFailed, MissingPackage
from danlu.launch.child import tied
from danlu.launch.orders import helper

POLL_S = 0.5


def start(hosts: Sequence[str], orders: Path, address: str | None) -> list[Any]:
    """One task per host, each on a node of its own; returns what `stop` wants.

    address  of the cluster; None for the one this machine belongs to
    Raises MissingPackage, LaunchFailed when the cluster has fewer nodes than the fleet has hosts.
    """
    ray = _joined(address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    if len(nodes) < len(hosts):
        raise LaunchFailed(f"{len(hosts)} hosts on {len(nodes)} Ray nodes", where=address or "auto",
                           why=f"every host of the fleet ({', '.join(hosts)}) takes a node of its own",
                           fix="add nodes to the cluster, or plan over fewer hosts")  # fmt: skip

    def come(argv: tuple[str, ...]) -> int:
        own = tied((sys.executable, *argv[1:]))  # the Python of that node; it dies with the Ray worker that runs it
        return subprocess.run(own, check=False, stdin=subprocess.DEVNULL).returncode

    task = ray.remote(num_cpus=0, max_retries=0)(come)
    return [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(helper(orders, host))
        for host, node in zip(hosts, nodes, strict=False)
    ]


def stop(tasks: Sequence[Any]) -> None:
    """Wait for the helpers, which the folder's end sends home, and leave the cluster."""
    import ray

    ray.wait(list(tasks), num_returns=len(tasks), timeout=10.0)
    ray.shutdown()


def each(commands: Sequence[Sequence[str]], address: str | None, show: Callable[[int], None]) -> list[tuple[int, str]]:
    """Run commands wherever the cluster has a core free; returns exit code and last words of each, in their order.

    commands  arguments of that node's Python; each dies with the Ray worker that runs it
    show      called every POLL_S with the number that are over
    A KeyboardInterrupt ends them all. Raises MissingPackage, LaunchFailed when no cluster answers.
    """
    ray = _joined(address)

    def run(argv: tuple[str, ...]) -> tuple[int, str]:
        own = tied((sys.executable, *argv))
        done = subprocess.run(own, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")  # fmt: skip
        return done.returncode, (done.stdout.strip().splitlines() or ["it said nothing"])[-1]

    task = ray.remote(num_cpus=1, max_retries=2)(run)  # what a lost node did is done again on another
    every = [task.remote(tuple(command)) for command in commands]
    left = list(every)
    try:
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=POLL_S)
            show(len(every) - len(left))
        return [_ended(ray, each) for each in every]
    finally:
        for one in left:
            ray.cancel(one, force=True)
        ray.shutdown()


def _ended(ray: Any, task: Any) -> tuple[int, str]:
    try:
        found: tuple[int, str] = ray.get(task)
        return found
    except ray.exceptions.RayError as error:
        return 1, str(error).strip().splitlines()[0]


def _joined(address: str | None) -> Any:
    """The package, joined to a cluster. Raises MissingPackage, LaunchFailed."""
    try:
        import ray
    except ImportError as error:
        raise MissingPackage("launching on Ray needs the package ray", why=str(error),
                             fix="pip install 'danlu[ray]'") from error  # fmt: skip
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="error")
        for number, ours in signals.items():  # Ray's own end at SIGTERM: a trace of C++, exit code 15, nothing unwound
            signal.signal(number, ours)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise LaunchFailed(
            "no Ray cluster answers",
            where=address or "auto",
            why=str(error),
            fix="ray start --head, and ray start --address=HEAD on the other nodes",
        ) from error
    return ray
