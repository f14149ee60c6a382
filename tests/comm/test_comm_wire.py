"""Messages between ranks: right bytes in any order, a name for whoever is late, and nothing of an old epoch."""

from __future__ import annotations

import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from provoke import provoke

from danlu.comm.collect import all_sum, exchange
from danlu.comm.header import Header, Tag, encode
from danlu.comm.mesh import Aborted, Door, PeerLost, call, join
from danlu.comm.wire import Wire
from danlu.nouns import Link

KEY = b"k" * 16


def pair(**options) -> tuple[Wire, Wire]:
    left, right = socket.socketpair()
    return Wire(0, 1, {1: left}, **options), Wire(1, 1, {0: right}, **options)


def send(wire: Wire, peer: int, tag: Tag, array: np.ndarray, sent: float = 0.0) -> None:
    wire.post(peer, tag, array, "fp32", array.shape, sent)


def body(message) -> np.ndarray:
    return np.frombuffer(message.body, np.float32).reshape(message.header.shape)


def test_messages_are_found_by_tag_whatever_their_order():
    a, b = pair()
    sent = {Tag("act", 1, mb): np.full((3, 5), mb, np.float32) for mb in range(6)}
    for tag, array in sent.items():
        send(a, 1, tag, array)
    for tag in reversed(sent):
        message = b.take(0, tag, "fp32", (3, 5))
        assert np.array_equal(body(message), sent[tag])
        b.recycle(message.body)
    a.close()
    b.close()


def test_large_bodies_cross_both_ways_at_once_and_buffers_are_reused():
    a, b = pair()
    big = np.arange(3_000_000, dtype=np.float32)
    bodies = set()
    for step in range(4):
        send(a, 1, Tag("act", step), big)
        send(b, 0, Tag("grad", step), -big)
        right, left = b.take(0, Tag("act", step), "fp32", big.shape), a.take(1, Tag("grad", step), "fp32", big.shape)
        assert np.array_equal(body(right), big) and np.array_equal(body(left), -big)
        bodies |= {id(right.body), id(left.body)}
        b.recycle(right.body)
        a.recycle(left.body)
    assert len(bodies) == 2
    a.close()
    b.close()


def test_a_late_rank_is_named():
    a, b = pair(limit_s=0.05)
    with provoke("DL-RUN-011") as caught:
        a.take(1, Tag("act", 4, 2), "fp32", (2,))
    assert "rank 1 is late with act of micro-batch 2, step 4" in str(caught.error)
    a.close()
    b.close()


def test_another_shape_is_refused_by_name():
    a, b = pair()
    send(a, 1, Tag("act", 1), np.zeros((2, 3), np.float32))
    with provoke("DL-RUN-010") as caught:
        b.take(0, Tag("act", 1), "fp32", (3, 2))
    assert "rank 0" in str(caught.error) and "(2, 3)" in caught.error.why
    a.close()
    b.close()


def test_a_damaged_body_is_found():
    left, right = socket.socketpair()
    b = Wire(1, 1, {0: right})
    good = np.ones(4, np.float32).tobytes()
    header = Header(Tag("act", 1), 0, 1, "fp32", (4,), 0.0, zlib.crc32(good))
    left.sendall(encode(header) + good[:-1] + b"\x01")
    with provoke("DL-RUN-010"):
        b.take(0, Tag("act", 1), "fp32", (4,))
    left.close()
    b.close()


def test_messages_of_an_old_epoch_are_dropped():
    left, right = socket.socketpair()
    b = Wire(1, 2, {0: right})
    for epoch in (1, 2):
        data = np.full(4, epoch, np.float32).tobytes()
        left.sendall(encode(Header(Tag("act", 1), 0, epoch, "fp32", (4,), 0.0, zlib.crc32(data))) + data)
    assert body(b.take(0, Tag("act", 1), "fp32", (4,)))[0] == 2
    left.close()
    b.close()


def test_what_was_sent_before_a_rank_died_still_arrives():
    left, right = socket.socketpair()
    b = Wire(1, 1, {0: right})
    data = np.ones(4, np.float32).tobytes()
    whole = encode(Header(Tag("act", 1), 0, 1, "fp32", (4,), 0.0, zlib.crc32(data))) + data
    left.sendall(whole + whole[:100])
    left.close()
    b.take(0, Tag("act", 1), "fp32", (4,))
    with pytest.raises(PeerLost, match="rank 0"):
        b.take(0, Tag("act", 2), "fp32", (4,))
    b.close()


def test_abort_wakes_a_waiting_rank():
    a, b = pair()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(a.take, 1, Tag("act", 1), "fp32", (1,))
        a.abort()
        with pytest.raises(Aborted):
            waiting.result(5)
    a.close()
    b.close()


def test_a_paced_link_carries_one_message_after_the_other():
    link = Link("x", "y", latency_s=0.5, bandwidth=100.0)
    left, right = socket.socketpair()
    a, b = Wire(0, 1, {1: left}, links={1: link}), Wire(1, 1, {0: right})
    for mb, sent in enumerate((10.0, 10.1, 20.0)):
        send(a, 1, Tag("act", 1, mb), np.zeros(25, np.float32), sent)
    ready = [b.take(0, Tag("act", 1, mb), "fp32", (25,)).header.ready for mb in range(3)]
    assert ready == pytest.approx([11.5, 12.5, 21.5])
    a.close()
    b.close()


