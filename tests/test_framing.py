"""Where a packet ends: the same as the decoder finds, at every split, for next to no memory."""

import tracemalloc
from typing import Any

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.errors import Code, RemoteProtocolError
from abst.framing import Frame

MAX_BYTES = 500
MAX_MAP_ITEMS = 20
MAX_ARRAY_ITEMS = 30
MAX_DEPTH = 4

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=40))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=8,
)
maps = st.dictionaries(scalars.filter(lambda key: key == key), values, max_size=5)

# Every width of every length, which a good encoder would not choose.
LONG_FORMS = [
    *(b"\xd9\x01x", b"\xda\x00\x01x", b"\xdb\x00\x00\x00\x01x"),
    *(b"\xc4\x01x", b"\xc5\x00\x01x", b"\xc6\x00\x00\x00\x01x"),
    *(b"\xdc\x00\x01\xc0", b"\xdd\x00\x00\x00\x01\xc0"),
    *(b"\xde\x00\x01\xa1a\xc0", b"\xdf\x00\x00\x00\x01\xa1a\xc0"),
    *(b"\xc7\x01\x05x", b"\xc8\x00\x01\x05x", b"\xc9\x00\x00\x00\x01\x05x"),
    *(b"\xd4\x05x", b"\xd5\x05xx", b"\xd6\x05xxxx", b"\xd7\x05xxxxxxxx", b"\xd8\x05" + b"x" * 16),
    *(b"\xcc\x01", b"\xcd\x00\x01", b"\xce" + bytes(4), b"\xcf" + bytes(8)),
    *(b"\xd0\x01", b"\xd1\x00\x01", b"\xd2" + bytes(4), b"\xd3" + bytes(8)),
    *(b"\xca" + bytes(4), b"\xcb" + bytes(8), b"\x7f", b"\xe0", b"\xff", b"\xc0", b"\xc2", b"\xc3"),
]


def frame() -> Frame:
    return Frame(MAX_BYTES, MAX_MAP_ITEMS, MAX_ARRAY_ITEMS, MAX_DEPTH)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


class FrameTests(TestCase):
    def refused(self, data: bytes) -> Code:
        """Return the code with which bytes are refused."""
        code: Code = self.assertRaises(RemoteProtocolError, frame().find_end, data).code
        return code

    @given(packet=maps, behind=st.binary(max_size=3), before=st.binary(max_size=3))
    def test_it_ends_where_the_value_does(
        self, packet: dict[Any, Any], behind: bytes, before: bytes
    ) -> None:
        encoded = msgpack.packb(packet)
        data = before + encoded + behind
        if depth_of(packet) > MAX_DEPTH:
            self.assertRaises(RemoteProtocolError, frame().find_end, data, len(before))
        elif len(encoded) > MAX_BYTES:
            self.assertEqual(Code.TOO_LARGE, self.refused(encoded))
        else:
            end = len(before) + len(encoded)
            self.assertEqual(end, frame().find_end(data, len(before)))

    @given(packet=maps.filter(lambda value: depth_of(value) <= MAX_DEPTH))
    def test_it_is_found_by_the_last_byte_and_not_before(self, packet: dict[Any, Any]) -> None:
        encoded = msgpack.packb(packet)
        if len(encoded) > MAX_BYTES:
            return
        growing = bytearray()
        found = frame()
        for byte in encoded:
            self.assertIsNone(found.find_end(growing))
            growing.append(byte)
        self.assertEqual(len(encoded), found.find_end(growing))
        self.assertEqual(len(encoded), found.find_end(growing + b"more"))

    def test_every_form_of_every_length(self) -> None:
        for form in LONG_FORMS:
            data = b"\x81\xa1k" + form
            self.assertEqual(len(data), frame().find_end(data), form)
            self.assertEqual(len(data), frame().find_end(data + data), form)
            for cut in range(len(data)):
                self.assertIsNone(frame().find_end(data[:cut]), form)

    def test_maps_with_long_heads_are_packets_too(self) -> None:
        for head in (b"\x80", b"\xde\x00\x00", b"\xdf\x00\x00\x00\x00"):
            self.assertEqual(len(head), frame().find_end(head + b"x"))

    def test_nothing_but_a_map_is_a_packet(self) -> None:
        for form in [*LONG_FORMS, b"\x90", b"\xdd\xff\xff\xff\xff"]:
            if form[0] not in (0xDE, 0xDF):
                self.assertEqual(Code.MALFORMED, self.refused(form), form)

    def test_what_is_promised_is_refused_before_it_comes(self) -> None:
        for promise in (
            b"\xdf\xff\xff\xff\xff",
            b"\xde\x00\x15",
            b"\x81\xa1k\xdc\x00\x1f",
            b"\x81\xa1k\xdd\xff\xff\xff\xff",
            b"\x81\xa1k\xc6\xff\xff\xff\xff",
            b"\x81\xa1k\xdb\xff\xff\xff\xff",
            b"\x81\xa1k\xc9\xff\xff\xff\xff\x00",
            b"\x81\xa1k\xc5\x01\xf0",
        ):
            self.assertEqual(Code.TOO_LARGE, self.refused(promise), promise)
            for cut in range(len(promise) - 1):
                self.assertIsNone(frame().find_end(promise[:cut]))

    def test_the_largest_packet_is_accepted(self) -> None:
        head = b"\x81\xa1k\xc5"
        content_bytes = MAX_BYTES - len(head) - 2
        packet = head + content_bytes.to_bytes(2, "big") + bytes(content_bytes)
        self.assertEqual(MAX_BYTES, frame().find_end(packet))
        self.assertEqual(
            Code.TOO_LARGE, self.refused(head + (content_bytes + 1).to_bytes(2, "big"))
        )

    def test_the_deepest_packet_is_accepted(self) -> None:
        for inner in (b"\x90", b"\x80"):
            good = b"\x81\xa1k" + b"\x91" * (MAX_DEPTH - 2) + inner
            self.assertEqual(len(good), frame().find_end(good))
            bad = b"\x81\xa1k" + b"\x91" * (MAX_DEPTH - 1) + inner
            self.assertEqual(Code.MALFORMED, self.refused(bad))

    def test_the_byte_that_means_nothing_is_refused(self) -> None:
        self.assertEqual(Code.MALFORMED, self.refused(b"\xc1"))
        self.assertEqual(Code.MALFORMED, self.refused(b"\x81\xa1k\xc1"))

    @given(data=st.binary(max_size=60), map_head=st.integers(0x80, 0x8F))
    @example(data=b"", map_head=0x80)
    def test_any_bytes_end_somewhere_or_are_refused(self, data: bytes, map_head: int) -> None:
        for stream in (data, bytes([map_head]) + data):
            try:
                end = frame().find_end(stream)
            except RemoteProtocolError:
                continue
            self.assertTrue(end is None or 0 < end <= len(stream))

    def test_an_unfinished_packet_costs_no_more_than_its_bytes(self) -> None:
        """Decoded while it comes, each of these would cost its receiver megabytes."""
        for packet in (
            b"\x81\xa1k" + b"\xdc\x10\x00" * 30,
            b"\x81\xa1k\xdc\x0f\xff" + b"\x90" * 4000,
        ):
            tracemalloc.start()
            found = Frame(65536, 1024, 4096, 32)
            self.assertIsNone(found.find_end(packet))
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLess(peak_bytes, 4096)
