"""The helper of one host: claims the orders of its host in a shared folder, runs them, and says how they ended.

    python -m danlu.launch.come FOLDER HOST

It ends with the folder's `all.over`, with the owner's signs of life, or on SIGTERM and SIGINT; what it runs ends with
it, kill -9 included.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from danlu.launch import local
from danlu.launch.orders import BEAT_S, COME_S, GONE_S, POLL_S, appear
from danlu.nouns import Job


def main(argv: list[str]) -> int:
    """Serve until the run is over."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    folder, host = Path(argv[0]), argv[1]
    if _begun(folder) and not serve(folder, host):
        print(f"helper of {host}: no sign of the owner of {folder} for {GONE_S:g} s", file=sys.stderr)
        return 1
    return 0


def serve(folder: Path, host: str, gone_s: float = GONE_S) -> bool:
    """Run the orders of a host; True at the run's end, False when its owner has shown no life for `gone_s`."""
    running: dict[str, local.Process] = {}
    beat, owner = 0.0, _Owner(folder / "all.owned")
    try:
        while not (folder / "all.over").exists():
            if owner.silent_s() > gone_s:
                return False
            if time.monotonic() - beat > BEAT_S or not (folder / f"{host}.here").exists():  # made anew by the owner
                (folder / f"{host}.here").touch()
                beat = time.monotonic()
            for path in folder.glob("*.order"):
                name = path.stem
                if name not in running and not path.with_suffix(".ended").exists():
                    _claim(path, host, running)
            for name, process in list(running.items()):
                _pass_on(folder / name, process)
                if (code := process.poll()) is not None:
                    appear(folder / f"{name}.ended", str(code))
                    del running[name]
            time.sleep(POLL_S)
    finally:
        local.stop(list(running.values()))
        for name, process in running.items():
            if folder.is_dir():
                appear(folder / f"{name}.ended", str(process.wait(0.0)))
    return True


class _Owner:
    """Owns when the file that the owner touches was last seen to change: clocks of hosts are not compared."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: int | None = None
        self._changed: float | None = None

    def silent_s(self) -> float:
        """Seconds since it changed; 0 as long as it never did, for it may be an earlier run's."""
        now = time.monotonic()
        stamp = self._path.stat().st_mtime_ns if self._path.exists() else self._stamp
        if stamp != self._stamp:
            self._changed = now if self._stamp is not None else None
            self._stamp = stamp
        return 0.0 if self._changed is None else now - self._changed


def _begun(folder: Path) -> bool:
    """Wait for the owner to make the folder; one that is over from the start is an earlier run's, which he clears."""
    stale, deadline = (folder / "all.over").exists(), time.monotonic() + COME_S
    while not folder.is_dir() or (stale and (folder / "all.over").exists()):
        if stale and time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _claim(path: Path, host: str, running: dict[str, local.Process]) -> None:
    """Start an order if it is this host's."""
    order = json.loads(path.read_text(encoding="utf-8"))
    if order["host"] != host:
        return
    log = None if order["log"] is None else Path(order["log"])
    job = Job(path.stem, (sys.executable, *order["argv"][1:]), env=order["env"], host=host)
    running[path.stem] = local.spawn(job, log)


def _pass_on(stem: Path, process: local.Process) -> None:
    """Send the signals that were ordered, in their order."""
    for path in sorted(stem.parent.glob(f"{stem.name}.signal*"), key=lambda each: int(each.suffix[7:])):
        process.signal(int(path.read_text()))
        path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
