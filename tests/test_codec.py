"""Bytes to packets and back: any bytes, any split, every bound exactly."""

import os
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst import packets
from abst.codec import (
    MAX_ARRAY_ITEMS,
    MAX_DEPTH,
    MAX_FED_BYTES,
    MAX_MAP_ITEMS,
    Decoder,
    decode,
    encode,
)
from abst.device_id import DeviceID
from abst.errors import Code, LocalProtocolError, RemoteProtocolError
from abst.framing import Frame
from abst.packets import (
    MAX_PACKET_BYTES,
    MAX_PACKET_BYTES_BEFORE_HELLO,
    Application,
    Hello,
    Packet,
    Send,
)
from tests.test_packets import CONVERSATIONS, EXAMPLES, packets_of

ROOT = Path(__file__).parent.parent
ALICE = DeviceID.of_key(b"alice")
BOB = DeviceID.of_key(b"bob")

Outcome = tuple[list[dict[Any, Any]], Code | None]
"""The maps that a stream held, and the code with which it was refused."""

# Pieces of MessagePack that make for more interesting streams than random bytes do.
TOKENS = [
    *(bytes([byte]) for byte in (0x00, 0x7F, 0x80, 0x81, 0x82, 0x8F, 0x90, 0x91, 0x9F, 0xA0, 0xA1)),
    *(bytes([byte]) for byte in range(0xC0, 0x100)),
    *(b"\xa9packet_id", b"\xa7content", b"\xadsource_device", b"\xadtarget_device", b"\xa1a"),
    *(b"\xc4\x00", b"\xc4\x10" + ALICE, b"\xc5\x00\x01x", b"\xc6\xff\xff\xff\xff", b"\xc4\xff"),
    *(b"\xdc\x10\x00", b"\xdd\xff\xff\xff\xff", b"\xde\x00\x02", b"\xdf\xff\xff\xff\xff"),
    *(b"\xd4\x01x", b"\xd6\xff\0\0\0\0", b"\xc7\x03\xffabc", b"\xd7\xff" + b"\xff" * 8),
    *(b"\xa2\xff\xfe", b"\x81\xa1a\x01", b"\x82\xa1a\x01\xa1a\x01", b"\x81\x90\x01", b"\xc1"),
    *(encode(packet) for packet in EXAMPLES),
]
streams = (
    st.lists(st.sampled_from(TOKENS) | st.binary(max_size=6), max_size=24).map(b"".join)
    | st.binary(max_size=200)
    | st.lists(st.sampled_from([encode(packet) for packet in EXAMPLES]), max_size=6).map(b"".join)
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.builds(msgpack.Timestamp, st.integers(0, 2**40), st.integers(0, 999_999_999))
)
contents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=6)
    ),
    max_leaves=30,
)


def take_all(decoder: Decoder) -> list[dict[Any, Any]]:
    """Return the maps that wait in a decoder."""
    return list(iter(decoder.next_map, None))


def outcome(pieces: list[bytes], max_packet_bytes: int = MAX_PACKET_BYTES) -> Outcome:
    """Return what a decoder makes of a stream that comes in pieces."""
    decoder = Decoder(max_packet_bytes)
    found: list[dict[Any, Any]] = []
    try:
        for piece in pieces:
            decoder.receive_data(piece)
            while (value := decoder.next_map()) is not None:
                found.append(value)
    except RemoteProtocolError as error:
        return found, error.code
    return found, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def nested(depth: int, *, arrays: bool = False) -> bytes:
    """Return a packet of so many maps, or arrays in a map, one in the other."""
    inner = b"\x91" * (depth - 1) if arrays else b"\x81\xa1a" * (depth - 1)
    return b"\x81\xa1a" + inner + b"\xc0"


def of_size(size: int) -> bytes:
    """Return a map of exactly so many bytes, at least 300."""
    head = b"\x82\xa9packet_id\x05\xa7content\xc5"
    length = size - len(head) - 2
    return head + length.to_bytes(2, "big") + bytes(length)


