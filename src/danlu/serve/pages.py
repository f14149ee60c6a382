"""Which page of KV memory holds which tokens: bookkeeping only, no tensors.

A page holds the keys and values of PAGE consecutive tokens. A full page is *sealed* under a key that hashes its whole
prefix (docs/formats.md, "block key"), so equal prefixes find each other. A page is in one of three places:

    bare     holds nothing anybody could ask for
    idle     sealed, used by no sequence: kept for the next request, evicted least recently used first
    taken    used by one sequence or, once sealed, by several (counted)

Only full pages are shared and a full page is never written again, so nothing is ever copied on write.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

VERSION = "danlu-kv-1"
PAGE = 16  # tokens; smaller pages share more of a prefix, larger ones gather faster


def root(model: str, dtype: str) -> bytes:
    """The key before the first page: the model's identity and the element type of its KV."""
    return blake2b("\0".join((VERSION, model, dtype)).encode(), digest_size=16).digest()


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Key of the page that holds `tokens` (PAGE of them) behind the prefix that `parent` names."""
    return blake2b(parent + struct.pack(f"<{len(tokens)}I", *tokens), digest_size=16).digest()


def extend_keys(keys: list[bytes], origin: bytes, tokens: Sequence[int]) -> None:
    """Append the keys of the full pages of `tokens` that `keys` does not have yet; `origin` is the root key."""
    for page in range(len(keys), len(tokens) // PAGE):
        keys.append(chain(keys[-1] if keys else origin, tokens[page * PAGE : (page + 1) * PAGE]))


class Pages:
    """Owns the page numbers 0..count-1: who uses which, and which prefix each holds. Every call is O(its pages)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._bare = list(reversed(range(count)))
        self._users = [0] * count
        self._key: list[bytes | None] = [None] * count
        self._sealed: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def available(self) -> int:
        """Pages that `take` can still give."""
        return len(self._bare) + len(self._idle)

    @property
    def taken(self) -> int:
        """Pages that some sequence uses."""
        return self.count - self.available

    @property
    def idle(self) -> int:
        """Pages kept only because a later request may want them."""
        return len(self._idle)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """Pages of the longest sealed prefix of `keys`, each now used once more; give them back with `release`."""
        found: list[int] = []
        for key in keys:
            page = self._sealed.get(key)
            if page is None:
                break
            self._use(page)
            found.append(page)
        return found

    def take(self, count: int) -> list[int] | None:
        """`count` pages to write to, evicting idle ones when bare ones are too few; None and no change if it cannot."""
        if count > self.available:
            return None
        while len(self._bare) < count:
            self._forget(self._idle.popitem(last=False)[0])
        pages = [self._bare.pop() for _ in range(count)]
        for page in pages:
            self._users[page] = 1
        return pages

    def seal(self, page: int, key: bytes) -> int:
        """`page` is full and will not change: share it under `key`. Returns the page to use from now on.

        That is another one when two sequences computed the same prefix side by side; ours is then bare again. So a key
        names one page, and a sealed page's prefix is always sealed and used at least as long as the page itself.
        """
        assert self._users[page] == 1 and self._key[page] is None, "only a page of one's own is sealed, once"
        known = self._sealed.get(key)
        if known is not None:
            self._use(known)
            self.release([page])
            return known
        self._sealed[key], self._key[page] = page, key
        return page

    def release(self, pages: Sequence[int]) -> None:
        """One user of `pages` (in prefix order) is gone. The tail becomes idle, and is evicted, before the head."""
        for page in reversed(pages):
            assert self._users[page] > 0, f"page {page} released twice"
            self._users[page] -= 1
            if self._users[page] == 0:
                if self._key[page] is None:
                    self._bare.append(page)
                else:
                    self._idle[page] = None

    def clear(self) -> None:
        """What the pages held is lost; no sequence uses any."""
        assert not self.taken, "pages in use hold what their sequences will read"
        while self._idle:
            self._forget(self._idle.popitem()[0])

    def _use(self, page: int) -> None:
        if self._users[page] == 0:
            del self._idle[page]
        self._users[page] += 1

    def _forget(self, page: int) -> None:
        key = self._key[page]
        assert key is not None and self._users[page] == 0
        del self._sealed[key]
        self._key[page] = None
        self._bare.append(page)
