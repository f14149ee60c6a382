"""The message header: what was packed comes back, and nothing else is ever taken for a message."""

from __future__ import annotations

import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st
from provoke import provoke

from danlu.comm.header import DTYPES, SIZE, WIRE, Header, Tag, decode, encode
from danlu.errors import BadMessage

u32 = st.integers(0, 2**32 - 1)
headers = st.builds(
    Header,
    st.builds(Tag, st.sampled_from(["act", "grad", "norm", "tied", "hello"]), u32, st.integers(-1, 2**31 - 1)),
    st.integers(0, 2**16 - 1), u32, st.sampled_from(DTYPES), st.lists(st.integers(1, 200), max_size=4).map(tuple),
    st.floats(0, 1e9), u32,
)  # fmt: skip


@given(headers)
def test_a_header_comes_back_as_it_was(header):
    data = encode(header)
    assert len(data) == SIZE
    assert decode(data, "rank 1", 1 << 40) == header


@given(headers, st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_flipped_byte_is_found(header, at, flip):
    data = bytearray(encode(header))
    data[at] ^= flip
    with provoke("DL-RUN-010") as caught:
        decode(data, "rank 7", 1 << 40)
    assert "rank 7" in str(caught.error)


@given(st.binary(max_size=2 * SIZE))
def test_random_bytes_are_refused_by_name(data):
    with provoke("DL-RUN-010"):
        decode(data, "rank 3", 1 << 40)


@given(st.binary(min_size=SIZE - 4, max_size=SIZE - 4))
def test_a_well_checksummed_lie_is_refused_or_harmless(rest):
    data = b"DLMS" + struct.pack("<H", WIRE) + rest[6:]
    data = data[: SIZE - 4] + struct.pack("<I", zlib.crc32(data[: SIZE - 4]))
    try:
        header = decode(data, "rank 2", 1 << 20)
    except BadMessage as error:
        assert "rank 2" in str(error)
    else:
        assert header.body_bytes <= 1 << 20


def test_another_wire_version_is_named():
    data = bytearray(encode(Header(Tag("act", 1, 0), 0, 1, "fp32", (2,), 0.0, 0)))
    data[4:6] = struct.pack("<H", WIRE + 1)
    with provoke("DL-RUN-010") as caught:
        decode(data, "rank 5", 1 << 20)
    assert f"speaks {WIRE + 1}" in caught.error.why


def test_a_body_over_the_limit_is_refused_before_it_is_read():
    data = encode(Header(Tag("act", 1, 0), 0, 1, "fp32", (1000, 1000), 0.0, 0))
    with provoke("DL-RUN-010") as caught:
        decode(data, "rank 5", 1000)
    assert "4000000 bytes" in caught.error.why
