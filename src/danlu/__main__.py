"""`python -m danlu` is the command `danlu`."""

import sys

from danlu.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
