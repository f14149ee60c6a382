"""Signing, encoding, storing, de-duplicating, being killed: on this machine's own documents, beside the peers."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
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
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from danlu.cli.output import span, table
from danlu.data import bpe, minhash, sign
from danlu.data.document import Document
from danlu.data.encoder import Encoder
from danlu.data.loader import Loader
from danlu.data.prep import prep
from danlu.data.read import Refused, default_text, listing, read
from danlu.data.steps import near, normalise
from danlu.store.packs import Store, Writer

PEERS = Path(__file__).parents[1] / ".peers"
CORPUS = 16_000_000  # bytes: enough for stable rates, few enough for the slow peers' sample
SLOW = 30  # a peer that is hundreds of times slower signs every so-manyth document
SHORT = 20_000  # bytes of a file whose documents are compared: copies are among the short ones, and pairs are many
FILES, SIZE = 20_000, 2_000  # small files, and their mean size in bytes
COLD, WARM = 200, 10_000  # random reads; few cold ones, so that hardly two fall into what one brings into the cache
KILLS = 25
WORD = re.compile("[\u3040-\u9fff]|[0-9a-z\u0080-\u1fff\u2040-\u2fff\ua000-\ufeff\uff21-\U0010ffff]+")

Row = list[Any]


def measure(rounds: int) -> dict[str, Any]:
    """Keys: those of the functions below; a peer that is not installed has no key."""
    documents = corpus()
    size = sum(len(document.text.encode()) for document in documents)
    print(f"corpus: {len(documents):,} documents of this machine, {size / 1e6:.1f} MB\n")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # on a disk: the folder for temporary files may be memory
        home = Path(name)
        for part in (signing, encoding, storing, near_duplicates, killing, resuming):
            values, rows = part(documents, home, rounds)
            print(table([part.__name__.replace("_", " "), "median", "least", "most"], rows) + "\n", flush=True)
            found |= values
    return found


def corpus(longest: int = 1 << 20) -> list[Document]:
    """This machine's documents in the order of their names' hash, up to CORPUS bytes, from files of `longest` bytes."""
    documents: list[Document] = []
    size = 0
    for source in listing(default_text())[0]:
        if source.size <= longest and size < CORPUS:
            found = [each for each in read(source, 1 << 20) if not isinstance(each, Refused)]
            documents += normalise.step(found, lambda document, why: None)
            size += sum(len(each.text) for each in found)
    return documents


def signing(documents: list[Document], _: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """sign_mb_s, sign_vs_numpy, sign_vs_rensa, sign_vs_datatrove: 112 minima of word 5-grams, per CPU-second."""
    whole = [document.text for document in documents]
    cases: dict[str, tuple[Callable[[list[str]], Any], list[str]]] = {
        f"native ({sign.best()})": (_signer(sign.sign), whole),
        "numpy": (_signer(sign.with_numpy), whole),
        "rensa, words in Python": (_rensa(), whole[::10]),
        "datatrove": (_datatrove(), whole[::SLOW]),
    }  # fmt: skip
    rates, rows = _rates({name: case for name, case in cases.items() if case[0]}, rounds)
    rows += [[f"{name}: not in .peers", "", "", ""] for name, case in cases.items() if not case[0]]
    ours, *others = rates
    keys = {"numpy": "sign_vs_numpy", "rensa, words in Python": "sign_vs_rensa", "datatrove": "sign_vs_datatrove"}
    return {"sign_mb_s": rates[ours], **{keys[name]: rates[ours] / rates[name] for name in others}}, rows


def _signer(work: Callable[[list[bytes]], sign.Signed]) -> Callable[[list[str]], None]:
    return lambda texts: _batched(lambda part: work([text.encode() for text in part]), texts)


def _peer(name: str) -> ModuleType | None:
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    with suppress(ImportError):
        return importlib.import_module(name)
    return None


def _rensa() -> Any:
    rensa = _peer("rensa")
    if rensa is None:
        return None

    def each(texts: list[str]) -> None:
        for text in texts:
            words = WORD.findall(text.lower())
            made = rensa.RMinHash(num_perm=112, seed=1)
            made.update([" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))])
            made.digest()

    return each


def _datatrove() -> Any:
    theirs = _peer("datatrove.pipeline.dedup.minhash")
    if theirs is None:
        return None
    folder = tempfile.mkdtemp()
    config = theirs.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    stage = theirs.MinhashDedupSignature(folder, config=config)
    shutil.rmtree(folder)
    stage.get_signature(stage.get_shingles("their word tokenizer is loaded by its first text"))

    def each(texts: list[str]) -> None:
        for text in texts:
            shingles = stage.get_shingles(text)
            if len(shingles):
                stage.get_signature(shingles)

    return each


def encoding(documents: list[Document], _: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """encode_vs_hf, encode_equal: token ids per CPU-second beside the `tokenizers` package, one thread each."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = [document.text for document in documents[::16]]
    tokenizer = bpe.train([document.text for document in documents[1::8]], 4096)
    hf: Callable[[list[str]], Any] = lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False)  # noqa: E731
    equal = all(mine == each.ids for mine, each in zip(Encoder(tokenizer).encode(texts), hf(texts), strict=True))
    rates, rows = _rates(
        {"ours": (lambda texts: _batched(Encoder(tokenizer).encode, texts), texts), "tokenizers": (hf, texts)}, rounds
    )
    return {"encode_vs_hf": rates["ours"] / rates["tokenizers"], "encode_equal": equal}, rows


