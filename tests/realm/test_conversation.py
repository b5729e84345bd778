"""What the realm makes of every sequence of bytes; no sockets, and the clock is a number."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.device_id import DeviceID
from abst.errors import MEANINGS, Code
from abst.packets import PROTOCOL_VERSION, BackHeartbeat, Error, Hello, Packet
from abst.realm.conversation import CONFLICT_REPLACEMENTS, CONFLICT_WINDOW_SECONDS, State
from abst.realm.limits import Limits
from abst.realm.switchboard import MemorySwitchboard, Sender
from tests.realm.memory_realm import (
    ADDRESS,
    ALICE,
    BOB,
    CAROL,
    NOBODY,
    Line,
    MemoryRealm,
    decode,
    send,
)

LIMITS = Limits()
SMALL = Limits(packet_bytes=1024, hello_packet_bytes=256, queue_bytes=32768, all_queues_bytes=65536)

# A Send packet's length beside its content, when that is a bin 8.
SEND_HEAD_BYTES = len(send(ALICE, BOB, b""))


def text(key: str) -> bytes:
    """Return a key as MessagePack."""
    return bytes(msgpack.packb(key))


SOURCE = text("source_device") + b"\xc4\x10"
TARGET = text("target_device") + b"\xc4\x10"
CONTENT = text("content")
ID = text("packet_id")


def unusual_sends(source: bytes, target: bytes) -> Iterator[bytes]:
    """Yield Send packets that are right, and in none of them is every byte where it mostly is."""
    fields = [ID + b"\x02", SOURCE + source, TARGET + target, CONTENT + b"\xc4\x05hello"]
    for turn in range(1, 4):
        yield b"\x84" + b"".join(fields[turn:] + fields[:turn])
    yield b"\x84" + b"".join(reversed(fields))
    yield b"\x85" + b"".join(fields) + text("request") + b"\x07"
    yield b"\x85" + text("request") + b"\x07" + b"".join(fields)
    yield b"\x85" + b"".join(fields[:3]) + text("later") + b"\x93\x01\x02\x03" + fields[3]
    yield b"\xde\x00\x04" + b"".join(fields)
    yield b"\xdf\x00\x00\x00\x04" + b"".join(fields)
    yield b"\x84" + ID + b"\xcc\x02" + b"".join(fields[1:])
    yield b"\x84\xd9\x09packet_id\x02" + b"".join(fields[1:])
    yield (
        b"\x84"
        + fields[0]
        + text("source_device")
        + b"\xc5\x00\x10"
        + source
        + b"".join(fields[2:])
    )
    yield b"\x84" + b"".join(fields[:2]) + TARGET[:-2] + b"\xc5\x00\x10" + target + fields[3]
    # In order, and with a length that is longer than it has to be: still the usual form.
    yield b"\x84" + b"".join(fields[:3]) + CONTENT + b"\xc5\x00\x05hello"
    yield b"\x84" + b"".join(fields[:3]) + CONTENT + b"\xc6\x00\x00\x00\x05hello"


class ConversationTestCase(SynchronousTestCase):
    limits = LIMITS

    def setUp(self) -> None:
        self.realm = MemoryRealm(self.limits)

    def assert_closed(self, line: Line, code: Code) -> Error:
        """Assert that a line was closed with a code as its last word, and return that word."""
        last = line.take()[-1]
        assert isinstance(last, Error), last
        self.assertEqual(code, last.code)
        self.assertTrue(MEANINGS[code].closes)
        self.assertEqual("closed", line.ended)
        self.assertEqual(code, line.conversation.closed_for)
        self.assertEqual(1, self.realm.refused(code))
        if line.device_id is not None:
            self.assertIsNot(line.conversation, self.realm.switchboard.route(line.device_id))
        return last


class HelloTests(ConversationTestCase):
    def test_hello_is_answered_with_every_limit_in_force(self) -> None:
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE, request=77))
        (answer,) = line.take()
        assert isinstance(answer, BackHeartbeat), answer
        self.assertEqual(77, answer.request)
        self.assertEqual(PROTOCOL_VERSION, answer.version)
        self.assertEqual(LIMITS.heartbeat_seconds, answer.heartbeat_seconds)
        self.assertEqual(list(ADDRESS), answer.observed_address)
        self.assertEqual(
            {
                "packet_bytes": LIMITS.packet_bytes,
                "queue_bytes": LIMITS.queue_bytes,
                "silence_seconds": LIMITS.silence_seconds,
                "stall_seconds": LIMITS.stall_seconds,
                "address_connections": LIMITS.address_connections,
                "device_connections": LIMITS.device_connections,
                "address_handshakes_per_second": LIMITS.address_handshakes_per_second,
                "device_bytes_per_second": LIMITS.device_bytes_per_second,
                "device_packets_per_second": LIMITS.device_packets_per_second,
                "device_bytes_per_month": LIMITS.device_bytes_per_month,
                "device_values_bytes": LIMITS.device_values_bytes,
                "pairing_requests_per_minute": LIMITS.pairing_requests_per_minute,
                "device_circuits": LIMITS.device_circuits,
                "circuit_requests_per_minute": LIMITS.circuit_requests_per_minute,
                "device_groups": LIMITS.device_groups,
                "group_requests_per_minute": LIMITS.group_requests_per_minute,
            },
            answer.limits,
        )
        self.assertEqual(State.HERE, line.conversation.state)

    def test_a_heartbeat_is_answered_as_hello_is_and_arrives_once(self) -> None:
        line = self.realm.connect(ALICE)
        line.send(*[Hello(ALICE, request=number) for number in range(3)])
        answers = [answer for answer in line.take() if isinstance(answer, BackHeartbeat)]
        self.assertEqual([0, 1, 2], [answer.request for answer in answers])
        self.assertEqual(1, self.realm.core.counters.connections)
        self.assertEqual("", line.ended)

    def test_a_nonce_lasts_as_long_as_its_connection_and_no_longer(self) -> None:
        """Proofs are made over it."""
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE), Hello(ALICE))
        first, second = (it.nonce for it in line.take() if isinstance(it, BackHeartbeat))
        self.assertEqual(first, second)
        (answer,) = self.realm.join_again(line).take()
        assert isinstance(answer, BackHeartbeat), answer
        self.assertNotEqual(first, answer.nonce)

    def test_a_newer_version_is_welcome_and_an_older_one_is_not(self) -> None:
        newer = self.realm.connect(ALICE)
        newer.send(Hello(ALICE, version=PROTOCOL_VERSION + 1))
        self.assertIsInstance(newer.take()[0], BackHeartbeat)
        older = self.realm.connect(BOB)
        older.send(Hello(BOB, version=PROTOCOL_VERSION - 1))
        self.assert_closed(older, Code.WRONG_VERSION)

    def test_another_devices_id_is_refused(self) -> None:
        line = self.realm.connect(ALICE)
        line.send(Hello(BOB))
        self.assert_closed(line, Code.WRONG_DEVICE)
        self.assertIsNone(self.realm.switchboard.route(BOB))

    def test_another_devices_id_in_a_heartbeat_is_refused(self) -> None:
        bob = self.realm.join(BOB)
        line = self.realm.join(ALICE)
        line.send(Hello(BOB))
        self.assert_closed(line, Code.WRONG_DEVICE)
        self.assertIs(bob.conversation, self.realm.switchboard.route(BOB))

    def test_who_has_proved_no_id_has_none(self) -> None:
        line = self.realm.connect(None)
        line.send(Hello(ALICE))
        self.assert_closed(line, Code.WRONG_DEVICE)

    def test_hello_comes_first(self) -> None:
        bob = self.realm.join(BOB)
        for packet in (
            send(ALICE, BOB, b"early"),
            *unusual_sends(ALICE, BOB),
            *(msgpack.packb({"packet_id": number}) for number in (3, 31, 255)),
        ):
            line = self.realm.connect(ALICE)
            line.send(packet)
            self.assertEqual([Code.HELLO_FIRST], line.take_codes())
            self.assertEqual("closed", line.ended)
        self.assertEqual([], bob.take())

    def test_bytes_that_are_no_hello_are_refused_before_it(self) -> None:
        for data, code in (
            (b"GET / HTTP/1.1\r\n\r\n", Code.MALFORMED),
            (b"\xc1", Code.MALFORMED),
            (b"\x80", Code.MALFORMED),
            (msgpack.packb({"packet_id": 0}), Code.MALFORMED),
            (msgpack.packb({"packet_id": 0, "content": {}}), Code.MALFORMED),
            (msgpack.packb({"packet_id": 256}), Code.MALFORMED),
            (msgpack.packb({"packet_id": True}), Code.MALFORMED),
            (b"\x81\xa1k\xc5\x10\x00", Code.TOO_LARGE),
            (b"\xdf\xff\xff\xff\xff", Code.TOO_LARGE),
        ):
            line = self.realm.connect(ALICE)
            line.send(data)
            self.assertEqual([code], line.take_codes(), data)
            self.assertEqual("closed", line.ended)

    def test_hello_has_a_smaller_limit_than_what_follows(self) -> None:
        line = self.realm.connect(ALICE)
        hello = Hello(ALICE).to_map()
        hello["later"] = bytes(LIMITS.hello_packet_bytes)
        large = msgpack.packb(hello)
        line.send(large)
        self.assert_closed(line, Code.TOO_LARGE)
        line = self.realm.join(ALICE)
        line.send(large)
        self.assertIsInstance(line.take()[0], BackHeartbeat)

    def test_what_follows_hello_may_come_with_it(self) -> None:
        bob = self.realm.join(BOB)
        line = self.realm.connect(ALICE)
        packets = [send(ALICE, BOB, b"one"), send(ALICE, BOB, b"two", request=5)]
        line.send(codec.encode(Hello(ALICE)) + b"".join(packets))
        self.assertEqual(b"".join(packets), bob.take_bytes())

    def test_who_says_no_hello_is_closed_in_time_and_not_before(self) -> None:
        line = self.realm.connect(ALICE)
        self.realm.advance(LIMITS.hello_seconds - 0.01)
        line.send(codec.encode(Hello(ALICE))[:-1])
        self.assertEqual("", line.ended)
        self.realm.advance(0.02)
        self.assert_closed(line, Code.HELLO_LATE)

    def test_a_failed_handshake_is_forgotten(self) -> None:
        line = self.realm.connect(None)
        line.disconnect()
        self.realm.advance(LIMITS.hello_seconds + 1)
        self.assertEqual(0, len(self.realm.core.conversations))
        self.assertEqual(0, self.realm.refused(Code.HELLO_LATE))

    def test_nothing_is_read_after_a_refusal(self) -> None:
        bob = self.realm.join(BOB)
        line = self.realm.connect(ALICE)
        line.send(Hello(CAROL), Hello(ALICE), send(ALICE, BOB, b"x"))
        self.assertEqual([Code.WRONG_DEVICE], line.take_codes())
        self.assertEqual([], bob.take())
        self.assertEqual(1, len(self.realm.switchboard))

    def test_a_full_realm_says_so_and_takes_back_its_own(self) -> None:
        self.realm = MemoryRealm(Limits(connections=2))
        alice = self.realm.join(ALICE)
        bob = self.realm.join(BOB)
        carol = self.realm.connect(CAROL)
        carol.send(Hello(CAROL))
        error = self.assert_closed(carol, Code.REALM_FULL)
        self.assertIsNotNone(error.retry_after)
        # Bob comes back from another address before the realm has missed him.
        again = self.realm.join(BOB)
        self.assertEqual([Code.REPLACED], bob.take_codes())
        again.send(send(BOB, ALICE, b"back"))
        self.assertEqual(send(BOB, ALICE, b"back"), alice.take_bytes())
        for line in (bob, carol, again):
            line.disconnect()
        self.realm.join(CAROL)


class SilenceTests(ConversationTestCase):
    def test_a_silent_device_is_closed_in_time_and_not_before(self) -> None:
        line = self.realm.join(ALICE)
        self.realm.advance(LIMITS.silence_seconds - 0.01)
        self.assertEqual("", line.ended)
        self.realm.advance(0.02)
        self.assert_closed(line, Code.SILENT)

    def test_any_byte_breaks_the_silence(self) -> None:
        bob = self.realm.join(BOB)
        line = self.realm.join(ALICE)
        for byte in send(ALICE, BOB, b"one byte after the other"):
            line.send(bytes([byte]))
            bob.send(Hello(BOB))
            self.realm.advance(LIMITS.silence_seconds * 0.9)
        self.assertEqual("", line.ended)
        bob.disconnect()
        self.realm.advance(LIMITS.silence_seconds)
        self.assert_closed(line, Code.SILENT)

    def test_what_is_sent_to_a_device_does_not_break_its_silence(self) -> None:
        alice, bob = self.realm.join(ALICE), self.realm.join(BOB)
        for _ in range(4):
            self.realm.advance(LIMITS.silence_seconds / 4)
            alice.send(send(ALICE, BOB, b"x"))
        self.assert_closed(bob, Code.SILENT)
        self.assertEqual("", alice.ended)

    def test_hello_may_be_given_longer_than_silence(self) -> None:
        limits = Limits(hello_seconds=100, heartbeat_seconds=1, silence_seconds=3)
        self.realm = MemoryRealm(limits)
        line = self.realm.join(ALICE)
        self.realm.advance(3.01)
        self.assert_closed(line, Code.SILENT)


class ForwardTests(ConversationTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.realm.join(ALICE)
        self.bob = self.realm.join(BOB)
        self.carol = self.realm.join(CAROL)

    def test_the_bytes_that_came_are_the_bytes_that_leave(self) -> None:
        for packet in (send(ALICE, BOB, b""), send(ALICE, BOB, b"x"), send(ALICE, BOB, b"x" * 999)):
            self.alice.send(packet)
            self.assertEqual(packet, self.bob.take_bytes())
        self.assertEqual([], self.alice.take())
        self.assertEqual([], self.carol.take())

    def test_unusual_forms_leave_as_they_came(self) -> None:
        packets = list(unusual_sends(ALICE, BOB))
        for packet in packets:
            self.alice.send(packet)
            self.assertEqual(packet, self.bob.take_bytes())
        self.alice.send(b"".join(packets))
        self.assertEqual(b"".join(packets), self.bob.take_bytes())
        self.assertEqual([], self.alice.take())

    def test_a_device_may_send_to_itself(self) -> None:
        self.alice.send(send(ALICE, ALICE, b"note"))
        self.assertEqual(send(ALICE, ALICE, b"note"), self.alice.take_bytes())

    def test_content_of_every_length_of_length(self) -> None:
        """At the ends of bin 8, 16 and 32, in the shortest form and in the longer ones."""
        most = LIMITS.packet_bytes
        for size in (0, 1, 2, 3, 4, 5, 254, 255, 256, 257, most - 88, most - 87, most - 86):
            forms = [b"\xc6" + size.to_bytes(4, "big"), b"\xc5" + size.to_bytes(2, "big")]
            forms += [b"\xc4" + bytes([size])] if size < 256 else []
            for form in forms:
                head = b"\x84" + ID + b"\x02" + SOURCE + ALICE + TARGET + BOB + CONTENT + form
                packet = head + bytes(size)
                if len(packet) > most:
                    line = self.realm.join(NOBODY)
                    line.send(packet.replace(ALICE, NOBODY, 1)[: len(head)])
                    self.assertEqual([Code.TOO_LARGE], line.take_codes())
                    line.disconnect()
                    continue
                self.alice.send(packet)
                self.assertEqual(packet, self.bob.take_bytes())
                # The same as the second of two, and cut where its length stands.
                for cut in range(len(head) - 6, len(head) + 4):
                    self.alice.send(packet + packet[:cut], packet[cut:])
                    self.assertEqual(packet + packet, self.bob.take_bytes())
        self.assertEqual([], self.alice.take())

    def test_the_largest_packet_is_forwarded_and_one_byte_more_is_not(self) -> None:
        content = bytes(LIMITS.packet_bytes - SEND_HEAD_BYTES - 1)
        largest = send(ALICE, BOB, content)
        self.assertEqual(LIMITS.packet_bytes, len(largest))
        self.alice.send(largest)
        self.assertEqual(largest, self.bob.take_bytes())
        larger = b"\x84" + ID + b"\x02" + SOURCE + ALICE + TARGET + BOB + CONTENT + b"\xc5"
        larger += (len(content) + 1).to_bytes(2, "big") + content + b"x"
        self.alice.send(largest + larger)
        self.assertEqual(largest, self.bob.take_bytes())
        self.assert_closed(self.alice, Code.TOO_LARGE)

    def test_a_run_for_one_target_is_one_slice(self) -> None:
        runs: list[tuple[bytes, int]] = []

        class Recorder:
            def deliver(self, run: bytes, count: int, source: Sender) -> Code | None:
                runs.append((run, count))
                return None

            def tell(self, packet: Packet) -> None:
                raise AssertionError

            def replaced(self, now: float) -> list[float]:
                raise AssertionError

        self.realm.switchboard.arrive(NOBODY, Recorder())
        same = send(ALICE, NOBODY, b"same") * 5
        mixed = b"".join(send(ALICE, NOBODY, bytes(size)) for size in (0, 1, 300, 2, 70000 // 2))
        unusual = next(unusual_sends(ALICE, NOBODY))
        self.alice.send(same)
        self.alice.send(mixed + same)
        self.alice.send(same + send(ALICE, BOB, b"between") + same)
        self.alice.send(same + unusual + same)
        whole = [(same, 5), (mixed + same, 10), (same, 5), (same, 5), (same, 5)]
        self.assertEqual([*whole, (unusual, 1), (same, 5)], runs)

    def test_packets_that_come_together_leave_together(self) -> None:
        """The adapter settles once for many reads: what they bring for one target is one write."""
        packets = [send(ALICE, BOB, b"a"), send(CAROL, BOB, b"c"), send(ALICE, BOB, b"a2")]
        self.alice.conversation.receive_data(packets[0], self.realm.now)
        self.carol.conversation.receive_data(packets[1], self.realm.now)
        self.alice.conversation.receive_data(packets[2], self.realm.now)
        self.bob.writes.clear()
        self.realm.settle()
        self.assertEqual([b"".join(packets)], self.bob.writes)

    def test_packets_and_bytes_are_counted(self) -> None:
        self.alice.send(send(ALICE, BOB, b"x") * 3, next(unusual_sends(ALICE, BOB)))
        counters = self.realm.core.counters
        self.assertEqual(4, counters.relayed_packets)
        self.assertEqual(len(self.bob.take_bytes()), counters.relayed_bytes)

    def test_a_lying_source_closes_the_liar_after_what_was_true(self) -> None:
        for lie in (send(BOB, CAROL, b"lie"), *unusual_sends(BOB, CAROL)):
            line = self.realm.join(NOBODY)
            truth = send(NOBODY, CAROL, b"true")
            line.send(truth + lie + truth)
            self.assertEqual([Code.WRONG_SOURCE], line.take_codes())
            self.assertEqual("closed", line.ended)
            self.assertEqual(truth, self.carol.take_bytes())
            line.disconnect()
        self.assertEqual([], self.bob.take())

    def test_what_is_wrong_in_a_send_packet_is_malformed(self) -> None:
        fields = [ID + b"\x02", SOURCE + NOBODY, TARGET + BOB, CONTENT + b"\xc4\x05hello"]
        not_an_id = bytes(16)
        for wrong in (
            b"\x84" + b"".join(fields[:3]) + CONTENT + b"\xa5hello",
            b"\x84" + b"".join(fields[:3]) + CONTENT + b"\xc0....",
            b"\x84" + b"".join(fields[:3]) + CONTENT + b"\x80....",
            b"\x84" + b"".join(fields[:2]) + TARGET + not_an_id + fields[3],
            b"\x84" + fields[0] + fields[1] + fields[3] + TARGET + not_an_id,
            b"\x84" + fields[0] + fields[1] + fields[3] + TARGET[:-1] + b"\x0f" + BOB[1:],
            b"\x83" + b"".join(fields[:3]),
            b"\x83" + fields[0] + fields[1] + fields[3],
            b"\x84" + b"".join(fields[:3]) + SOURCE + NOBODY,
            b"\x85" + b"".join(fields) + text("request") + b"\xa1x",
            b"\x85" + b"".join(fields) + fields[0],
            b"\xc1",
        ):
            line = self.realm.join(NOBODY)
            truth = send(NOBODY, BOB, b"true")
            line.send(truth + wrong)
            self.assertEqual([Code.MALFORMED], line.take_codes(), wrong)
            self.assertEqual("closed", line.ended)
            self.assertEqual(truth, self.bob.take_bytes())
            line.disconnect()

    def test_nothing_of_a_packet_is_repeated_in_what_is_said_about_it(self) -> None:
        secret = b"a-secret-from-the-content"
        for packet in (
            msgpack.packb({"packet_id": 2, secret.decode(): secret}),
            msgpack.packb({"packet_id": 99, "content": secret}),
            b"\x82" + ID + b"\x02" + CONTENT + b"\xd9\x19" + secret,
        ):
            line = self.realm.join(NOBODY)
            line.send(packet)
            self.assertEqual(1, len(decode(line.received)) - 1)
            self.assertNotIn(secret, line.received)
            line.disconnect()

    def test_an_unknown_packet_is_answered_and_the_connection_stays(self) -> None:
        for number in (15, 30, 32, 255):
            packet = {"packet_id": number, "content": {"a": [1, 2]}, "request": number + 1}
            self.alice.send(msgpack.packb(packet) + send(ALICE, BOB, b"next"))
            (error,) = self.alice.take_errors()
            self.assertEqual(
                (Code.UNKNOWN_PACKET, number, number + 1), (error.code, error.about, error.request)
            )
            self.assertEqual(send(ALICE, BOB, b"next"), self.bob.take_bytes())

    def test_a_request_that_is_none_is_not_repeated(self) -> None:
        for request in (None, True, -1, 1.5, "one", b"one", 2**64 - 1, [1], {"a": 1}):
            self.alice.send(msgpack.packb({"packet_id": 200, "request": request}))
            (error,) = self.alice.take_errors()
            self.assertEqual((Code.UNKNOWN_PACKET, None), (error.code, error.request))


Delivery = dict[bytes, bytes]


def outcome(pieces: Sequence[bytes]) -> tuple[Delivery, list[tuple[str, bytes | None, int]], str]:
    """Return what a sender's pieces led to: what each device got, what was dropped, and the end."""
    realm = MemoryRealm(Limits(packet_bytes=1024, hello_packet_bytes=256))
    alice, bob, carol = realm.join(ALICE), realm.join(BOB), realm.join(CAROL)
    alice.send(*pieces)
    drops: dict[tuple[str, bytes | None], int] = {}
    end = ""
    for packet in alice.take():
        if isinstance(packet, Error) and packet.dropped is not None:
            key = packet.code, packet.target_device
            drops[key] = drops.get(key, 0) + packet.dropped
        elif isinstance(packet, Error):
            end += packet.code + " "
    assert realm.core.queued_bytes == 0
    return (
        {BOB: bob.take_bytes(), CAROL: carol.take_bytes()},
        sorted((code, target or b"", number) for (code, target), number in drops.items()),
        end + alice.ended,
    )


