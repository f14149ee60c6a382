"""Which files are read in parts: as many in a row as hold the text that is wanted.

How much text a file holds is known only when it is read. So parts are asked for one by one, as long as the text found
so far makes it likely that more are needed: large ones first and small ones last, since a part that goes over the
limit is made again, up to it. Parts are cleaned as they are read, but for a long file: it is a part of its own, whose
documents all workers clean by ranges of hashes. `cleaned` has what `fill` left for cleaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from danlu import atomic
from danlu.data import clean_parts, marks, parts, read_parts
from danlu.data.clean import Spec
from danlu.data.document import Funnel
from danlu.data.ingest import Tell, Want
from danlu.data.read import Source
from danlu.store.packs import Writer

READ = "read.json"  # of a job whose parts are the whole store: the folders of those
LONG = "long"  # the store of what was only read, beside the jobs
FIRST = 4.0  # times their size that files are taken to hold until one part is read, should there be archives
LEAST = 1 / 64  # times it that they hold in any case
SMALLEST = 1 << 20  # bytes of text of a part near the limit: one is read twice, and a worker may wait for another one
FEWEST = 16  # files that all text is worth: one worker reads a file, and would clean a longer one while others wait
SPARE = 1 / 16  # of what is left; to fall short costs a wait for all workers


def fill(home: Path, execute: parts.Run, steps: Sequence[Spec], writer: Writer, sources: Sequence[Source],
         funnel: Funnel, want: Want, tell: Tell) -> int:  # fmt: skip
    """See ingest.Read; jobs stand in `home`. steps: that clean what is read. Raises PartFailed."""
    size = sum(min(each.size, want.share) for each in sources)
    long = int(max(parts.PART_BYTES, min(size, want.limit) / FEWEST))
    record = {"source": want.fingerprint, "share": want.share, "long": long, "steps": clean_parts.rows(steps),
              "compares": clean_parts.compared(steps)}  # fmt: skip
    folder = parts.begin(home, "read", 0, {**record, "limit": None})
    asked = _Asked(folder, sources, want, long)
    used: list[Path] = []
    taken, over = 0, False
    while not over:
        before = asked.count
        for each in parts.each(folder, execute, _silent, asked.wanted(funnel)):
            if over:  # it was asked for too much
                continue
            found = _funnel(each)
            over = funnel.bytes_in + found.bytes_in >= want.limit
            if over:
                asked.close()
                continue
            funnel.join(found)
            taken += asked.done()
            used.append(each)
            tell(_counts(funnel), asked.share(funnel))
        if asked.count == before:
            break
    if over:
        last = parts.begin(home, "read", 1, {**record, "limit": want.limit - funnel.bytes_in})
        atomic.write(parts.place(last, 0) / read_parts.SOURCES, asked.text().encode())
        used += parts.run(last, execute, _silent)
        funnel.join(_funnel(used[-1]))
        taken += asked.done()
        tell(_counts(funnel), 1.0)
    writer.take([pack for each in used for pack in parts.told(each / read_parts.RAW)[1]])
    if _differ(used):
        atomic.write(folder / READ, json.dumps([str(each.relative_to(home)) for each in used]).encode())
    return taken


def cleaned(home: Path, source: str, steps: Sequence[Spec], execute: parts.Run, tell: Tell) -> list[Path]:
    """The parts that hold all that was read, cleaned by the first of these steps; none where there are no such ones.

    source   as `ingest` gives it
    execute  cleans what was only read. Raises PartFailed, DiskFull
    """
    used = _used(home, source, steps)
    found = [each for each in used if clean_parts.is_clean(each)]
    if packs := [pack for each in used if each not in found for pack in parts.told(each / read_parts.RAW)[1]]:
        with Writer(home / LONG) as writer:
            writer.clear()
            writer.take(packs)
            writer.commit({}, done=True)
        found += clean_parts.made(home / LONG, home, source, steps, execute, tell)
    return found


def _used(home: Path, source: str, steps: Sequence[Spec]) -> list[Path]:
    """The parts that READ names, of a job of this source and these steps."""
    for each in home.glob(f"*/{READ}"):
        job = parts.job_of(each.parent)
        made = [job["job"], job["source"], job["steps"], job["compares"]]
        if made == [parts.VERSION, source, clean_parts.rows(steps), clean_parts.compared(steps)]:
            return [home / name for name in json.loads(each.read_bytes())]
    return []


@dataclass
class _Asked:
    """Owns which sources are in which part: those asked for, of which some are `read`.

    long   bytes above which a source is a part of its own
    stops  where each part ends in the sources; sizes: their bytes as far as `want.share` of each
    """

    folder: Path
    sources: Sequence[Source]
    want: Want
    long: int
    stops: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    read: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self._left = sum(map(self._size, self.sources))

    @property
    def count(self) -> int:
        """Parts asked for."""
        return len(self.stops)

    def wanted(self, funnel: Funnel) -> Iterator[int]:
        """Numbers of parts to make next; `funnel` counts what those that are read hold, and grows meanwhile."""
        while not self.closed and self._start() < len(self.sources):
            ratio, waiting = self._ratio(funnel), sum(self.sizes[self.read :])
            left = float(self.want.limit - funnel.bytes_in)
            if waiting and ratio * waiting >= left * (1 + SPARE):
                return
            left = min(left - ratio * waiting, ratio * self._left)
            number = self.count
            self._take(parts.most_bytes(left, least=SMALLEST) / ratio)
            yield number

    def close(self) -> None:
        """Ask for no more."""
        self.closed = True

    def done(self) -> int:
        """Count the next part as read; returns how many sources it has."""
        self.read += 1
        return self.stops[self.read - 1] - self._start(self.read - 1)

    def text(self) -> str:
        """The sources of the next part that is not read, as its file says them."""
        return _text(self.sources[self._start(self.read) : self.stops[self.read]])

    def share(self, funnel: Funnel) -> float:
        """How much of all that is wanted was read."""
        rest = self._ratio(funnel) * (sum(self.sizes[self.read :]) + self._left)
        return funnel.bytes_in / max(min(self.want.limit, funnel.bytes_in + rest), 1)

    def _take(self, most: float) -> None:
        """Ask for the next sources, together of at most so many bytes unless one has more; as before, if it was."""
        start = stop = self._start()
        file = parts.place(self.folder, self.count) / read_parts.SOURCES
        size = 0
        if file.exists():
            stop += len(json.loads(file.read_bytes()))
            size = sum(map(self._size, self.sources[start:stop]))
        else:
            if max(map(self._size, self.sources[start : start + 1]), default=0) > self.long:
                most = 0
            while stop < len(self.sources) and (stop == start or size + self._size(self.sources[stop]) <= most):
                size += self._size(self.sources[stop])
                stop += 1
            atomic.write(file, _text(self.sources[start:stop]).encode())
        self.stops.append(stop)
        self.sizes.append(size)
        self._left -= size

    def _start(self, number: int | None = None) -> int:
        number = self.count if number is None else number
        return self.stops[number - 1] if number else 0

    def _size(self, source: Source) -> int:
        return min(source.size, self.want.share)

    def _ratio(self, funnel: Funnel) -> float:
        """Bytes of text for each byte of files."""
        read = sum(self.sizes[: self.read])
        return max(funnel.bytes_in / read, LEAST) if read else FIRST


def _text(sources: Sequence[Source]) -> str:
    return json.dumps([[each.key, each.path, each.size, each.modified_ns] for each in sources])


def _counts(funnel: Funnel) -> str:
    return f"{funnel.docs_kept:,} documents, {funnel.bytes_in / 1e6:.1f} MB, read and cleaned"


def _funnel(part: Path) -> Funnel:
    return Funnel.from_dict(parts.told(part / read_parts.RAW)[0]["funnel"])


def _differ(used: Sequence[Path]) -> bool:
    """Whether no two documents have one name: only the later one is to be cleaned, and no part can know that."""
    hashes = np.concatenate([np.empty(0, np.uint64), *map(marks.read, used)])
    return len(np.unique(hashes)) == len(hashes)


def _silent(words: str, share: float) -> None:
    """The text found says more than the parts do."""
