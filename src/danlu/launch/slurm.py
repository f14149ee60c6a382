"""A training run as a Slurm job: one helper per node by srun, the run itself on the first. Commands as a job array."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from danlu.errors import LaunchFailed
from danlu.launch.orders import helper

POLL_S = 1.0
SILENT_S = 300.0  # longest time that Slurm may be out of reach, as while its controller is started anew
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",
        "PREEMPTED")  # fmt: skip


def script(name: str, hosts: Sequence[str], train: Sequence[str], orders: Path, out: Path) -> str:
    """The text for sbatch.

    hosts   of the fleet, in its order; the i-th node of the allocation stands for the i-th of them
    train   command of the run, which finds the orders folder by its own configuration
    """
    names = " ".join(shlex.quote(host) for host in hosts)
    come = " ".join(shlex.quote(word) for word in helper(orders, "HOST")[:-1])
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={len(hosts)}
#SBATCH --ntasks={len(hosts)}
#SBATCH --ntasks-per-node=1
#SBATCH --output={out / "slurm-%j.log"}
#SBATCH --signal=B:TERM@60
# Written by danlu launch. The i-th node of the allocation is the i-th host of the fleet.
set -u
rm -rf {shlex.quote(str(orders))}
hosts=({names})
export DANLU_HOSTS="${{hosts[*]}}"
srun --kill-on-bad-exit=0 bash -c 'set -- $DANLU_HOSTS; shift "$SLURM_PROCID"; exec {come} "$1"' &
{shlex.join(train)} &
run=$!
trap 'kill -TERM $run' TERM INT
wait $run
code=$?
mkdir -p {shlex.quote(str(orders))} && touch {shlex.quote(str(orders / "all.over"))}
wait
exit $code
"""


def array(name: str, commands: Sequence[Sequence[str]], log: Path) -> str:
    """The text for sbatch of an array: task i runs the i-th command and writes log/slurm-JOB-i.log."""
    cases = "\n".join(f"  {number}) exec {shlex.join(words)} ;;" for number, words in enumerate(commands))
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{len(commands) - 1}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --output={log / "slurm-%A-%a.log"}
# Written by danlu prep.
case "$SLURM_ARRAY_TASK_ID" in
{cases}
esac
"""


def submit(path: Path) -> str:
    """Hand a script to sbatch; returns the job's id. Raises LaunchFailed."""
    return _said(("sbatch", "--parsable", str(path))).partition(";")[0]


def follow(job: str, show: Callable[[str], None], silent_s: float = SILENT_S) -> str:
    """Wait for the job's end; returns its last state, for example "COMPLETED".

    Of an array it is COMPLETED only when every task is. Who stops waiting (Ctrl-C, SIGTERM) cancels the job; a Slurm
    that is out of reach does not. Raises LaunchFailed when it stays so for `silent_s`.
    """
    state, heard = "PENDING", time.monotonic()
    try:
        while state not in OVER:
            show(state.lower())
            time.sleep(POLL_S)
            try:
                state, heard = _state(job), time.monotonic()
            except LaunchFailed as error:
                state = f"is out of reach: {error.why.splitlines()[0]}"
                if time.monotonic() - heard > silent_s:
                    raise error.at(f"job {job}, which may still run") from error
    except (KeyboardInterrupt, SystemExit):
        subprocess.run(("scancel", job), check=False)
        raise
    return state


def _state(job: str) -> str:
    """The state by scontrol: it needs no accounting daemon, and knows a job for some minutes after its end.

    An array has one for each task: that of one that is not over, else of one that failed.
    """
    told = _said(("scontrol", "show", "job", job, "--oneliner"))
    found = [word.partition("=")[2] for word in told.split() if word.startswith("JobState=")]
    found.sort(key=lambda state: (state in OVER, state == "COMPLETED"))
    return found[0] if found else "UNKNOWN"


def _said(argv: Sequence[str]) -> str:
    """What a Slurm command prints. Raises LaunchFailed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LaunchFailed(
            f"there is no {argv[0]} here",
            why=str(error),
            where=sys.platform,
            fix="run it on a login node of the cluster, or use --dry-run to see the script",
        ) from error
    if done.returncode:
        raise LaunchFailed(
            f"{argv[0]} refused",
            why=done.stderr.strip() or f"exit code {done.returncode}",
            where=" ".join(argv),
            fix="read what it says; --dry-run shows the script",
        )
    return done.stdout.strip()