def canonical(target: bytes, size: int) -> bytes:
    return send(ALICE, target, bytes(index & 0xFF for index in range(size)))


targets = st.sampled_from([BOB, CAROL, NOBODY])
sizes = st.integers(0, 8) | st.integers(0, 40) | st.sampled_from([255, 256, 257, 900])
good_packets = (
    st.builds(canonical, targets, sizes)
    | st.builds(canonical, targets, sizes)
    | st.builds(
        lambda packet, number: packet * number,
        st.builds(canonical, targets, sizes),
        st.integers(0, 40),
    )
    | st.builds(
        lambda target, index: list(unusual_sends(ALICE, target))[index],
        targets,
        st.integers(0, len(list(unusual_sends(ALICE, BOB))) - 1),
    )
    | st.sampled_from(
        [
            codec.encode(Hello(ALICE)),
            bytes(msgpack.packb({"packet_id": 77, "content": [1, {"a": b"b"}], "request": 3})),
            send(ALICE, BOB, b"x", request=9),
        ]
    )
)
bad_packets = st.sampled_from(
    [
        b"",
        b"",
        send(BOB, CAROL, b"a lie"),
        send(ALICE, BOB, b"to nobody that could be").replace(BOB, bytes(16)),
        canonical(BOB, 2000),
        canonical(BOB, 2000)[:SEND_HEAD_BYTES],
        b"\x84" + ID + b"\x02" + SOURCE + ALICE + TARGET + BOB + CONTENT + b"\xa3str",
        b"\x84" + ID + b"\x02" + SOURCE + ALICE + TARGET + BOB + CONTENT + b"\xc6\xff\xff\xff\xff",
        b"\xc1",
        b"\x81\xa1x\xc1",
        b"\xdf\xff\xff\xff\xff",
    ]
)


class SplitTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(
        packets=st.lists(good_packets, max_size=6),
        bad=bad_packets,
        cuts=st.lists(st.integers(0, 3000), max_size=12),
    )
    def test_any_split_of_a_stream_leads_to_the_same(
        self, packets: list[bytes], bad: bytes, cuts: list[int]
    ) -> None:
        stream = b"".join(packets) + bad
        places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
        pieces = [stream[begin:end] for begin, end in pairwise(places)]
        self.assertEqual(outcome([stream]), outcome(pieces))

    def test_a_conversation_cut_at_every_byte(self) -> None:
        """In three pieces whose middle is one byte; all forms and ends are there."""
        head = b"\x84" + ID + b"\x02" + SOURCE + ALICE + TARGET
        stream = b"".join(
            [
                *(canonical(target, size) for size in (0, 1, 2, 3, 300) for target in (BOB, CAROL)),
                canonical(BOB, 2) * 3,
                head + BOB + CONTENT + b"\xc6\x00\x00\x00\x01x",
                head + CAROL + CONTENT + b"\xc5\x00\x00",
                canonical(NOBODY, 1),
                *unusual_sends(ALICE, BOB),
                canonical(BOB, 5),
                codec.encode(Hello(ALICE)),
                msgpack.packb({"packet_id": 99}),
                send(BOB, ALICE, b"lie"),
            ]
        )
        whole = outcome([stream])
        self.assertTrue(whole[0][BOB] and whole[0][CAROL] and whole[1])
        self.assertEqual("unknown_packet wrong_source closed", whole[2])
        for cut in range(len(stream)):
            self.assertEqual(
                whole, outcome([stream[:cut], stream[cut : cut + 1], stream[cut + 1 :]])
            )
        self.assertEqual(whole, outcome([bytes([byte]) for byte in stream]))

    @given(packets=st.lists(good_packets, min_size=1, max_size=6), data=st.data())
    def test_a_cut_loses_the_rest_and_nothing_before(
        self, packets: list[bytes], data: st.DataObject
    ) -> None:
        """A connection that ends within a packet has delivered all packets that were whole."""
        stream = b"".join(packets)
        cut = data.draw(st.integers(0, len(stream)))
        realm = MemoryRealm()
        alice, bob = realm.join(ALICE), realm.join(BOB)
        alice.send(stream[:cut])
        alice.disconnect()
        got = bob.take_bytes()
        whole = outcome([stream])[0][BOB]
        self.assertTrue(whole.startswith(got))
        decoder = codec.Decoder()
        decoder.receive_data(got)
        while decoder.next_map() is not None:
            pass
        self.assertEqual(0, decoder.buffered_bytes)
        self.assertEqual((0, 1), (realm.core.queued_bytes, len(realm.core.conversations)))


