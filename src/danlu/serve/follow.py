"""A rank that follows: it computes the steps that the serving process sends, each with its own share of the weights."""

from __future__ import annotations

import contextlib
import json
import socket

import torch

from danlu.comm.mesh import Aborted, PeerLost
from danlu.errors import DanluError, RankLost
from danlu.serve.shared import Part, bind, open_rank
from danlu.serve.steps import hear, loads, say


def follow(line: socket.socket, key: str, rank: int) -> None:
    """Say who this is, load what is asked for, and compute step after step until the line ends.

    An error of loading goes down the line, where somebody can be told.
    """
    say(line, json.dumps({"key": key, "rank": rank}).encode())
    message = hear(line)
    if message is None:
        return
    part, segment = Part.loads(message)
    bind(part.cores)
    group = part.group(segment, lambda rank, waited_s: None)  # the one who serves says who is late, and ends its line
    segment.settle()
    try:
        runner, size = open_rank(part, group)
    except Exception as error:  # whatever it was, the one who serves says it
        with contextlib.suppress(OSError):  # it may have met the same error, and left
            say(line, json.dumps({"error": _told(error, rank)}).encode())
        return
    say(line, json.dumps({"weight_bytes": size}).encode())
    try:
        with torch.inference_mode():
            while (message := hear(line)) is not None:
                runner.run(loads(message))
    except (PeerLost, Aborted):
        pass  # the serving process is gone, or says itself which other rank is
    finally:
        group.close()


def _told(error: Exception, rank: int) -> dict[str, str]:
    if isinstance(error, DanluError):
        return error.as_dict()
    return RankLost(f"rank {rank} could not load its share", why=f"{type(error).__name__}: {error}",
                    fix="serve the model without --tp, or see the log above").as_dict()  # fmt: skip
