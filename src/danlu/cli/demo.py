"""Live a model's whole life on an unequal emulated fleet: probe, clean data, plan, train while a card is killed,
quantize to 4 bits, serve over the OpenAI API, and write a report. Needs no accelerator, no account, no download of a model.

example:
  ./danlu demo
  ./danlu demo --text ~/notes --minutes 10 --json demo.json
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.cli.config import Run
    from danlu.nouns import Fleet, ModelSpec, Plan

SPEEDS = (4.0, 2.0, 2.0)
MEM_GIB = (0.50, 0.25, 0.20)
MINUTES = 2.6  # of the three that the demo may take; what is left over is for slower machines
AFTER_TRAINING_S = 35.0  # quantize, serve, report: measured 20 s on two cores of 2021
EVEN_STEPS = 6


def arguments(parser: argparse.ArgumentParser) -> None:
    """How long, on which text, and where the results go."""
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"how long it may take (default {MINUTES})")
    parser.add_argument("--text", type=Path, metavar="DIR", help="your own text instead of this machine's documents")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything it writes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat JSON object")