PIECES_OF_PACKETS = [
    *(ID, SOURCE, TARGET, CONTENT, bytes(ALICE), bytes(BOB), b"\x02", b"\x00", b"\xc4\x10"),
    *(b"\x84" + ID, b"\x84" + ID + b"\x02" + SOURCE + ALICE, b"\x84", b"\x85", b"\xde\x00\x04"),
    *(text("request"), text("device_id"), text("version"), b"\x82", b"\x01"),
    *(b"\xc4", b"\xc5", b"\xc6", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc1"),
    codec.encode(Hello(ALICE)),
    canonical(BOB, 3),
    canonical(BOB, 300),
]


class AnyBytesTests(SynchronousTestCase):
    """Whatever comes, the realm answers with packets, and keeps or closes; it never fails."""

    @settings(max_examples=300)
    @given(
        pieces=st.lists(
            st.sampled_from(PIECES_OF_PACKETS)
            | st.binary(max_size=20)
            | st.lists(st.sampled_from(PIECES_OF_PACKETS), max_size=8).map(b"".join),
            max_size=12,
        ),
        greet=st.booleans(),
    )
    @example(pieces=[b"\x81" * 5000], greet=True)
    @example(pieces=[b"\x81\xa1k" + b"\x91" * 3000], greet=False)
    @example(pieces=[b"\x81\x81\x01\x02\x03"], greet=True)
    @example(pieces=[b"\x81\x90\x03"], greet=True)
    @example(pieces=[b"\x81\xa1\xff\x03"], greet=True)
    @example(pieces=[b"\x81\xa9packet_id\xcf" + b"\xff" * 8], greet=True)
    @example(pieces=[b"\x81\xa9packet_id\xcb\x7f\xf8" + bytes(6)], greet=True)
    def test_any_bytes_are_answered_or_refused(self, pieces: list[bytes], greet: bool) -> None:
        realm = MemoryRealm(SMALL)
        bob = realm.join(BOB)
        line = realm.join(ALICE) if greet else realm.connect(ALICE)
        line.send(*pieces)
        for packet in line.take():
            self.assertIsInstance(packet, Packet)
        self.assertIn(line.ended, ("", "closed"))
        self.assertEqual(bool(line.ended), line.conversation.state is State.CLOSED)
        line.disconnect()
        decode(bob.take_bytes())
        self.assertEqual("", bob.ended)
        self.assertEqual(0, realm.core.queued_bytes)

    @given(data=st.binary(min_size=1, max_size=400))
    def test_random_bytes_disturb_nobody(self, data: bytes) -> None:
        realm = MemoryRealm(SMALL)
        bob, carol = realm.join(BOB), realm.join(CAROL)
        line = realm.join(ALICE)
        line.send(data)
        bob.send(send(BOB, CAROL, b"hello"))
        self.assertEqual(send(BOB, CAROL, b"hello"), carol.take_bytes())


class RefusedDeliveryTests(ConversationTestCase):
    limits = SMALL

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.realm.join(ALICE)
        self.bob = self.realm.join(BOB)
        self.carol = self.realm.join(CAROL)

    def test_an_absent_target_is_said_with_the_number_of_packets(self) -> None:
        self.alice.send(send(ALICE, NOBODY, b"x") * 7 + send(ALICE, BOB, b"y"))
        (error,) = self.alice.take_errors()
        self.assertEqual(
            (Code.TARGET_ABSENT, NOBODY, 7, 2),
            (error.code, error.target_device, error.dropped, error.about),
        )
        self.assertEqual(7, self.realm.dropped(Code.TARGET_ABSENT))
        self.assertEqual(send(ALICE, BOB, b"y"), self.bob.take_bytes())
        self.assertEqual("", self.alice.ended)

    def test_a_target_is_absent_until_hello_and_after_it_has_gone(self) -> None:
        late = self.realm.connect(NOBODY)
        self.alice.send(send(ALICE, NOBODY, b"x"))
        self.assertEqual([Code.TARGET_ABSENT], self.alice.take_codes())
        late.send(Hello(NOBODY))
        self.alice.send(send(ALICE, NOBODY, b"x"))
        self.assertEqual([], self.alice.take_codes())
        late.disconnect()
        self.alice.send(send(ALICE, NOBODY, b"x"))
        self.assertEqual([Code.TARGET_ABSENT], self.alice.take_codes())

    def test_many_absent_targets_are_told_in_few_words(self) -> None:
        """A blocked sender that names ever new targets makes the realm remember only so many."""
        self.alice.stop_reading()
        self.bob.send(send(BOB, ALICE, b"fill"))
        number = 3000
        for index in range(number):
            self.alice.send(send(ALICE, DeviceID.of_key(b"%d" % index), b"x"))
        self.alice.read()
        errors = [packet for packet in self.alice.take() if isinstance(packet, Error)]
        self.assertLess(len(errors), 80)
        self.assertEqual(number, sum(error.dropped or 0 for error in errors))
        self.assertEqual(1, len([error for error in errors if error.target_device is None]))

    def test_a_full_queue_is_said_with_counts_and_only_it_is_affected(self) -> None:
        packet = send(ALICE, BOB, bytes(100))
        self.bob.stop_reading()
        self.alice.send(packet)  # This one the kernel has taken.
        sent = 0
        while sent * len(packet) <= SMALL.queue_bytes - len(packet):
            self.alice.send(packet)
            sent += 1
        self.assertEqual([], self.alice.take_codes())
        self.alice.send(packet, packet, packet + send(ALICE, CAROL, b"quick"))
        errors = self.alice.take_errors()
        self.assertEqual([Code.QUEUE_FULL] * 3, [error.code for error in errors])
        self.assertEqual([1] * 3, [error.dropped for error in errors])
        self.assertEqual({BOB}, {error.target_device for error in errors})
        self.assertEqual(3, self.realm.dropped(Code.QUEUE_FULL))
        self.assertEqual(send(ALICE, CAROL, b"quick"), self.carol.take_bytes())
        self.carol.send(send(CAROL, ALICE, b"undisturbed"))
        self.assertEqual(send(CAROL, ALICE, b"undisturbed"), self.alice.take_bytes())
        self.bob.read()
        self.assertEqual(packet * (sent + 1), self.bob.take_bytes())
        self.alice.send(packet)
        self.assertEqual(packet, self.bob.take_bytes())
        self.assertEqual([], self.alice.take_codes())

    def test_the_bound_is_exact(self) -> None:
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"taken by the kernel"))
        piece = send(ALICE, BOB, bytes(1024 - SEND_HEAD_BYTES - 1))
        self.assertEqual(1024, len(piece))
        self.alice.send(*[piece] * (SMALL.queue_bytes // 1024))
        self.assertEqual([], self.alice.take_codes())
        self.assertEqual(SMALL.queue_bytes, self.realm.core.queued_bytes)
        self.alice.send(send(ALICE, BOB, b""))
        self.assertEqual([Code.QUEUE_FULL], self.alice.take_codes())

    def test_all_queues_together_are_bounded(self) -> None:
        piece = send(ALICE, BOB, bytes(800))
        slow = [self.realm.join(DeviceID.of_key(b"slow %d" % number)) for number in range(5)]
        for line in slow:
            line.stop_reading()
            assert line.device_id is not None
            for _ in range(50):
                self.alice.send(piece.replace(BOB, line.device_id))
                self.assertLessEqual(self.realm.core.queued_bytes, SMALL.all_queues_bytes)
        self.assertGreater(self.realm.core.queued_bytes, SMALL.all_queues_bytes - len(piece))
        self.assertGreater(self.realm.dropped(Code.QUEUE_FULL), 0)
        self.assertEqual({Code.QUEUE_FULL}, set(self.alice.take_codes()))
        for line in slow:
            line.read()
        self.assertEqual(0, self.realm.core.queued_bytes)

    def test_what_a_leaving_target_has_not_read_is_told_to_each_sender(self) -> None:
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"taken by the kernel"))
        self.alice.send(send(ALICE, BOB, b"a") * 3)
        self.carol.send(send(CAROL, BOB, b"c") * 2, send(CAROL, BOB, b"c2"))
        self.bob.disconnect()
        for line, dropped in ((self.alice, 3), (self.carol, 3)):
            (error,) = line.take_errors()
            self.assertEqual(
                (Code.UNDELIVERED, BOB, dropped, 2),
                (error.code, error.target_device, error.dropped, error.about),
            )
        self.assertEqual(6, self.realm.dropped(Code.UNDELIVERED))
        self.assertEqual(0, self.realm.core.queued_bytes)

    def test_a_closed_target_gets_nothing_after_the_last_word(self) -> None:
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"taken by the kernel"), send(ALICE, BOB, b"waits") * 2)
        self.bob.send(b"\xc1")
        (error,) = self.alice.take_errors()
        self.assertEqual((Code.UNDELIVERED, 2), (error.code, error.dropped))
        self.assertEqual(0, self.realm.core.queued_bytes)
        self.bob.read()
        self.assertEqual(1, self.bob.take_bytes().count(b"malformed"))
        self.assertEqual("closed", self.bob.ended)

    def test_drops_are_told_before_the_last_word(self) -> None:
        self.alice.send(send(ALICE, NOBODY, b"x") * 2 + b"\xc1")
        self.assertEqual([Code.TARGET_ABSENT, Code.MALFORMED], self.alice.take_codes())

    def test_control_goes_before_data(self) -> None:
        self.bob.stop_reading()
        data = send(ALICE, BOB, b"data")
        self.alice.send(*[data] * 3)
        self.bob.send(Hello(BOB, request=1))
        self.bob.read()
        first, *others = self.bob.take()
        self.assertEqual(data, codec.encode(first))  # This one the kernel had taken.
        self.assertIsInstance(others[0], BackHeartbeat)
        self.assertEqual([data, data], [codec.encode(packet) for packet in others[1:]])

    def test_who_leaves_is_not_told_what_was_lost(self) -> None:
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"x"), send(ALICE, BOB, b"x"))
        self.alice.disconnect()
        self.bob.disconnect()
        self.assertEqual(0, self.realm.core.queued_bytes)
        self.assertEqual([], self.alice.take())


