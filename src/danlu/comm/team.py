"""Ranks that stay together when one dies: the survivors keep their processes and memory and form a new group in place.

No one decides for the others. A rank is dead when nobody listens at its door; an epoch is the number of ranks lost so
far, so survivors that see the same dead meet in the same epoch, and those that do not look again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from danlu.comm.form import form
from danlu.comm.group import Group
from danlu.comm.mesh import Aborted, Door, PeerLost, answers, join
from danlu.comm.sockets import SocketGroup
from danlu.comm.wire import Wire
from danlu.errors import LateRank
from danlu.nouns import Link

_ASK_S = 0.1
_AGAIN_S = 1e-3


class Team:
    """Owns this rank's door, and its wire and group of the present epoch."""

    def __init__(
        self, rank: int, door: Door, addresses: Mapping[int, str], key: bytes, *, limit_s: float = 60.0,
        links: Mapping[int, Link] | None = None, place: bytes | None = None,
        name: Callable[[int], str] = "rank {}".format,
    ) -> None:  # fmt: skip
        """addresses  of all ranks' doors, this one included; key  secret of the job; links, place  as in Wire, form.

        name     what a rank is called in an error
        limit_s  longest wait in a collective, and for the others to join
        """
        self.rank, self.name, self._door, self._key = rank, name, door, key
        self._first, self._addresses = len(addresses), dict(addresses)
        self._limit_s, self._links, self._place = limit_s, dict(links or {}), place
        self._wire: Wire | None = None
        self._group: Group | None = None
        self._formed = False

    @property
    def members(self) -> tuple[int, ...]:
        """Ranks of the present group, in its order."""
        return tuple(sorted(self._addresses))

    @property
    def epoch(self) -> int:
        """One more than the ranks lost so far."""
        return 1 + self._first - len(self._addresses)

    @property
    def wire(self) -> Wire:
        """The present epoch's, for messages from one rank to one."""
        assert self._wire is not None
        return self._wire

    def form(self) -> Group:
        """The group of all ranks at the start, of all who live after PeerLost; called by every one of them.

        Survivors that still wait in a collective are woken, since this rank leaves the old group first. Raises LateRank
        naming who lives but did not join in time, BadMessage for a caller of another wire version.
        """
        deadline = time.monotonic() + self._limit_s
        while True:
            self._leave()
            if self._formed:
                self._addresses = {peer: at for peer, at in self._addresses.items() if peer == self.rank or answers(at)}
            try:
                found = self._join(deadline)
                self._formed = True
                return found
            except (PeerLost, Aborted) as error:
                time.sleep(_AGAIN_S)
                if time.monotonic() > deadline:
                    raise LateRank(
                        f"epoch {self.epoch} did not come together",
                        where=self.name(self.rank),
                        why=f"tried {self._limit_s:g} s with ranks {self.members}; last: {error or 'one more died'}",
                        fix="look at these ranks' logs; start the job anew from its last snapshot",
                    ) from error

    def sockets(self) -> SocketGroup:
        """All members over the present wire's sockets, beside the group, for who must not share its memory."""
        return SocketGroup(self.wire, name="sockets")

    def leaders(self, members: Sequence[int]) -> SocketGroup:
        """Some members over the present wire's sockets: the first ranks of islands."""
        return SocketGroup(self.wire, members, "leaders")

    def close(self) -> None:
        """Leave for good; what was sent still arrives."""
        self._leave(kindly=True)
        self._door.close()

    def _join(self, deadline: float) -> Group:
        asked = time.monotonic()

        def one_died() -> bool:
            nonlocal asked
            if time.monotonic() - asked < _ASK_S:
                return False  # every question is a call that the other must turn away
            asked = time.monotonic()
            return not all(answers(at) for peer, at in self._addresses.items() if peer != self.rank)

        left = max(0.0, deadline - time.monotonic())
        lines = join(
            self._door,
            self.rank,
            self.epoch,
            self._addresses,
            self._key,
            limit_s=left,
            given_up=one_died,
            name=self.name,
        )
        links = {peer: link for peer, link in self._links.items() if peer in lines}
        self._wire = Wire(self.rank, self.epoch, lines, links=links, limit_s=self._limit_s, name=self.name)
        self._group = form(self._wire, limit_s=self._limit_s, place=self._place)
        return self._group

    def _leave(self, *, kindly: bool = False) -> None:
        if self._group is not None:
            self._group.close()
        if self._wire is not None:
            if not kindly:
                self._wire.abort()
            self._wire.close()
        self._group = self._wire = None