def meshed(ranks: int, host: str | None, epoch: int = 1) -> list[Wire]:
    doors = [Door(host) for _ in range(ranks)]
    addresses = {rank: door.address for rank, door in enumerate(doors)}

    def enter(rank: int) -> Wire:
        lines = join(doors[rank], rank, epoch, addresses, KEY, limit_s=10, given_up=lambda: False)
        return Wire(rank, epoch, lines)

    with ThreadPoolExecutor(ranks) as pool:
        wires = list(pool.map(enter, range(ranks)))
    for door in doors:
        door.close()
    return wires


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_every_rank_gets_the_same_sum_added_in_rank_order(host):
    wires = meshed(4, host)
    parts = [np.array([10.0**k, 0.1 * k]) for k in (16, 0, 1, -16)]
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda w: all_sum(w, parts[w.rank], Tag("norm", 1))[0], wires))
    expected = ((parts[0] + parts[1]) + parts[2]) + parts[3]
    assert all(np.array_equal(each, expected) for each in sums)
    for wire in wires:
        wire.close()


def test_two_ends_exchange_a_tensor():
    a, b = pair()
    ones, twos = np.ones((2, 2), np.float32), np.full((2, 2), 2, np.float32)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(exchange, b, 0, twos, Tag("tied", 1), "fp32", (2, 2))
        assert body(exchange(a, 1, ones, Tag("tied", 1), "fp32", (2, 2)))[0, 0] == 2
        assert body(there.result(5))[0, 0] == 1
    a.close()
    b.close()


def test_callers_of_an_old_epoch_and_strangers_are_turned_away():
    doors = [Door(), Door()]
    addresses = {rank: door.address for rank, door in enumerate(doors)}
    old, stranger, silent = (call(doors[0].address) for _ in range(3))
    old.sendall(encode(Header(Tag("hello", 0), 1, 4, "uint8", (16,), 0.0, zlib.crc32(KEY))) + KEY)
    stranger.sendall(encode(Header(Tag("hello", 0), 1, 5, "uint8", (16,), 0.0, 0)) + b"x" * 16)
    silent.close()
    found = {}
    threads = [
        threading.Thread(
            target=lambda r=r: found.update(
                {r: join(doors[r], r, 5, addresses, KEY, limit_s=10, given_up=lambda: False)}
            )
        )
        for r in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    wires = [Wire(rank, 5, found[rank]) for rank in (0, 1)]
    send(wires[0], 1, Tag("act", 1), np.ones(1, np.float32))
    assert body(wires[1].take(0, Tag("act", 1), "fp32", (1,)))[0] == 1
    for each in (*wires, *doors, old, stranger):
        each.close()


def test_a_rank_that_never_joins_is_named():
    door = Door()
    with provoke("DL-RUN-011") as caught:
        join(door, 0, 1, {0: door.address, 2: "unix:nobody"}, KEY, limit_s=0.05, given_up=lambda: False)
    assert "rank 2" in str(caught.error)
    with pytest.raises(PeerLost, match="rank 2"):
        join(door, 3, 1, {2: "unix:nobody-listens", 3: door.address}, KEY, limit_s=0.05, given_up=lambda: False)
    with pytest.raises(Aborted):
        join(door, 0, 1, {0: door.address, 2: "unix:nobody"}, KEY, limit_s=10, given_up=lambda: True)
    door.close()


@pytest.mark.parametrize("other", [{"job": "b"}, {"job": "a", "plan": "c"}, {}])
def test_a_rank_that_has_not_what_all_must_have_alike_is_named(other):
    doors = [Door(), Door()]
    addresses = {rank: door.address for rank, door in enumerate(doors)}

    def enter(rank: int):
        same = other if rank else {"job": "a"}
        return join(doors[rank], rank, 1, addresses, KEY, limit_s=10, given_up=lambda: False, same=same)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(enter, 0), pool.submit(enter, 1)
        with provoke("DL-RUN-015") as caught:
            one.result(10)
        for line in two.result(10).values():
            line.close()
    assert "rank 1" in caught.error.where and " than rank 0" in caught.error.what
    for door in doors:
        door.close()


def test_what_a_card_still_copies_is_waited_for_by_the_thread_that_sends():
    """The rank goes on; a message behind it keeps its place."""
    a, b = pair()
    copied, waits = threading.Event(), threading.Event()

    def leaving():
        waits.set()
        assert copied.wait(10)
        return np.full(3, 7, np.float32)

    a.post(1, Tag("act", 1), leaving, "fp32", (3,))
    send(a, 1, Tag("act", 2), np.ones(2, np.float32))
    assert waits.wait(10), "another thread than this one asks for it"
    copied.set()
    assert body(b.take(0, Tag("act", 2), "fp32", (2,))).tolist() == [1, 1]
    assert body(b.take(0, Tag("act", 1), "fp32", (3,))).tolist() == [7, 7, 7]
    a.close()
    b.close()


def test_a_copy_that_fails_is_told_where_the_message_was_to_go():
    a, b = pair()

    def leaving():
        raise RuntimeError("the card fell off the bus")

    a.post(1, Tag("act", 1), leaving, "fp32", (3,))
    with pytest.raises(RuntimeError, match="fell off"):
        a.take(1, Tag("act", 1), "fp32", (3,))
    a.close()
    b.close()


def test_a_body_is_received_into_the_memory_that_was_asked_for():
    left, right = socket.socketpair()
    made = []

    def memory(size):
        made.append(np.empty(size, np.uint8))
        return made[-1]

    a, b = Wire(0, 1, {1: left}), Wire(1, 1, {0: right}, memory=memory)
    for step in (1, 2):
        send(a, 1, Tag("act", step), np.full(5, step, np.float32))
        message = b.take(0, Tag("act", step), "fp32", (5,))
        assert message.body is made[0] and body(message).tolist() == [step] * 5
        assert torch.frombuffer(message.body, dtype=torch.float32).tolist() == [step] * 5
        b.recycle(message.body)
    assert len(made) == 1
    a.close()
    b.close()
