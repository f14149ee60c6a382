"""The one native library: found beside the package in a wheel, built from csrc/ in a checkout.

`python -m danlu.native` builds it and says what it did. Nothing here fails at import, and nothing here is needed:
without a compiler torch (operators), numpy and Python (text) do the same, and say so.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from danlu.events import fallback

ABI = 1  # danlu_abi() of csrc/core/cpu.cpp
CHECKOUT = Path(__file__).parents[2]
PACKAGED = Path(__file__).with_name("danlu_native.so")
# Without -ffp-contract=off a compiler may fuse a*b+c, and the reference would differ from torch in the last bit.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread")


Say = Callable[[int, int], None]


class NotBuilt(Exception):
    """There is no usable library, and why; the callers of this module turn it into the torch path."""


@dataclass(frozen=True, slots=True)
class Built:
    """A library file, and the seconds it took to build (0.0 when it was there already)."""

    path: Path
    seconds: float


def compiler() -> str | None:
    """Path of the C++ compiler, or None."""
    return shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def build(
    root: Path = CHECKOUT, cxx: str | None = None, extra: tuple[str, ...] = (), say: Say | None = None
) -> Built:  # fmt: skip
    """Build root/csrc/*/*.cpp into root/build, unless the library of these very sources and this compiler is there.

    cxx    compiler, None for the one on PATH; extra  more flags, for a sanitizer build
    say    told what is compiled as it goes; a library that is there already says nothing
    Several processes may call it at once: one builds, the others wait. Raises NotBuilt.
    """
    cxx = cxx or compiler()
    if cxx is None:
        raise NotBuilt("no C++ compiler on PATH (apt-get install g++)")
    sources = sorted((root / "csrc").glob("*/*.cpp"))
    if not sources:
        raise NotBuilt(f"no sources in {root / 'csrc'}")
    command = [cxx, *FLAGS, *extra, f"-I{root / 'csrc'}"]
    try:
        out = root / "build" / f"libdanlu-{_fingerprint(root / 'csrc', command)}.so"
        if out.exists():
            return Built(out, 0.0)
        out.parent.mkdir(exist_ok=True)
        with (out.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if out.exists():
                return Built(out, 0.0)
            begin = time.monotonic()
            _compile(command, sources, out, say or (lambda done, of: None))
            return Built(out, time.monotonic() - begin)
    except OSError as error:
        raise NotBuilt(str(error)) from error


def _compile(command: list[str], sources: list[Path], out: Path, say: Say) -> None:
    """Compile on all cores into a folder of our own, then give the library its name: a killed build leaves none."""
    room = out.parent / "objects"
    shutil.rmtree(room, ignore_errors=True)  # of a build that was killed; the lock is ours
    room.mkdir()
    try:
        objects = [room / f"{number}.o" for number in range(len(sources))]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            each = [
                pool.submit(_run, [*command, "-c", str(source), "-o", str(made)])
                for source, made in zip(sources, objects, strict=True)
            ]
            for done, waiting in enumerate(each):
                say(done, len(each))
                waiting.result()
        say(len(each), len(each))
        fresh = room / out.name
        _run([*command, "-shared", *map(str, objects), "-o", str(fresh)])
        with fresh.open("rb") as written:
            os.fsync(written.fileno())
        fresh.rename(out)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _run(command: list[str]) -> None:
    """One call of the compiler. Raises NotBuilt with its first error."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200].strip())
        raise NotBuilt(f"{command[0]} ended with {done.returncode}: {first}")


def _fingerprint(csrc: Path, command: list[str]) -> str:
    """Hash of everything the library depends on: sources, headers, command and the compiler itself."""
    found = os.stat(os.path.realpath(command[0]))
    digest = hashlib.sha256(f"{command} {found.st_size} {found.st_mtime_ns}".encode())
    for path in sorted([*csrc.glob("*/*.cpp"), *csrc.glob("*/*.h")]):
        digest.update(f"{path.relative_to(csrc)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def open_library(path: Path) -> ctypes.CDLL:
    """Load one library file and check that it speaks our ABI. Raises NotBuilt."""
    try:
        found = ctypes.CDLL(str(path))
        abi = int(found.danlu_abi())
    except (OSError, AttributeError) as error:
        raise NotBuilt(f"{path.name} does not load: {error}; delete it, then run: python -m danlu.native") from error
    if abi != ABI:
        raise NotBuilt(f"{path.name} speaks ABI {abi}, this danlu needs {ABI}")
    return found


def locate() -> Path:
    """Path of the library; built first in a checkout. Raises NotBuilt."""
    if (CHECKOUT / "csrc").is_dir():
        return build(say=compiling).path
    if PACKAGED.exists():
        return PACKAGED
    raise NotBuilt("this danlu was installed without a C++ compiler")


def compiling(done: int, of: int) -> None:
    """A line of progress on stderr: nobody should wait a quarter of a minute without knowing what for."""
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\rcompiling the native library, once for these sources: {done} of {of}", end=end, file=sys.stderr)
    elif done == 0:
        print(f"compiling the native library of {of} files, once for these sources", file=sys.stderr)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None; why there is none is said once and counted in events.fallbacks."""
    try:
        return open_library(locate())
    except NotBuilt as error:
        fallback("native", f"no native code, torch or Python runs instead (several times slower): {error}")
        return None


def runs(isa: str) -> bool:
    """True when the library is there and this CPU runs that instruction set ("amx", "avx2", "ref", ...)."""
    found = library()
    return found is not None and bool(found.danlu_cpu_runs(isa.encode()))


def main() -> int:
    """Build, load and say so; a machine that cannot is no error."""
    try:
        built = build(say=compiling if sys.stderr.isatty() else None)
        open_library(built.path)
    except NotBuilt as error:
        print(f"no native code, torch or Python runs instead (several times slower): {error}", file=sys.stderr)
        return 0
    took = f"built in {built.seconds:.1f} s" if built.seconds else "already built"
    print(f"native kernels: {built.path.name}, {took}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
