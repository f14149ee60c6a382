"""`python -m danlu.cli` is the danlu command."""

from danlu.cli.app import main

raise SystemExit(main())
