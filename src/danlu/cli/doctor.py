"""Check this machine: one line a check, and for everything that is wrong a line to paste that mends it.

example:
  danlu doctor
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `verdict` is "ok", "warn" (danlu works, slower or smaller) or "bad" (some command cannot work)."""

    name: str
    verdict: str
    found: str
    fix: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as one flat JSON object")


def memory_bytes() -> tuple[int, int]:
    """(total, available) bytes of this host's memory, a cgroup's limit included."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(rows["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total, free = min(total, int(text)), min(free, int(text))
    return total, free


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Check(
        "python", "ok" if good else "bad", version, "" if good else "apt-get install python3.11 python3.11-venv"
    )


def _package(name: str, needed_by: str, extra: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "bad", f"not installed; {needed_by} needs it", f"pip install 'danlu[{extra}]'")


def _compiler() -> Check:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found:
        return Check("compiler", "ok", found)
    return Check("compiler", "warn", "none: kernels fall back to torch", "apt-get install g++")


def _kernels() -> Check:
    from danlu import kernels

    text = kernels.describe()
    slow = "torch" in text.split(",")[0]
    return Check(
        "kernels", "warn" if slow else "ok", text, "apt-get install g++ && python -m danlu.native" if slow else ""
    )


def _cards() -> Check:
    from danlu import plugins

    package = "danlu.fleet.vendors"
    absent = {name: plugins.load(package, name).present() for name in plugins.names(package)}
    text = ", ".join(name for name, why in absent.items() if not why)
    return Check("card vendors", "ok", text + "".join(f"; {name}: {why}" for name, why in absent.items() if why))


def _cores() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check(
        "cores", "ok" if count > 1 else "warn", str(count), "" if count > 1 else "the demo wants two cores or more"
    )


def _memory() -> Check:
    from danlu.cli.output import size

    total, free = memory_bytes()
    good = free >= 2 * 2**30
    return Check(
        "memory",
        "ok" if good else "warn",
        f"{size(free)} free of {size(total)}",
        "" if good else "close other programs: the demo wants 2 GiB",
    )


def _disk() -> Check:
    from danlu.cli.output import size

    free = shutil.disk_usage(".").free
    good = free >= 2 * 2**30
    return Check(
        "disk",
        "ok" if good else "warn",
        f"{size(free)} free here",
        "" if good else "free some disk: the demo wants 2 GiB",
    )


def _shared_memory() -> Check:
    from danlu.cli.output import size

    if not Path("/dev/shm").exists():  # noqa: S108  (the shared-memory mount itself, not a temporary file)
        return Check("shared memory", "warn", "no /dev/shm", "mount -t tmpfs tmpfs /dev/shm")
    free = shutil.disk_usage("/dev/shm").free  # noqa: S108
    good = free >= 64 * 2**20
    return Check(
        "shared memory",
        "ok" if good else "warn",
        f"{size(free)} free",
        "" if good else "mount -o remount,size=1G /dev/shm",
    )


def _files() -> Check:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft >= 1024 or soft == resource.RLIM_INFINITY
    return Check("open files", "ok" if good else "warn", f"limit {soft}", "" if good else "ulimit -n 4096")


def _loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            return Check("loopback", "ok", f"port {server.getsockname()[1]} opened")
    except OSError as error:
        return Check("loopback", "bad", str(error), "ip link set lo up")


def _port() -> Check:
    with socket.socket() as probe:
        busy = probe.connect_ex(("127.0.0.1", 8000)) == 0
    return Check(
        "port 8000",
        "warn" if busy else "ok",
        "in use" if busy else "free",
        "danlu serve MODEL --serve.port 0" if busy else "",
    )


def _writable() -> Check:
    good = os.access(".", os.W_OK)
    return Check(
        "this folder",
        "ok" if good else "bad",
        "writable" if good else "read-only",
        "" if good else "cd to a folder of yours",
    )


def _text() -> Check:
    encoding = sys.getfilesystemencoding()
    good = encoding.lower() == "utf-8"
    return Check("file names", "ok" if good else "warn", encoding, "" if good else "export LC_ALL=C.UTF-8")


CHECKS: tuple[Callable[[], Check], ...] = (
    _python,
    lambda: _package("torch", "train, serve, quantize", "torch"),
    lambda: _package("tokenizers", "prep and serve", "data"),
    lambda: _package("matplotlib", "the report", "report"),
    _compiler, _kernels, _cards, _cores, _memory, _disk, _shared_memory, _files, _loopback, _port, _writable, _text,
)  # fmt: skip


def examine() -> Iterator[Check]:
    """Run every check in turn."""
    for check in CHECKS:
        yield check()


def run(args: argparse.Namespace) -> int:
    """Print every finding; exit code 3 when something is bad."""
    from danlu.cli.output import write_json

    findings = []
    for found in examine():
        findings.append(found)
        print(
            f"{found.verdict:>5}  {found.name:<14} {found.found}"
            + (f"\n         {'':<12} try: {found.fix}" if found.fix else "")
        )
    write_json(
        args.json, {f"doctor.{c.name}": {"verdict": c.verdict, "found": c.found, "fix": c.fix} for c in findings}
    )
    return 3 if any(found.verdict == "bad" for found in findings) else 0
