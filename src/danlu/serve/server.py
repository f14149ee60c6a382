"""An engine behind HTTP: uvicorn on a thread of its own, so that signals stay with whoever started it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection

import uvicorn
from fastapi import FastAPI

from danlu.errors import AnswerFailed
from danlu.serve.engine import Engine


class Server:
    """Owns the HTTP thread and the engine's. It answers at `url`; `stop` leaves neither thread nor port behind."""

    def __init__(self, app: FastAPI, engine: Engine, ear: socket.socket) -> None:
        """ear  a listening socket; it is closed by `stop`."""
        self.engine = engine
        host, port = ear.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
        self._config, self._http, self._ear = config, uvicorn.Server(config), ear
        self._thread = threading.Thread(target=self._http.run, kwargs={"sockets": [ear]}, name="http", daemon=True)

    def start(self, limit_s: float = 10.0) -> None:
        """Start both threads; returns when requests are answered. Raises AnswerFailed if that takes too long."""
        self.engine.start()
        self._thread.start()
        deadline = time.monotonic() + limit_s
        while not self._http.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise AnswerFailed(
                    "the HTTP server did not start",
                    why=f"it was not ready within {limit_s:.0f} s",
                    fix="try again with --port 0; see the log above",
                )
            time.sleep(0.005)

    def spread(self, cores: Collection[int]) -> None:
        """Let the HTTP thread run on these cores; started beside a bound engine, it is bound as that one is."""
        assert self._thread.native_id is not None
        os.sched_setaffinity(self._thread.native_id, cores)

    def stop(self, grace_s: float = 3.0) -> None:
        """Take no new requests, let running answers end for up to `grace_s` seconds, then close everything."""
        self.engine.stop(grace_s)
        self._config.timeout_graceful_shutdown = max(1, round(grace_s) + 1)  # the last events still have to be sent
        self._http.should_exit = True
        self._thread.join(grace_s + 5)
        self.engine.join(grace_s + 5)
        self._ear.close()
