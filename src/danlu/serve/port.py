"""A listening socket, or an error that names who has the port."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from danlu.errors import BadValue, PortInUse


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on host:port; port 0 takes any free one. Raises PortInUse, BadValue."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise BadValue(
            f"no such host: {host!r}", where="serve.host", why=str(error), fix="--serve.host 127.0.0.1"
        ) from error
    ear = socket.socket(family, kind, proto)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        ear.bind(address)
        ear.listen(1024)
    except OSError as error:
        ear.close()
        if error.errno == errno.EADDRINUSE:
            holder = holder_of(port)
            who = f"process {holder[0]} ({holder[1]}) listens there" if holder else "another process listens there"
            fix = f"use --port 0 for any free one{f', or stop it: kill {holder[0]}' if holder else ''}"
            raise PortInUse(f"port {port} is in use", where=f"{host}:{port}", why=who, fix=fix) from error
        raise BadValue(
            f"cannot listen on {host}:{port}",
            where="serve.host, serve.port",
            why=str(error),
            fix="use a port above 1023 and an address of this machine: --serve.host 127.0.0.1",
        ) from error
    return ear


def holder_of(port: int) -> tuple[int, str] | None:
    """Process id and name of who listens on a TCP port, from /proc; None where that cannot be seen."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for handle in (process / "fd").iterdir():
                if os.readlink(handle) in inodes:
                    return int(process.name), (process / "comm").read_text().strip()
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            local, state, inode = (row.split()[i] for i in (1, 3, 9))
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                found.add(inode)
    return found
