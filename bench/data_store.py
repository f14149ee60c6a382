"""Small files kept, found, read in order, killed and resumed: store and loader beside ext4 and WebDataset."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from danlu.cli.output import size, span, table
from danlu.data.loader import Loader
from danlu.data.prep import prep
from danlu.data.read import Refused, default_text, listing, read
from danlu.store.hashing import hash_many, hash_spans
from danlu.store.lookup import Lookup
from danlu.store.merge import merge
from danlu.store.packs import Store, Writer

PEER_PACKAGES = ("webdataset",)
PEERS = Path(__file__).parents[1] / ".peers"
FILES, QUICK_FILES, SIZE = 1_000_000, 50_000, 2_000  # small files, and their mean size in bytes
FOLDERS = 1_000
COLD, WARM, TARRED, FROM_TAR = 300, 10_000, 10_000, 3  # cold reads a round, warm ones, samples of a tar, reads from it
SCANNED = 100_000
KEYS, QUICK_KEYS = 100_000_000, 10_000_000  # synthetic
RANGES = 256  # merged packs they are in, as a store of 200 GB has them
BATCH = 1 << 20
KILLS, QUICK_KILLS = 200, 40
PATIENCE = 12  # kills of one piece of work, which is then let go on to its end

Row = list[Any]


def measure(rounds: int, quick: bool = False) -> dict[str, Any]:
    """Keys: those of the functions below; a peer not installed has no key. quick: fewer files, keys, kills."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # on a disk: the folder for temporary files may be memory
        for part in (storing, looking_up, killing, resuming):
            home = Path(name) / part.__name__
            home.mkdir()
            values, rows = part(home, rounds, quick)
            shutil.rmtree(home)
            print(table([part.__name__.replace("_", " "), "median", "least", "most"], rows) + "\n", flush=True)
            found |= values
    return found