class AnyBytesTests(TestCase):
    @settings(max_examples=500)
    @given(data=streams, limit=st.sampled_from([16, 100, MAX_PACKET_BYTES]))
    @example(data=b"\x81\x90\x01", limit=100)
    @example(data=b"\xc7\x03\xffabc", limit=100)
    def test_any_bytes_are_maps_or_a_remote_protocol_error(self, data: bytes, limit: int) -> None:
        """Nothing else comes out: ``outcome`` lets every other exception through."""
        found, code = outcome([data], limit)
        self.assertIn(code, (None, Code.MALFORMED, Code.TOO_LARGE))
        for value in found:
            self.assertIsInstance(value, dict)

    @settings(max_examples=500)
    @given(data=streams, places=st.lists(st.integers(0, 400), max_size=30))
    def test_any_split_gives_the_same(self, data: bytes, places: list[int]) -> None:
        whole = outcome([data])
        self.assertEqual(repr(whole), repr(outcome(cut(data, places))))
        self.assertEqual(repr(whole), repr(outcome([data[at : at + 1] for at in range(len(data))])))

    @settings(max_examples=300)
    @given(data=streams)
    def test_what_parses_is_a_packet_or_a_remote_protocol_error(self, data: bytes) -> None:
        for value in outcome([data])[0]:
            for known in CONVERSATIONS:
                try:
                    self.assertIsInstance(packets.parse(value, known), Packet)
                except RemoteProtocolError as error:
                    self.assertIn(error.code, (Code.MALFORMED, Code.UNKNOWN_PACKET))

    @settings(max_examples=500)
    @given(data=streams)
    def test_the_end_is_where_the_frame_has_it(self, data: bytes) -> None:
        """A realm measures with the frame, a device with the decoder: they must agree."""
        decoder = Decoder()
        frame = Frame(MAX_PACKET_BYTES, MAX_MAP_ITEMS, MAX_ARRAY_ITEMS, MAX_DEPTH)
        decoder.receive_data(data)
        try:
            whole = decoder.next_map() is not None
        except RemoteProtocolError:
            return
        try:
            end = frame.find_end(data)
        except RemoteProtocolError:
            # The frame refuses a promise; the decoder waits until so much has come.
            self.assertFalse(whole)
        else:
            self.assertEqual(decoder.consumed_bytes if whole else None, end)

    @given(data=st.sampled_from(EXAMPLES).map(encode), at=st.integers(0), byte=st.integers(0, 255))
    def test_a_changed_byte_is_maps_or_a_remote_protocol_error(
        self, data: bytes, at: int, byte: int
    ) -> None:
        place = at % len(data)
        found, code = outcome([data[:place] + bytes([byte]) + data[place + 1 :]] * 2)
        self.assertIn(code, (None, Code.MALFORMED, Code.TOO_LARGE))
        self.assertLessEqual(len(found), 2)

    @given(data=st.sampled_from(EXAMPLES).map(encode))
    def test_a_truncated_packet_is_waited_for(self, data: bytes) -> None:
        for end in range(len(data)):
            decoder = Decoder()
            decoder.receive_data(data[:end])
            self.assertIsNone(decoder.next_map())
            self.assertEqual((0, end), (decoder.consumed_bytes, decoder.buffered_bytes))
            decoder.receive_data(data[end:])
            self.assertEqual(1, len(take_all(decoder)))


class RoundTripTests(TestCase):
    @given(packet=st.one_of([packets_of(type(packet)) for packet in EXAMPLES]))
    def test_packets_survive(self, packet: Packet) -> None:
        decoder = Decoder()
        decoder.receive_data(encode(packet))
        value = decoder.next_map()
        assert value is not None
        self.assertEqual(packet, type(packet).from_map(value))
        self.assertIsNone(decoder.next_map())

    @given(content=contents, packet_id=st.integers(5, 255))
    def test_an_applications_content_survives(self, content: Any, packet_id: int) -> None:
        decoder = Decoder()
        decoder.receive_data(encode(Application(packet_id, content)))
        value = decoder.next_map()
        assert value is not None
        self.assertEqual(Application(packet_id, content), packets.parse_between_devices(value))

    def test_consumed_bytes_tell_where_each_packet_ends(self) -> None:
        encoded = [encode(packet) for packet in EXAMPLES]
        decoder = Decoder()
        decoder.receive_data(b"".join(encoded) + b"\x82")
        end = 0
        for data in encoded:
            decoder.next_map()
            end += len(data)
            self.assertEqual(end, decoder.consumed_bytes)
        self.assertEqual(1, decoder.buffered_bytes)

    def test_a_whole_packet_is_decoded_without_a_stream(self) -> None:
        for packet in EXAMPLES:
            data = encode(packet)
            self.assertEqual(packet, type(packet).from_map(decode(data)))
            for wrong in (b"", data[:-1], data + b"\x80", b"\x90"):
                error = self.assertRaises(RemoteProtocolError, decode, wrong)
                self.assertIs(Code.MALFORMED, error.code)

    def test_memoryviews_are_taken_too(self) -> None:
        decoder = Decoder()
        decoder.receive_data(memoryview(encode(EXAMPLES[0])))
        self.assertEqual(1, len(take_all(decoder)))