class StallTests(ConversationTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.realm.join(ALICE)
        self.bob = self.realm.join(BOB)

    def block(self) -> None:
        """Make bob's connection take no more."""
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"x"), send(ALICE, BOB, b"x"))
        self.assertTrue(self.bob.conversation.is_blocked)

    def advance(self, seconds: float) -> None:
        """Let time go by in which nobody is silent."""
        for line in (self.alice, self.bob):
            line.conversation.heard_at = self.realm.now
        self.realm.advance(seconds)

    def test_who_does_not_read_is_cut_off_in_time_and_not_before(self) -> None:
        self.block()
        self.advance(LIMITS.stall_seconds - 0.01)
        self.assertEqual("", self.bob.ended)
        self.advance(0.02)
        self.assertEqual("aborted", self.bob.ended)
        self.assertEqual(Code.STALLED, self.bob.conversation.closed_for)
        self.assertEqual(1, self.realm.refused(Code.STALLED))
        self.assertEqual([Code.UNDELIVERED], self.alice.take_codes())
        self.alice.send(send(ALICE, BOB, b"x"))
        self.assertEqual([Code.TARGET_ABSENT], self.alice.take_codes())

    def test_who_reads_now_and_then_is_not_cut_off(self) -> None:
        for _ in range(5):
            self.block()
            self.advance(LIMITS.stall_seconds * 0.9)
            self.bob.read()
        self.assertEqual("", self.bob.ended)
        self.assertEqual(10, len(self.bob.take()))

    def test_time_counts_from_the_last_time_that_it_was_blocked(self) -> None:
        self.block()
        self.advance(LIMITS.stall_seconds * 0.9)
        self.bob.read()
        self.block()
        self.advance(LIMITS.stall_seconds * 0.9)
        self.assertEqual("", self.bob.ended)
        self.advance(LIMITS.stall_seconds * 0.2)
        self.assertEqual("aborted", self.bob.ended)

    def test_who_reads_less_than_the_connection_needs_to_go_on_is_not_cut_off(self) -> None:
        """A slow link acknowledges bytes long before the kernel takes new ones."""
        self.block()
        for _ in range(5):
            self.advance(LIMITS.stall_seconds * 0.9)
            self.bob.progress += 1
        self.assertEqual("", self.bob.ended)
        self.advance(LIMITS.stall_seconds * 2.1)
        self.assertEqual("aborted", self.bob.ended)

    def test_the_watch_goes_on_after_a_pause(self) -> None:
        self.block()
        self.bob.read()
        self.advance(LIMITS.stall_seconds * 1.5)  # The watch has found nothing, and has ended.
        self.block()
        self.advance(LIMITS.stall_seconds + 0.01)
        self.assertEqual("aborted", self.bob.ended)

    def test_who_is_closed_and_does_not_read_the_reason_is_cut_off(self) -> None:
        self.block()
        self.bob.send(b"\xc1")
        self.assertEqual("", self.bob.ended)
        self.advance(LIMITS.stall_seconds + 0.01)
        self.assertEqual("aborted", self.bob.ended)
        self.assertEqual(Code.MALFORMED, self.bob.conversation.closed_for)
        self.assertEqual(0, self.realm.refused(Code.STALLED))

    def test_nobody_looks_for_who_has_gone(self) -> None:
        self.block()
        self.bob.disconnect()
        self.advance(LIMITS.stall_seconds + 1)
        self.assertEqual("lost", self.bob.ended)


