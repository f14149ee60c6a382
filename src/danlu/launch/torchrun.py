"""A training run under torchrun: `torchrun --nnodes N --nproc-per-node 1 -m danlu.launch.torchrun OUT COMMAND...`

Every node's first process is the helper of its host, the i-th node of the i-th host of the fleet; node 0 also runs the
command. More processes on a node have nothing to do and end at once: a helper starts all ranks of its host.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from danlu.launch import come
from danlu.launch.child import tie, tied
from danlu.launch.orders import appear


def main(argv: list[str]) -> int:
    """OUT/orders, the hosts as one word with commas, and the command of the run."""
    tie(os.getppid())  # torchrun's agent gives what it starts no such tie: its kill -9 left the run going
    folder, hosts, command = Path(argv[0]), argv[1].split(","), argv[2:]
    if int(os.environ["LOCAL_RANK"]):
        return 0
    node = int(os.environ["GROUP_RANK"])
    if node == 0:
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        run = subprocess.Popen(tied([sys.executable, "-m", "danlu.cli", *command]), env=environment)
        helper = subprocess.Popen(tied([sys.executable, "-m", "danlu.launch.come", str(folder), hosts[0]]))
        try:
            return run.wait()
        finally:
            run.terminate()
            appear(folder / "all.over", "")
            helper.wait()
    return come.main([str(folder), hosts[node]]) if node < len(hosts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
