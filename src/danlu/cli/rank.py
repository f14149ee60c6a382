"""One process of a training job; `danlu train` starts it, people do not.

python -m danlu.cli.rank JOB_FILE OWNER_ADDRESS NAME
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Call the owner, load what a rank needs, and follow its orders. Errors go to the owner, who tells the user."""
    from danlu.comm.mesh import call
    from danlu.train.control import Line

    path, address = Path(argv[0]), argv[1]
    line = Line(call(address))
    from danlu.train import job, rank

    try:
        from danlu.data.loader import Loader

        told = job.loads(path.read_text(encoding="utf-8"), str(path))
        packing = told.loader.get("packing", "cut")
        loader = Loader(told.tokens, seq=told.plan.seq, batch=told.batch, seed=told.seed, packing=packing)
        rank.follow(line, told, loader.batch_at, argv[2])
    except Exception as error:
        rank.report(line, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
