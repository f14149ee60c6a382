"""Which nodes hold which part of a store too large for one: computed from names alone, no server to ask.

The hashes are cut into 2**bits shards by their first bits; every shard ranks all nodes by a hash of both names, and the
first `copies` of them hold it (rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit
rates", IEEE/ACM Transactions on Networking 6(1), 1998). A node that leaves gives each of its shards to the shard's next
node, and nothing else moves; one that joins takes an equal part from all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from danlu.errors import DanluError
from danlu.events import fallback
from danlu.store.cache import Cache
from danlu.store.hashing import hash_many, hash_of
from danlu.store.packs import Store

BITS = 12  # 4096 shards: at 100 nodes each has 41, and the fullest about half more than the mean


def shard_of(key: bytes, bits: int = BITS) -> int:
    """The shard of a key."""
    return hash_of(key) >> 64 - bits


def nodes_of(shard: int, nodes: Sequence[str], copies: int = 1) -> list[str]:
    """The nodes that hold a shard, the one to ask first before the others. Cost: one hash per node."""
    return sorted(nodes, key=lambda node: (hash_of(f"{node}\0{shard}".encode()), node))[:copies]


def shards_at(node: str, nodes: Sequence[str], copies: int = 1, bits: int = BITS) -> list[int]:
    """The shards a node holds."""
    return [shard for shard in range(1 << bits) if node in nodes_of(shard, nodes, copies)]


class Nodes:
    """A store spread over nodes: each node's packs are a store of their own, at a folder or an address.

    where   node's name to its store; the names decide who holds what, so a store that moves keeps its name
    copies  nodes that hold each key; the first that answers is asked
    A node's store is opened when it is first asked. Raises what Store raises when no copy can be read.
    """

    def __init__(self, where: dict[str, Path | str], *, copies: int = 1, bits: int = BITS,
                 cache: Cache | None = None) -> None:  # fmt: skip
        self._where, self._copies, self._bits, self._cache = dict(where), copies, bits, cache
        self._open: dict[str, Store] = {}
        self._held: dict[int, list[str]] = {}

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none."""
        return self._first(shard_of(key, self._bits), lambda store: store.get(key))

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, or None; every node is asked once for all of its keys."""
        places: dict[int, list[int]] = {}
        for number, shard in enumerate((hash_many(keys) >> (64 - self._bits)).tolist()):
            places.setdefault(shard, []).append(number)
        by_node: dict[str, list[int]] = {}
        for shard, numbers in places.items():
            by_node.setdefault(self._nodes(shard)[0], []).extend(numbers)
        found: list[bytes | None] = [None] * len(keys)
        for node, numbers in by_node.items():
            for number, value in zip(numbers, self._asked(node, [keys[n] for n in numbers]), strict=True):
                found[number] = value
        return found

    def close(self) -> None:
        """Let go of all stores."""
        for store in self._open.values():
            store.close()
        self._open.clear()

    def _asked(self, node: str, keys: list[bytes]) -> list[bytes | None]:
        try:
            return self._store(node).get_many(keys)
        except (DanluError, OSError) as error:
            if self._copies == 1:
                raise
            fallback("store", f"node {node} does not answer, its copies are asked one key at a time: {error}")
            return [self.get(key) for key in keys]

    def _first(self, shard: int, ask: Callable[[Store], bytes | None]) -> bytes | None:
        nodes = self._nodes(shard)
        for node in nodes[:-1]:
            try:
                return ask(self._store(node))
            except (DanluError, OSError) as error:
                fallback("store", f"node {node} does not answer, its copy is asked: {error}")
        return ask(self._store(nodes[-1]))

    def _nodes(self, shard: int) -> list[str]:
        if shard not in self._held:
            self._held[shard] = nodes_of(shard, list(self._where), self._copies)
        return self._held[shard]

    def _store(self, node: str) -> Store:
        if node not in self._open:
            self._open[node] = Store(self._where[node], cache=self._cache, partly=True)
        return self._open[node]