def _rates(
    cases: dict[str, tuple[Callable[[list[str]], Any], list[str]]], rounds: int
) -> tuple[dict[str, float], list[Row]]:
    """MB per CPU-second of each case by name, the cases in turn; all threads of this process are counted."""
    every: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (work, texts) in cases.items():
            began = time.process_time()
            work(texts)
            every[name].append(sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - began))
    rows = [[f"{name}, MB/CPU-s", *(f"{x:.2f}" for x in _spread(values))] for name, values in every.items()]
    return {name: statistics.median(values) for name, values in every.items()}, rows


def _batched(work: Callable[[list[str]], Any], texts: list[str]) -> None:
    for i in range(0, len(texts), 50):
        work(texts[i : i + 50])


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def storing(documents: list[Document], home: Path, rounds: int) -> tuple[dict[str, Any], list[Row]]:
    """ingest_vs_ext4, read_vs_ext4 (cold), read_warm_vs_ext4, reads_per_record, index_bytes_per_file."""
    records = {f"d{i % 100:02d}/{i:06d}.txt": value for i, value in enumerate(_small(documents))}
    seconds: dict[str, list[float]] = defaultdict(list)
    io: dict[str, list[float]] = defaultdict(list)
    rng, names = random.Random(1), list(records)
    for _ in range(rounds):
        shutil.rmtree(home / "files", ignore_errors=True)
        shutil.rmtree(home / "store", ignore_errors=True)
        os.sync()
        seconds["write files"].append(_timed(lambda: _write_files(home / "files", records)) / FILES)
        seconds["write pack"].append(_timed(lambda: _write_pack(home / "store", records)) / FILES)
        for kind, count in (("warm", WARM), ("cold", COLD)):
            if kind == "cold" and not _forget():
                continue
            chosen = rng.choices(names, k=count)
            store = Store(home / "store")
            for what, get in (("pack", _getter(store)), ("files", _reader(home / "files"))):
                before = _device_reads(home)
                seconds[f"{kind} {what}"].append(_timed(lambda: [get(name) for name in chosen]) / count)  # noqa: B023
                io[f"{kind} {what}"].append((_device_reads(home) - before) / count)
            assert all(store.get(name.encode()) == records[name] for name in chosen[:100])
            index = store.index_bytes / FILES
            store.close()
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    rows = [[f"{name}, a record", *map(span, _spread(each))] for name, each in seconds.items()]
    rows += [
        [f"{name}, device reads", *(f"{x:.2f}" for x in _spread(each))] for name, each in io.items() if "cold" in name
    ]
    values: dict[str, Any] = {
        "ingest_vs_ext4": middle["write files"] / middle["write pack"], "ingest_files": FILES,
        "read_warm_vs_ext4": middle["warm files"] / middle["warm pack"], "index_bytes_per_file": index,
    }  # fmt: skip
    if "cold pack" in middle:
        values |= {"read_vs_ext4": middle["cold files"] / middle["cold pack"],
                   "reads_per_record": statistics.median(io["cold pack"])}  # fmt: skip
    else:
        rows.append(["cold reads: only root can empty the page cache", "", "", ""])
    return values, rows


def _small(documents: list[Document]) -> Iterator[bytes]:
    """FILES slices of the corpus, lognormal around SIZE bytes."""
    data, rng = b"".join(document.text.encode() for document in documents), random.Random(0)
    for _ in range(FILES):
        size = min(max(int(rng.lognormvariate(np.log(SIZE) - 0.32, 0.8)), 64), 16_384)
        at = rng.randrange(len(data) - size)
        yield data[at : at + size]


def _getter(store: Store) -> Callable[[str], bytes | None]:
    return lambda name: store.get(name.encode())


def _reader(folder: Path) -> Callable[[str], bytes]:
    def get(name: str) -> bytes:
        with open(f"{folder}/{name}", "rb") as file:
            return file.read()

    return get


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _write_files(folder: Path, records: dict[str, bytes]) -> None:
    for i in range(100):
        (folder / f"d{i:02d}").mkdir(parents=True)
    for name, value in records.items():
        (folder / name).write_bytes(value)
    os.sync()


