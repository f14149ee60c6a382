"""Helpers on the nodes of a Ray cluster. Ray starts them and sees them end; no byte of the job goes through it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.errors import LaunchFailed, MissingPackage
from danlu.launch.orders import helper


def start(hosts: Sequence[str], orders: Path, address: str | None) -> list[Any]:
    """One task per host, each on a node of its own; returns what `stop` wants.

    address  of the cluster; None for the one this machine belongs to
    Raises MissingPackage, LaunchFailed when the cluster has fewer nodes than the fleet has hosts.
    """
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError as error:
        raise MissingPackage("launching on Ray needs the package ray", why=str(error),
                             fix="pip install 'danlu[ray]'") from error  # fmt: skip
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise LaunchFailed(
            "no Ray cluster answers",
            where=address or "auto",
            why=str(error),
            fix="ray start --head, and ray start --address=HEAD on the other nodes",
        ) from error
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    if len(nodes) < len(hosts):
        raise LaunchFailed(f"{len(hosts)} hosts on {len(nodes)} Ray nodes", where=address or "auto",
                           why=f"every host of the fleet ({', '.join(hosts)}) takes a node of its own",
                           fix="add nodes to the cluster, or plan over fewer hosts")  # fmt: skip

    def come(argv: tuple[str, ...]) -> int:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode

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