class FloodTests(ConversationTestCase):
    """Who asks and does not read the answers makes nothing grow."""

    def setUp(self) -> None:
        super().setUp()
        self.bob = self.realm.join(BOB)
        self.alice = self.realm.join(ALICE)
        self.alice.stop_reading()
        self.bob.send(send(BOB, ALICE, b"fill"))

    def flood(self, packet: bytes, seconds: float = 0.0) -> None:
        """Send a packet very often; assert that what the realm keeps is bounded."""
        tracemalloc.start()
        pieces = [packet * (4096 // len(packet))] * 10
        for _ in range(60):
            self.alice.send(*pieces)
        now_bytes, _peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(now_bytes, 400_000)

    def test_unknown_packets(self) -> None:
        self.flood(msgpack.packb({"packet_id": 99}))
        self.assertEqual(Code.STALLED, self.alice.conversation.closed_for)
        self.assertIsNone(self.realm.switchboard.route(ALICE))
        self.alice.read()
        *_, last = self.alice.take()
        assert isinstance(last, Error)
        self.assertEqual(Code.STALLED, last.code)
        self.assertEqual("closed", self.alice.ended)

    def test_heartbeats(self) -> None:
        self.flood(codec.encode(Hello(ALICE)))
        self.assertEqual(Code.STALLED, self.alice.conversation.closed_for)

    def test_packets_to_nobody(self) -> None:
        self.flood(send(ALICE, NOBODY, b""))
        self.assertEqual("", self.alice.ended)

    def test_packets_to_itself(self) -> None:
        self.realm.core.limits = Limits(queue_bytes=131072)
        self.flood(send(ALICE, ALICE, bytes(1000)))
        self.assertEqual("", self.alice.ended)

    def test_who_reads_all_answers_may_ask_on(self) -> None:
        self.alice.read()
        for _ in range(1000):
            self.alice.send(msgpack.packb({"packet_id": 99}) * 20)
        self.assertEqual("", self.alice.ended)
        self.assertEqual(20_001, len(self.alice.take()))

    def test_a_flood_disturbs_nobody_else(self) -> None:
        carol = self.realm.join(CAROL)
        self.flood(msgpack.packb({"packet_id": 99}))
        self.bob.send(send(BOB, CAROL, b"hello"))
        self.assertEqual(send(BOB, CAROL, b"hello"), carol.take_bytes())


class MemoryTests(ConversationTestCase):
    def held_bytes(self, line: Line, pieces: Sequence[bytes]) -> int:
        """Return how many bytes more are in use after a line has sent pieces."""
        tracemalloc.start()
        line.send(*pieces)
        now_bytes, _peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now_bytes

    def test_a_packet_that_is_never_finished_costs_what_it_is_long(self) -> None:
        """Arrays that promise much, and many small values: they were decoded as they came."""
        for stream, greet in (
            (b"\x81\xa1k" + b"\xdc\x10\x00" * 30, False),
            (b"\x81\xa1k" + b"\xdc\x10\x00" * 30, True),
            (b"\x81\xa1k\xdc\x10\x00" + b"\xdc\x0f\xff" * 10 + b"\x90" * 4000, False),
            (b"\x81\xa1k\xdc\x10\x00" + (b"\xdc\x0f\xff" + b"\x90" * 4095) * 15, True),
            (send(ALICE, BOB, bytes(65000))[:-1], True),
            (codec.encode(Hello(ALICE))[:-1], False),
        ):
            line = self.realm.join(ALICE) if greet else self.realm.connect(ALICE)
            for size in (1, 7, 1000, 16384):
                pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
                held = self.held_bytes(line, [*pieces[:500], b"".join(pieces[500:])])
                self.assertLess(held, len(stream) * 1.3 + 4096)
                line.disconnect()
                line = self.realm.join(ALICE) if greet else self.realm.connect(ALICE)
            line.disconnect()

    def test_a_stream_of_small_packets_is_cut_in_time_that_grows_with_its_length(self) -> None:
        """Each packet of an unusual form once copied all that stood behind it."""
        copied = 0

        class CountingBytes(bytes):
            def __getitem__(self, key: object) -> object:  # type: ignore[override]
                nonlocal copied
                found = super().__getitem__(key)  # type: ignore[call-overload]
                copied += len(found) if isinstance(found, bytes) else 0
                return found

        line = self.realm.join(ALICE)
        stream = CountingBytes(msgpack.packb({"packet_id": 99}) * 500)
        line.conversation.receive_data(stream, self.realm.now)
        self.assertLessEqual(copied, 2 * len(stream))

    def test_connections_that_have_ended_leave_nothing(self) -> None:
        for reason in range(4):
            for _ in range(200):
                line = self.realm.connect(ALICE)
                if reason:
                    line.send(Hello(ALICE))
                if reason > 1:
                    line.send(send(ALICE, NOBODY, b"x")[:-1])
                if reason > 2:
                    line.stop_reading()
                    line.send(Hello(ALICE), Hello(ALICE))
                line.disconnect()
        self.assertEqual(0, len(self.realm.core.conversations))
        self.assertEqual(0, len(self.realm.switchboard))
        self.realm.advance(LIMITS.silence_seconds + LIMITS.hello_seconds)
        self.assertIsNone(self.realm.core.next_deadline())
        self.assertEqual(0, self.realm.core.queued_bytes)

    def test_a_connections_deadlines_do_not_multiply(self) -> None:
        """However long it lives and however often it is blocked, it stands in the list thrice."""
        alice, bob = self.realm.join(ALICE), self.realm.join(BOB)
        for _ in range(200):
            bob.stop_reading()
            alice.send(send(ALICE, BOB, b"x"), Hello(ALICE))
            bob.read()
            bob.send(Hello(BOB))
            self.realm.advance(1.0)
            self.assertLessEqual(len(self.realm.core.deadlines), 6)


class ReplacementTests(ConversationTestCase):
    def test_the_newest_connection_wins_and_the_older_is_told(self) -> None:
        bob = self.realm.join(BOB)
        older = self.realm.join(ALICE)
        newer = self.realm.join(ALICE)
        error = self.assert_closed(older, Code.REPLACED)
        self.assertIsNotNone(error.retry_after)
        bob.send(send(BOB, ALICE, b"for the newer"))
        self.assertEqual(send(BOB, ALICE, b"for the newer"), newer.take_bytes())
        older.disconnect()
        bob.send(send(BOB, ALICE, b"still here"))
        self.assertEqual(send(BOB, ALICE, b"still here"), newer.take_bytes())
        self.assertEqual([], bob.take())

    def test_it_wins_with_hello_and_not_by_connecting(self) -> None:
        older = self.realm.join(ALICE)
        newer = self.realm.connect(ALICE)
        self.assertEqual("", older.ended)
        newer.send(Hello(BOB))
        self.assertEqual("closed", newer.ended)
        self.assertEqual("", older.ended)
        self.assertIs(older.conversation, self.realm.switchboard.route(ALICE))

    def test_what_the_older_has_not_read_is_told_to_its_sender(self) -> None:
        bob = self.realm.join(BOB)
        older = self.realm.join(ALICE)
        older.stop_reading()
        bob.send(send(BOB, ALICE, b"kernel"), send(BOB, ALICE, b"waits") * 3)
        self.realm.join(ALICE)
        (error,) = bob.take_errors()
        self.assertEqual((Code.UNDELIVERED, 3), (error.code, error.dropped))
        self.assertEqual(0, self.realm.core.queued_bytes)

    def test_an_older_heartbeat_does_not_win_it_back(self) -> None:
        older = self.realm.join(ALICE)
        newer = self.realm.join(ALICE)
        older.send(Hello(ALICE))
        self.assertIs(newer.conversation, self.realm.switchboard.route(ALICE))

    def test_machines_that_fight_over_an_identity_are_both_told_and_counted(self) -> None:
        lines = [self.realm.join(ALICE)]
        for number in range(1, CONFLICT_REPLACEMENTS + 3):
            self.realm.advance(1.0)
            newest = self.realm.connect(ALICE)
            newest.send(Hello(ALICE))
            answer, *told = newest.take()
            self.assertIsInstance(answer, BackHeartbeat)
            older = lines[-1].take_codes()
            if number < CONFLICT_REPLACEMENTS:
                self.assertEqual(([], [Code.REPLACED]), (told, older))
            else:
                self.assertEqual(
                    [Code.IDENTITY_CONFLICT],
                    [packet.code for packet in told if isinstance(packet, Error)],
                )
                self.assertEqual([Code.IDENTITY_CONFLICT, Code.REPLACED], older)
            self.assertEqual("closed", lines[-1].ended)
            lines.append(newest)
        self.assertEqual(3, self.realm.core.counters.identity_conflicts)
        self.assertEqual("", lines[-1].ended)

    def test_who_comes_back_now_and_then_is_no_clone(self) -> None:
        for _ in range(3 * CONFLICT_REPLACEMENTS):
            self.realm.join(ALICE)
            self.realm.advance(CONFLICT_WINDOW_SECONDS / (CONFLICT_REPLACEMENTS - 1) + 1)
        self.assertEqual(0, self.realm.core.counters.identity_conflicts)

    def test_the_memory_of_replacements_is_bounded(self) -> None:
        line = self.realm.join(ALICE)
        for _ in range(50):
            for _ in range(3):
                line = self.realm.join_again(line)
            self.realm.advance(CONFLICT_WINDOW_SECONDS / 4)
        self.assertLess(len(line.conversation.replaced(self.realm.now)), 20)


class RestartTests(ConversationTestCase):
    def test_everybody_is_told_when_to_come_back_and_not_all_at_once(self) -> None:
        fractions = iter(range(1000))
        self.realm.core.random_fraction = lambda: next(fractions) / 1000
        lines = [self.realm.join(DeviceID.of_key(b"%d" % number)) for number in range(400)]
        awaiting = self.realm.connect(ALICE)
        self.realm.core.announce_restart()
        self.realm.settle()
        waits = set()
        for line in [*lines, awaiting]:
            (error,) = line.take_errors()
            self.assertEqual(Code.RESTARTING, error.code)
            assert error.retry_after is not None
            self.assertGreater(error.retry_after, 0)
            waits.add(error.retry_after)
            self.assertEqual("closed", line.ended)
        self.assertGreater(len(waits), 100)
        self.assertGreater(max(waits), 1.0)
        self.assertLess(max(waits), 10.0)
        self.assertEqual(0, len(self.realm.switchboard))

    def test_what_was_not_delivered_is_told_to_who_is_still_there(self) -> None:
        alice, bob = self.realm.join(ALICE), self.realm.join(BOB)
        bob.stop_reading()
        alice.send(send(ALICE, BOB, b"kernel"), send(ALICE, BOB, b"waits"))
        self.realm.core.announce_restart()
        self.realm.settle()
        self.assertEqual(Code.RESTARTING, alice.take_codes()[-1])
        self.assertEqual(0, self.realm.core.queued_bytes)


class SwitchboardContractTests(SynchronousTestCase):
    def test_the_realm_asks_nothing_else_of_a_switchboard(self) -> None:
        """Another engine has three methods to write, and not the table of this one."""

        class Elsewhere:
            def __init__(self) -> None:
                self.inner = MemorySwitchboard()

            def arrive(self, device_id: bytes, presence: object) -> object:
                return self.inner.arrive(device_id, presence)  # type: ignore[arg-type]

            def leave(self, device_id: bytes, presence: object) -> None:
                self.inner.leave(device_id, presence)  # type: ignore[arg-type]

            def route(self, device_id: bytes) -> object:
                return self.inner.route(device_id)

        realm = MemoryRealm()
        realm.core.switchboard = Elsewhere()  # type: ignore[assignment]
        alice, bob = realm.join(ALICE), realm.join(BOB)
        alice.send(send(ALICE, BOB, b"x"))
        self.assertEqual(send(ALICE, BOB, b"x"), bob.take_bytes())
        newer = realm.join(BOB)
        self.assertEqual([Code.REPLACED], bob.take_codes())
        newer.disconnect()
        alice.send(send(ALICE, BOB, b"x"))
        self.assertEqual([Code.TARGET_ABSENT], alice.take_codes())