class BoundTests(TestCase):
    def assert_refused(self, data: bytes, code: Code, **bounds: int) -> RemoteProtocolError:
        """Check that bytes are refused at once, without another byte coming."""
        decoder = Decoder(**bounds)
        decoder.receive_data(data)
        error: RemoteProtocolError = self.assertRaises(RemoteProtocolError, decoder.next_map)
        self.assertIs(code, error.code)
        return error

    def assert_taken(self, data: bytes, **bounds: int) -> None:
        decoder = Decoder(**bounds)
        decoder.receive_data(data)
        self.assertEqual(1, len(take_all(decoder)))
        self.assertEqual(len(data), decoder.consumed_bytes)

    def test_the_largest_packet_is_taken_and_a_larger_one_refused(self) -> None:
        for limit in (300, MAX_PACKET_BYTES_BEFORE_HELLO, MAX_PACKET_BYTES):
            self.assert_taken(of_size(limit), max_packet_bytes=limit)
            self.assert_refused(of_size(limit + 1), Code.TOO_LARGE, max_packet_bytes=limit)

    def test_a_size_is_one_packets_own(self) -> None:
        """Many packets that come at once may be larger together."""
        data = of_size(300) * 50
        self.assertEqual(
            ([{"packet_id": 5, "content": bytes(277)}] * 50, None), outcome([data], 300)
        )
        self.assertEqual(
            (50, Code.TOO_LARGE),
            (lambda it: (len(it[0]), it[1]))(outcome([data + of_size(301)], 300)),
        )

    def test_a_packet_that_is_too_large_is_refused_before_it_is_whole(self) -> None:
        decoder = Decoder(300)
        decoder.receive_data(of_size(1000)[:300])
        self.assertIsNone(decoder.next_map())
        decoder.receive_data(b"\0")
        error = self.assertRaises(RemoteProtocolError, decoder.next_map)
        self.assertIs(Code.TOO_LARGE, error.code)

    def test_what_can_be_no_packet_is_refused_at_once(self) -> None:
        """Nothing that begins like this becomes a packet, whatever comes after it."""
        for beginning in (b"\xdf\xff\xff\xff\xff", b"\xdf\x00\x00\x04\x01", b"\xde\x04\x01"):
            self.assert_refused(beginning, Code.TOO_LARGE)
        for beginning in (b"\x9f", b"\xdd\x00\x00\x00\x02", b"\xc5\x01", b"\xdb", b"GET / HTTP"):
            self.assert_refused(beginning, Code.MALFORMED)
        decoder = Decoder()
        decoder.receive_data(b"\xdf\xff\xff\xff")
        self.assertIsNone(decoder.next_map())

    def test_huge_lengths_are_waited_for_no_longer_than_a_packet_is(self) -> None:
        for kind in (b"\xc6", b"\xdb", b"\xc9", b"\xdd", b"\xdf"):
            for length in (0x10001, 0x7FFFFFFF, 0xFFFFFFFF):
                beginning = b"\x81\xa1a" + kind + length.to_bytes(4, "big") + b"\x01"
                data = beginning + bytes(300 - len(beginning))
                self.assertIn(outcome([data], 300), [([], None), ([], Code.TOO_LARGE)])
                self.assertEqual(([], Code.TOO_LARGE), outcome([data + b"\0"], 300))
                self.assertEqual(([], Code.TOO_LARGE), outcome([data, b"\0"], 300))

    def test_items_are_counted(self) -> None:
        for count in (MAX_ARRAY_ITEMS, MAX_ARRAY_ITEMS + 1):
            data = msgpack.packb({"a": [0] * count})
            if count > MAX_ARRAY_ITEMS:
                self.assert_refused(data, Code.TOO_LARGE)
            else:
                self.assert_taken(data)
        for count in (MAX_MAP_ITEMS, MAX_MAP_ITEMS + 1):
            items = dict.fromkeys(range(count))
            for data in (msgpack.packb(items), msgpack.packb({"a": items})):
                if count > MAX_MAP_ITEMS:
                    self.assert_refused(data, Code.TOO_LARGE)
                else:
                    self.assert_taken(data)

    def test_depth_is_bounded(self) -> None:
        for arrays in (False, True):
            self.assert_taken(nested(MAX_DEPTH, arrays=arrays))
            for depth in (MAX_DEPTH + 1, 500, 5000):
                self.assert_refused(nested(depth, arrays=arrays), Code.MALFORMED)

    def test_promises_inside_promises_cost_no_memory(self) -> None:
        """Maps and arrays that promise thousands of items stand in each other and never end."""
        for unit in (b"\x81\xa1a", b"\xdc\x10\x00", b"\xde\x04\x00\xc0"):
            data = b"\x81\xa1a" + unit * (3000 // len(unit))
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            decoder = Decoder(MAX_PACKET_BYTES_BEFORE_HELLO)
            try:
                decoder.receive_data(data)
                decoder.next_map()
            except RemoteProtocolError:
                pass
            self.assertLess(tracemalloc.get_traced_memory()[1], 1_000_000)
            tracemalloc.stop()

    def test_what_is_fed_at_once_is_bounded(self) -> None:
        decoder = Decoder()
        decoder.receive_data(bytes(MAX_FED_BYTES))
        error = self.assertRaises(
            RemoteProtocolError, decoder.receive_data, bytes(MAX_PACKET_BYTES + 1)
        )
        self.assertIs(Code.TOO_LARGE, error.code)


class MalformedTests(TestCase):
    def assert_malformed(self, data: bytes, reason: str = "") -> None:
        decoder = Decoder()
        decoder.receive_data(data)
        error = self.assertRaises(RemoteProtocolError, decoder.next_map)
        self.assertIs(Code.MALFORMED, error.code, error)
        self.assertIn(reason, error.reason)

    def test_a_packet_is_a_map(self) -> None:
        for data in (b"\x00", b"\xc0", b"\x90", b"\xa1a", b"\xc4\x01a", b"\xca\0\0\0\0", b"\xff"):
            self.assert_malformed(data, "a packet is a map")

    def test_no_key_stands_twice(self) -> None:
        """One reader could believe the first, another one the last."""
        for data in (b"\x82\xa1a\x01\xa1a\x01", b"\x81\xa1b\x82\xa1a\x01\xa1a\x02"):
            self.assert_malformed(data, "a key stands twice")
        self.assert_malformed(b"\x82\xa9packet_id\x00\xd9\x09packet_id\x02", "a key stands twice")

    def test_containers_are_no_keys(self) -> None:
        for data in (b"\x81\x90\x01", b"\x81\x80\x01", b"\x81\x91\x01\x01"):
            self.assert_malformed(data)

    def test_text_is_utf_8(self) -> None:
        for data in (b"\x81\xa1a\xa1\xff", b"\x81\xa1\xff\x01", b"\x81\xa1a\xa3\xed\xa0\x80"):
            self.assert_malformed(data)

    def test_extension_types_are_refused(self) -> None:
        for code in (0, 1, 5, 127, 128, 254):
            self.assert_malformed(b"\x81\xa1a\xd4" + bytes([code, 0]), "extension types")
            self.assert_malformed(b"\x81\xa1a\xc7\x02" + bytes([code, 0, 0]), "extension types")

    def test_timestamps_are_taken(self) -> None:
        forms = {
            b"\xd6\xff\x00\x00\x00\x07": msgpack.Timestamp(7),
            b"\xd7\xff\x00\x00\x00\x04\x00\x00\x00\x07": msgpack.Timestamp(7, 1),
            b"\xc7\x0c\xff\x00\x00\x00\x01" + bytes(7) + b"\x07": msgpack.Timestamp(7, 1),
        }
        for data, value in forms.items():
            self.assertEqual(([{"a": value}], None), outcome([b"\x81\xa1a" + data]))

    def test_broken_timestamps_are_refused(self) -> None:
        for data in (b"\xd4\xff\x00", b"\xc7\x03\xffabc", b"\xc7\x00\xff", b"\xd8\xff" + bytes(16)):
            self.assert_malformed(b"\x81\xa1a" + data)
        billion_nanoseconds = (1_000_000_000 << 34).to_bytes(8, "big")
        self.assert_malformed(b"\x81\xa1a\xd7\xff" + billion_nanoseconds)

    def test_c1_is_nothing(self) -> None:
        self.assert_malformed(b"\xc1")
        self.assert_malformed(b"\x81\xa1a\xc1")

    def test_errors_do_not_repeat_what_came(self) -> None:
        secret = b"swordfish"
        for data in (b"\x82\xa9swordfish\x01\xa9swordfish\x01", b"\x81\xa1a\xaa\xff" + secret):
            decoder = Decoder()
            decoder.receive_data(data)
            error = self.assertRaises(RemoteProtocolError, decoder.next_map)
            self.assertNotIn("swordfish", str(error))


class EncodeTests(TestCase):
    @given(
        content=st.recursive(
            scalars
            | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3))
            | st.text(max_size=3)
            | st.just(object()),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.lists(inner, max_size=2).map(tuple)
                | st.dictionaries(scalars | st.tuples(scalars), inner, max_size=3)
            ),
        )
    )
    def test_what_is_sent_is_accepted(self, content: Any) -> None:
        """A packet that only its sender finds good would be resumed and refused forever."""
        try:
            data = encode(Application(5, content))
        except LocalProtocolError:
            return
        decoder = Decoder()
        decoder.receive_data(data)
        self.assertEqual(1, len(take_all(decoder)))

    def test_what_the_other_side_refuses_is_not_sent(self) -> None:
        deep: Any = None
        for _ in range(MAX_DEPTH):
            deep = [deep]
        endless: list[Any] = []
        endless.append(endless)
        wrong = [
            *(
                deep,
                endless,
                [0] * (MAX_ARRAY_ITEMS + 1),
                {(1, 2): 3},
                msgpack.ExtType(1, b""),
            ),
            *(
                [msgpack.ExtType(1, b"")],
                object(),
                {1, 2},
                2**64,
                -(2**63) - 1,
                "\ud800",
                {"\ud800": 1},
            ),
            dict.fromkeys(range(MAX_MAP_ITEMS + 1)),
        ]
        for content in wrong:
            error = self.assertRaises(LocalProtocolError, encode, Application(5, content))
            self.assertIn("cannot be sent", str(error))
        encode(Application(5, deep[0]))

    def test_a_packets_size_is_bounded_exactly(self) -> None:
        head = len(encode(Application(5, bytes(1000)))) - 1000
        for limit in (1500, MAX_PACKET_BYTES - 1):
            largest = Application(5, bytes(limit - head))
            self.assertEqual(limit, len(encode(largest, limit)))
            larger = Application(5, bytes(limit - head + 1))
            self.assertRaises(LocalProtocolError, encode, larger, limit)

    def test_headroom_is_enough_for_a_sends_header(self) -> None:
        content = bytes(MAX_PACKET_BYTES - packets.HEADROOM_BYTES)
        encode(Send(ALICE, BOB, content))
        encode(Send(ALICE, BOB, content, request=packets.MAX_COUNT))

    def test_lengths_take_their_shortest_form(self) -> None:
        """The realm's hot path knows a Send by its exact beginning."""
        data = encode(Send(ALICE, BOB, b"abc"))
        beginning = b"\x84\xa9packet_id\x02\xadsource_device\xc4\x10" + ALICE
        self.assertEqual(
            beginning + b"\xadtarget_device\xc4\x10" + BOB + b"\xa7content\xc4\x03abc", data
        )
        hello = b"\x82\xa9packet_id\x00\xa7content\x82\xa9device_id\xc4\x10" + ALICE
        self.assertEqual(hello + b"\xa7version\x01", encode(Hello(ALICE)))


class PurePythonTests(TestCase):
    def test_msgpack_without_its_extension_behaves_the_same(self) -> None:
        """Where pip finds no wheel, msgpack runs as pure Python: another implementation."""
        if os.environ.get("MSGPACK_PUREPYTHON"):
            self.skipTest("this is that run")
        names = (AnyBytesTests, RoundTripTests, BoundTests, MalformedTests, EncodeTests)
        tests = [f"{__name__}.{kind.__name__}" for kind in names]
        process = subprocess.run(
            [
                *(sys.executable, "-m", "twisted.trial", "--reporter=text"),
                *(f"--temp-directory={Path(self.mktemp()).absolute()}", *tests),
            ],
            cwd=ROOT,
            env={**os.environ, "MSGPACK_PUREPYTHON": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(0, process.returncode, process.stdout + process.stderr)
