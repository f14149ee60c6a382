"""One process of a training job; `danlu train` starts it, people do not.

python -m danlu.cli.rank JOB_FILE OWNER_ADDRESS NAME
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.train.job import TrainJob
    from danlu.train.rank import Batches


def main(argv: list[str]) -> int:
    """Call the owner, load what a rank needs, and follow its orders. Errors go to the owner, who tells the user."""
    from danlu.comm.mesh import call
    from danlu.train.control import Line

    path, address = Path(argv[0]), argv[1]
    line = Line(call(address))
    from danlu.train import job, rank

    try:
        told = job.loads(path.read_text(encoding="utf-8"), str(path))
        rank.follow(line, told, lambda: _batches(told), argv[2])
    except Exception as error:
        rank.report(line, error)
        return 1
    return 0


def _batches(told: TrainJob) -> Batches:
    """The job's batches. Raises OtherTokens unless they are those the owner found, and what opening them raises."""
    from danlu.data.loader import Loader

    packing = told.loader.get("packing", "cut")
    loader = Loader(told.tokens, seq=told.plan.seq, batch=told.batch, seed=told.seed, packing=packing)
    loader.check(dict(told.loader))
    return loader.batch_at


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