class Small:
    """Small files: a name, and a slice of this machine's documents, lognormal around SIZE bytes. Nothing is stored."""

    def __init__(self, count: int) -> None:
        pool = bytearray()
        for source in listing(default_text())[0]:
            pool += b"".join(each.text.encode() for each in read(source, 1 << 20) if not isinstance(each, Refused))
            if len(pool) > 1 << 24:
                break
        rng = np.random.default_rng(0)
        self.pool = bytes(pool)
        self.sizes = np.clip(rng.lognormal(np.log(SIZE) - 0.32, 0.8, count).astype(np.int64), 64, 16_384)
        self.places = rng.integers(0, len(self.pool) - 16_384, count)
        self.names = [f"d{i % FOLDERS:03d}/{i:08d}.txt" for i in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def value(self, number: int) -> bytes:
        place = self.places[number]
        return self.pool[place : place + self.sizes[number]]


def storing(home: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    """ingest_vs_ext4 (with the merge), read_vs_ext4 and read_vs_webdataset (cold), read_warm_vs_ext4, reads_per_record,
    index_bytes_per_file, scan_vs_webdataset, ingest_files."""
    small = Small(QUICK_FILES if quick else FILES)
    seconds: dict[str, list[float]] = defaultdict(list)
    io: dict[str, list[float]] = defaultdict(list)
    seconds["write files"].append(_timed(lambda: _write_files(home / "files", small)) / len(small))
    seconds["write packs"].append(_timed(lambda: _write_packs(home / "store", small)) / len(small))
    seconds["merge packs"].append(_timed(lambda: merge(home / "store")) / len(small))
    _write_tars(home, small)
    rng, wds = random.Random(1), _peer("webdataset")
    store = Store(home / "store")
    index, packs = store.index_bytes / len(small), store.packs
    for _ in range(rounds):
        chosen = rng.sample(range(len(small)), COLD)
        for what, get, count in (("pack", lambda n: store.get(small.names[n].encode()), COLD),
                                 ("files", lambda n: _read_file(home / "files", small.names[n]), COLD),
                                 ("webdataset", lambda n: _from_tar(wds, home, small, n), FROM_TAR)):  # fmt: skip
            if (what != "webdataset" or wds) and _forget():
                get(rng.randrange(len(small)))  # opens what is opened once
                before = _device_reads(home)
                seconds[f"cold {what}"].append(_timed(lambda: [get(n) for n in chosen[:count]]) / count)  # noqa: B023
                io[f"cold {what}"].append((_device_reads(home) - before) / count)
        chosen = rng.choices(range(len(small)), k=WARM)
        for what, get, _ in (("pack", lambda n: store.get(small.names[n].encode()), 0),
                             ("files", lambda n: _read_file(home / "files", small.names[n]), 0)):  # fmt: skip
            assert all(get(n) == small.value(n) for n in chosen)
            seconds[f"warm {what}"].append(_timed(lambda: [get(n) for n in chosen]) / WARM)  # noqa: B023
        keys = [small.names[n].encode() for n in chosen]
        seconds["warm pack, 10,000 at once"].append(_timed(lambda: store.get_many(keys)) / WARM)  # noqa: B023
        for what, scan in (("pack", store.scan), ("webdataset", lambda: _all_tars(wds, home, small))):
            if what == "pack" or wds:
                count = min(SCANNED, len(small)) if what == "pack" else min(2 * TARRED, len(small))
                sum(1 for _ in islice(scan(), count))  # warm
                seconds[f"scan {what}"].append(_timed(lambda: sum(1 for _ in islice(scan(), count))) / count)  # noqa: B023
    store.close()
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    rows: list[Row] = [[f"{name}, a record", *map(span, _spread(each))] for name, each in seconds.items()]
    rows += [[f"{name}, device reads", *(f"{x:.2f}" for x in _spread(each))] for name, each in io.items()]
    rows += [[f"index of {packs} packs, bytes a file", f"{index:.4f}", "", ""]]
    values: dict[str, Any] = {
        "ingest_vs_ext4": middle["write files"] / (middle["write packs"] + middle["merge packs"]),
        "ingest_unmerged_vs_ext4": middle["write files"] / middle["write packs"], "ingest_files": len(small),
        "read_warm_vs_ext4": middle["warm files"] / middle["warm pack"], "index_bytes_per_file": index,
        "scan_samples_s": 1 / middle["scan pack"],
    }  # fmt: skip
    if wds:
        values["scan_vs_webdataset"] = middle["scan webdataset"] / middle["scan pack"]
    else:
        rows.append(["webdataset: not in .peers (--peers installs it)", "", "", ""])
    if "cold pack" in middle:
        values |= {"read_vs_ext4": middle["cold files"] / middle["cold pack"],
                   "reads_per_record": statistics.median(io["cold pack"])}  # fmt: skip
        if wds:
            values["read_vs_webdataset"] = middle["cold webdataset"] / middle["cold pack"]
    else:
        rows.append(["cold reads: only root can empty the page cache", "", "", ""])
    return values, rows


def _peer(name: str) -> Any:
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    with suppress(ImportError):
        return importlib.import_module(name)
    return None


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def _write_files(folder: Path, small: Small) -> None:
    for i in range(FOLDERS):
        (folder / f"d{i:03d}").mkdir(parents=True)
    for number, name in enumerate(small.names):
        with open(f"{folder}/{name}", "wb") as file:
            file.write(small.value(number))
    os.sync()


def _read_file(folder: Path, name: str) -> bytes:
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


def _write_packs(folder: Path, small: Small) -> None:
    with Writer(folder) as writer:
        for number, name in enumerate(small.names):
            if writer.add(name.encode(), small.value(number)):
                writer.commit({"next": number + 1})
        writer.commit({}, done=True)


def _write_tars(home: Path, small: Small) -> None:
    """Tars of TARRED samples as WebDataset has them, of the first files, enough for a scan."""
    import tarfile

    for first in range(0, min(len(small), 5 * TARRED), TARRED):
        with tarfile.open(home / f"{first // TARRED:04d}.tar", "w") as tar:
            for number in range(first, min(first + TARRED, len(small))):
                member = tarfile.TarInfo(f"{number:08d}.txt")
                member.size = int(small.sizes[number])
                tar.addfile(member, BytesIO(small.value(number)))


def _tars(home: Path) -> list[str]:
    return [str(path) for path in sorted(home.glob("*.tar"))]


def _all_tars(wds: Any, home: Path, small: Small) -> Iterator[Any]:
    return iter(wds.WebDataset(_tars(home), shardshuffle=False))


def _from_tar(wds: Any, home: Path, small: Small, number: int) -> Any:
    """One sample by its name. WebDataset has no look-up: the tar that holds it is read until it comes."""
    every = _tars(home)
    number %= len(every) * TARRED
    samples = wds.WebDataset([every[number // TARRED]], shardshuffle=False)
    return next(each for each in samples if each["__key__"] == f"{number:08d}")


def _forget() -> bool:
    """Empty the page cache; False where this user may not."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def _device_reads(folder: Path) -> int:
    """Reads the device under a folder has done; others' reads count too. 0 where the device does not say."""
    device = os.stat(folder).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return int(stat.read_text().split()[0]) if stat.exists() else 0


class Sketch:
    """A pack of which only the index is there: what a look-up reads before it reads the disk."""

    merged, records = True, 0

    def __init__(self, prefix: int, bits: int, buckets: int, rng: np.random.Generator) -> None:
        self.prefix, self.bits, self.buckets, self.wide = prefix, bits, buckets, False
        sizes = rng.integers(2_000, 15_000, buckets, np.uint32)
        self.offsets = np.concatenate([[8], np.cumsum(sizes, dtype=np.uint32) + 8]).astype(np.uint32)
        self.reader = type("NoFile", (), {"fd": 0})()


def looking_up(_: Path, rounds: int, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    """lookups_s_1e8: keys a second in one buffer, hashed and looked up in an index of KEYS synthetic keys, one core;
    lookups_s_1e8_bytes: the same with a Python object for each; lookups_memory_mb: what the index takes."""
    count, bits = QUICK_KEYS if quick else KEYS, RANGES.bit_length() - 1
    rng, before = np.random.default_rng(1), _resident()
    packs = [Sketch(prefix, bits, count // RANGES // 4, rng) for prefix in range(RANGES)]
    lookup = Lookup(packs)  # type: ignore[arg-type]
    held = _resident() - before
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        numbers = rng.integers(0, count, BATCH)
        keys = [b"crawl/2026/%09d" % number for number in numbers.tolist()]
        began = time.perf_counter()
        hashes = hash_many(keys)
        middle = time.perf_counter()
        found, starts, stops = lookup.find(hashes)
        ended = time.perf_counter()
        rates["keys as Python bytes"].append(BATCH / (ended - began))
        rates["of which hashing"].append(BATCH / (middle - began))
        data, ends = b"".join(keys), np.cumsum(np.fromiter(map(len, keys), np.int64, BATCH))
        began = time.perf_counter()
        hashes = hash_spans(data, ends)
        middle = time.perf_counter()
        found, starts, stops = lookup.find(hashes)
        ended = time.perf_counter()
        rates["keys in one buffer, as Arrow has them"].append(BATCH / (ended - began))
        rates["of which the hash"].append(BATCH / (middle - began))
        rates["of which the index"].append(BATCH / (ended - middle))
        some = rng.integers(0, BATCH, 1000)
        for n in some.tolist():  # the same by numbers of any length
            key_hash = int(hashes[n])
            pack = packs[key_hash >> 64 - bits]
            bucket = (key_hash << bits) % 2**64 * pack.buckets >> 64
            assert (starts[n], stops[n]) == (pack.offsets[bucket], pack.offsets[bucket + 1]) and found[n] == pack.prefix
    index = sum(each.offsets.nbytes for each in packs)
    rows: list[Row] = [[f"{name}, M/s", *(f"{x / 1e6:.2f}" for x in _spread(each))] for name, each in rates.items()]
    rows += [[f"index of {count:,} keys", size(index), "", ""], ["memory taken", size(held), "", ""]]
    return {"lookups_s_1e8": statistics.median(rates["keys in one buffer, as Arrow has them"]),
            "lookups_s_1e8_bytes": statistics.median(rates["keys as Python bytes"]), "lookups_keys": count,
            "lookups_index_mb": index / 1e6, "lookups_memory_mb": held / 1e6}, rows  # fmt: skip


def _resident() -> int:
    """Bytes of this process in memory, after giving back what it does not use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


WORK = {
    "write and merge": """
from danlu.store.packs import Writer
from danlu.store.merge import merge
with Writer(out, pack_bytes=40_000) as writer:
    for i in range(writer.cursor.get("next", 0), 4000):
        if writer.add(b"%d" % i, b"%d " % i * 40):
            writer.commit({"next": i + 1})
    writer.commit({"next": 4000}, done=True)
merge(out, range_bytes=100_000)
""",
    "add": """
from danlu.data.gather import gather
from danlu.store.merge import merge
gather([text], str(out), tell=lambda words, share: None, pack_bytes=60_000)
merge(out, range_bytes=200_000)
""",
    "prep": """
from danlu.data import ingest, clean
from danlu.data.prep import prep
ingest.PACK_BYTES = clean.PACK_BYTES = 60_000
prep([text], out, vocab=400, limit_bytes=10**8)
""",
    "load": """
import json
from hashlib import blake2b
from danlu.data.loader import Loader
from danlu import atomic
load, done = Loader(tokens, seq=64, batch=8, seed=1), out / "done.jsonl"
out.mkdir(exist_ok=True)
lines = done.read_bytes().splitlines(keepends=True) if done.exists() else []
lines = [line for line in lines if line.endswith(b"\\n")]
atomic.write(done, b"".join(lines))
with done.open("ab", buffering=0) as log:
    for step in range(len(lines), 2000):
        log.write(json.dumps([step, blake2b(load.batch_at(step), digest_size=8).hexdigest()]).encode() + b"\\n")
""",
}
HEAD = """
import sys
from pathlib import Path
text, tokens, out = map(Path, sys.argv[1:])
print("begin", flush=True)
"""


def killing(home: Path, _: int, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    """kills, kill_lost, kill_doubled, kill_equal: writing, adding, merging, preparing and loading, killed by SIGKILL at
    random moments and begun again, against the same work undisturbed."""
    text, wanted = home / "text", QUICK_KILLS if quick else KILLS
    text.mkdir()
    small = Small(600)
    for number in range(600):
        (text / f"{number}.txt").write_bytes(small.value(number).decode(errors="ignore").encode())
    tokens = prep([text], home / "tokens", vocab=400, limit_bytes=10**8).tokens
    kills = lost = doubled = 0
    equal, rng, rows, seconds = True, random.Random(), list[Row](), dict[str, float]()
    for name, work in WORK.items():
        seconds[name] = _timed(lambda: _child(work, text, tokens, home / "whole" / name).wait())  # noqa: B023
    for number, (name, work) in enumerate(WORK.items()):
        mine, tries = 0, 0
        while kills + mine < wanted * (number + 1) // len(WORK):
            out, done, tries, last = home / "killed" / f"{name} {tries}", False, tries + 1, mine + PATIENCE
            while not done:
                child = _child(work, text, tokens, out)
                try:
                    done = child.wait(rng.uniform(0, seconds[name]) if mine < last else None) == 0
                    assert done, f"{name} failed by itself"
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                    child.wait()
                    mine += 1
            missing, again, same = _compared(home / "whole" / name, out)
            lost, doubled, equal = lost + missing, doubled + again, equal and same
            shutil.rmtree(out)
        kills += mine
        rows.append([f"{name}: kills, of {tries} tries", mine, "", ""])
    rows += [["records lost", lost, "", ""], ["doubled", doubled, "", ""],
             ["bytes as if undisturbed", "yes" if equal else "no", "", ""]]  # fmt: skip
    return {"kills": kills, "kill_lost": lost, "kill_doubled": doubled, "kill_equal": equal}, rows


def _child(work: str, text: Path, tokens: Path, out: Path) -> subprocess.Popen[bytes]:
    out.parent.mkdir(exist_ok=True)
    argv = [sys.executable, "-c", HEAD + work, str(text), str(tokens), str(out)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    return child


def _compared(whole: Path, killed: Path) -> tuple[int, int, bool]:
    """Records (batches, documents) missing from `killed` or other than in `whole`, those there twice, equal bytes."""
    missing = again = 0
    for folder in sorted({path.parent for path in whole.rglob("manifest.json")}):
        if next(folder.glob("*.pack"), None):
            truth, store = Store(folder), Store(killed / folder.relative_to(whole))
            right, found = {r.key: r.value for r in truth.scan()}, {r.key: r.value for r in store.scan()}
            missing += sum(found.get(key) != value for key, value in right.items())
            again += store.records - len(found)
    if (whole / "done.jsonl").exists():
        right_steps, steps = (
            [tuple(json.loads(line)) for line in (folder / "done.jsonl").open()] for folder in (whole, killed)
        )
        missing += len(set(right_steps) - set(steps))
        again += len(steps) - len(set(steps))
    return missing, again, _digests(whole) == _digests(killed)


def _digests(folder: Path) -> dict[str, str]:
    """Of what must be equal: tokens and merged packs; a raw store's packs end where the kill was."""
    merged = list(folder.rglob("*.m???.pack"))
    named = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".bin", ".jsonl") or path.name == "tokenizer.json"
    }
    named["merged"] = b"".join(p.read_bytes() for p in sorted(merged, key=lambda path: path.name.split(".m")[1]))
    return {name: blake2b(data).hexdigest() for name, data in named.items()}


def resuming(home: Path, _: int, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    """resume_same_order (with 1, 2 and 4 workers), resume_state_bytes, resume_s."""
    (home / "text").mkdir()
    small = Small(300)
    for number in range(300):
        (home / "text" / f"{number}.txt").write_bytes(small.value(number).decode(errors="ignore").encode())
    tokens = prep([home / "text"], home / "prepared", vocab=1000, limit_bytes=10**8).tokens

    def load() -> Loader:
        return Loader(tokens, seq=128, batch=8, seed=3)

    whole = load()
    truth = [whole.batch_at(step) for step in range(40)]
    state = json.dumps({"step": 20, **whole.state()})
    began = time.perf_counter()
    resumed = load()
    resumed.check({name: value for name, value in json.loads(state).items() if name != "step"})
    resumed.batch_at(20)
    seconds = time.perf_counter() - began
    same = all(np.array_equal(truth[step], _gathered(load, step, n)) for step in range(20, 40) for n in (1, 2, 4))
    values = {"resume_same_order": same, "resume_state_bytes": len(state), "resume_s": seconds}
    rows: list[Row] = [["the same order with 1, 2, 4 workers", "yes" if same else "no", "", ""],
                       ["state, bytes", len(state), "", ""], ["time", span(seconds), "", ""]]  # fmt: skip
    return values, rows


def _gathered(load: Callable[[], Loader], step: int, workers: int) -> np.ndarray[Any, Any]:
    """The batch of a step as so many workers load it, each its own rows."""
    parts = [load().batch_at(step)[rank * 8 // workers : (rank + 1) * 8 // workers] for rank in range(workers)]
    return np.concatenate(parts)
