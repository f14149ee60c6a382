"""One rank of a model that `danlu serve --tp` shares among processes; danlu starts it, people do not.

python -m danlu.cli.serve_rank ADDRESS RANK
"""

from __future__ import annotations

import os
import sys


def main(argv: list[str]) -> int:
    """Call the serving process and follow it; it tells the user of errors."""
    from danlu.comm.mesh import call

    line = call(argv[0])
    from danlu.serve.follow import follow
    from danlu.serve.lead import KEY

    follow(line, os.environ.get(KEY, ""), int(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
