"""`python -m danlu.cli` is the danlu command."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before there is anything to clean up ends it without a word

from danlu.cli.app import main

raise SystemExit(main())
