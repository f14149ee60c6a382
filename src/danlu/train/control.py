"""Orders and reports between the owner and its ranks: JSON lines on a socket of their own (docs/formats.md)."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any


class Line:
    """Owns one end of a control socket. `say` is for any thread, `hear` for one."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._lock, self._rest = sock, threading.Lock(), b""

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def say(self, word: str, **fields: Any) -> bool:
        """Send one line; False when the other end is gone."""
        data = (json.dumps({"say": word, **fields}) + "\n").encode()
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            return False
        return True

    def hear(self) -> list[dict[str, Any]] | None:
        """The lines that have come, after waiting for at least some bytes; None when the other end is gone."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(each) for each in whole]

    @property
    def interface(self) -> str | None:
        """The address of this machine that the other end is reached by; None on a Unix socket."""
        return str(self._socket.getsockname()[0]) if self._socket.family == socket.AF_INET else None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