def _write_pack(folder: Path, records: dict[str, bytes]) -> None:
    with Writer(folder) as writer:
        for name, value in records.items():
            writer.add(name.encode(), value)
        writer.commit({}, done=True)


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


def near_duplicates(_: list[Document], __: Path, ___: int) -> tuple[dict[str, Any], list[Row]]:
    """dedup_pairs, dedup_recall, dedup_precision: the near step against every pair's exact Jaccard similarity."""
    documents, twins = corpus(SHORT), dict[str, str]()
    kept = {
        each.key for each in near.step(documents, lambda d, why: twins.update({d.key: why.split("same as ", 1)[1]}))
    }
    pairs = dict(_alike(documents))
    found = sum(not (a in kept and b in kept) for a, b in pairs)
    right = sum((key, twin) in pairs or (twin, key) in pairs for key, twin in twins.items())
    values = {"dedup_pairs": len(pairs), "dedup_recall": found / len(pairs) if pairs else 1.0,
              "dedup_precision": right / len(twins) if twins else 1.0}  # fmt: skip
    rows: list[Row] = [[f"pairs of Jaccard >= {near.LEAST}, every pair compared", len(pairs), "", ""],
                       ["of which one went", found, "", ""], ["documents that went", len(twins), "", ""],
                       ["of which rightly", right, "", ""]]  # fmt: skip
    return values, rows


def _alike(documents: list[Document]) -> Iterator[tuple[tuple[str, str], float]]:
    """Every pair of at least LEAST, by counting shared 5-grams over all pairs; words by a regular expression."""
    sets = []
    for document in documents:
        words = WORD.findall(re.sub("[A-Z]", lambda m: m[0].lower(), document.text)) or ["0"]
        grams = {hash(tuple(words[i : i + minhash.SHINGLE])) for i in range(max(1, len(words) - 4))}
        sets.append(np.array(sorted(grams), np.int64))
    grams = np.concatenate(sets)
    owner = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
    order = np.argsort(grams, kind="stable")
    _, starts, counts = np.unique(grams[order], return_index=True, return_counts=True)
    holders: list[list[int]] = [[] for _ in sets]
    for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        for number in owner[order[start : start + count]].tolist():
            holders[number].append(start)
    ends = dict(zip(starts.tolist(), (starts + counts).tolist(), strict=True))
    for number, shared in enumerate(holders):
        if shared:
            others = np.concatenate([owner[order[start : ends[start]]] for start in shared])
            both = np.bincount(others, minlength=len(sets))
            for other in np.flatnonzero(both[:number]).tolist():
                share = both[other] / (len(sets[number]) + len(sets[other]) - both[other])
                if share >= near.LEAST:
                    yield (documents[other].key, documents[number].key), share


WRITE = """
import sys
from pathlib import Path
from danlu.store.packs import Writer
with Writer(Path(sys.argv[1]), pack_bytes=20_000) as writer:
    print("begin", flush=True)
    for i in range(writer.cursor.get("next", 0), int(sys.argv[2])):
        if writer.add(b"%d" % i, b"%d " % i * 50):
            writer.commit({"next": i + 1})
    writer.commit({"next": int(sys.argv[2])}, done=True)
"""


def killing(_: list[Document], home: Path, __: int) -> tuple[dict[str, Any], list[Row]]:
    """kills, kill_lost, kill_doubled: a writer of 5,000 records killed by SIGKILL at random moments, then resumed."""
    rng, kills, lost, doubled, stores, count = random.Random(), 0, 0, 0, 0, 5_000
    while kills < KILLS:
        folder, stores, done = home / f"killed{stores}", stores + 1, False
        while not done:
            argv = [sys.executable, "-c", WRITE, str(folder), str(count)]
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                child.stdout.readline()
                try:
                    done = child.wait(rng.uniform(0, 0.2)) == 0
                    assert done, "the writer failed by itself"
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
                    kills += 1
        store = Store(folder)
        right = {b"%d" % i: b"%d " % i * 50 for i in range(count)}
        found = {record.key: record.value for record in store.scan()}
        lost += sum(found.get(key) != value for key, value in right.items())
        doubled += store.records - len(found)
        store.close()
    rows = [[f"kills of {stores} writers", kills, "", ""], ["records lost", lost, "", ""], ["doubled", doubled, "", ""]]
    return {"kills": kills, "kill_lost": lost, "kill_doubled": doubled}, rows


def resuming(documents: list[Document], home: Path, _: int) -> tuple[dict[str, Any], list[Row]]:
    """resume_same_order (with 1, 2 and 4 workers), resume_state_bytes, resume_s."""
    (home / "text").mkdir()
    for number, document in enumerate(documents[:300]):
        (home / "text" / f"{number}.txt").write_text(document.text)
    tokens = prep([home / "text"], home / "prepared", vocab=1000, limit_bytes=CORPUS).tokens

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
