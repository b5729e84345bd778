"""Bad input, as raw bytes over real connections to a realm that is a real process.

Each gets its error code and closes no more than it must. While each of these tests runs, two
bystanders talk to each other through the same realm; they must not notice anything.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgpack
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import TestCase

from abst import codec
from abst.errors import Code
from abst.packets import REALM_TO_DEVICE, BackHeartbeat, Error, Hello, Packet, Send, parse
from tests.certificates import write_certificate
from tests.integration.raw_client import (
    PATIENCE_SECONDS,
    Bystanders,
    RawDevice,
    client_context,
    client_hello,
    identities,
    join,
)
from tests.integration.realm_process import LOOPBACK, RealmProcess

ALICE, BOB, NOBODY, *OTHERS = identities(100)

QUEUE_BYTES = 262_144
LIMITS: dict[str, float] = {
    "queue_bytes": QUEUE_BYTES,
    "all_queues_bytes": 4 * QUEUE_BYTES,
    "connections": 300,
}
SHORT_SECONDS = 1.0

MEGABYTE = 1024 * 1024
SLOWEST_SECONDS = 2.0
"""What a round of the bystanders may take on a busy machine; by itself it takes a millisecond."""


class BadInputTestCase(TestCase):
    """One realm and one pair of bystanders for each test, and the look at both when it ends."""

    limits: ClassVar[dict[str, float]] = LIMITS

    def setUp(self) -> None:
        limits = "\n".join(f"{name} = {value}" for name, value in self.limits.items())
        config = f'listen = ["{LOOPBACK}"]\n[limits]\n{limits}\n'
        self.realm = self.start_realm(config)
        self.port = self.realm.port
        self.bystanders = Bystanders(self.port)
        # Cleanups run before tearDown, the last first: this one after all connections are closed.
        self.addCleanup(self.bystanders.stop)
        self.addCleanup(self.check_that_nothing_was_disturbed)
        self.bystanders.check()
        self.open_files = self.realm.open_files()

    def start_realm(self, config: str) -> RealmProcess:
        """Return a realm that takes whoever these tests have."""
        realm = RealmProcess(Path(self.mktemp()), config=config)
        self.addCleanup(realm.kill)
        return realm

    def check_that_nothing_was_disturbed(self) -> None:
        self.bystanders.check()
        self.assertLess(self.bystanders.slowest_seconds, SLOWEST_SECONDS)
        self.bystanders.stop()
        self.assert_it_rests()
        self.assertIn(self.realm.terminate(), (0, -15))
        for word in ("Traceback", "Unhandled", "failed", "Error:"):
            self.assertNotIn(word, self.realm.output.text)

    def assert_it_rests(self) -> None:
        """Assert that a realm with nothing to do computes nothing: no descriptor keeps it awake."""
        begun = self.realm.cpu_seconds()
        threading.Event().wait(0.15)
        self.assertLess(self.realm.cpu_seconds() - begun, 0.1)

    def device(self, identity: object = ALICE, context: ssl.SSLContext | None = None) -> RawDevice:
        """Return a connection that has said nothing; it is closed with the test's end."""
        device = RawDevice(self.port, identity, context)  # type: ignore[arg-type]
        self.addCleanup(device.close)
        return device

    def join(self, identity: object = ALICE) -> RawDevice:
        """Return a connection on which Hello has been answered."""
        device = join(self.port, identity)  # type: ignore[arg-type]
        self.addCleanup(device.close)
        return device

    def plain(self) -> socket.socket:
        """Return a connection without TLS."""
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
        self.addCleanup(connection.close)
        return connection

    def assert_only_bystanders_are_here(self) -> None:
        """Assert that no socket is left open, and that a device that arrives now is the third."""
        pause = threading.Event()
        end = time.monotonic() + PATIENCE_SECONDS
        while self.realm.open_files() != self.open_files and time.monotonic() < end:
            pause.wait(0.01)  # Nothing tells when another process closes a file.
        self.assertEqual(self.open_files, self.realm.open_files())
        with join(self.port, NOBODY) as device:
            short = device.device_id[:4].hex()
            self.assertIn("3 in all", self.realm.log_line("is here", short))


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


class BeforeTlsTests(BadInputTestCase):
    def test_plain_text_is_told_in_the_language_that_it_speaks(self) -> None:
        http = self.plain()
        http.sendall(b"GET / HTTP/1.1\r\nHost: realm.example.org\r\n\r\n")
        self.assertTrue(read_all(http).startswith(b"HTTP/1.1 400 "))
        for text in (b"hello\n", codec.encode(Hello(bytes(ALICE.device_id))), b"\0", b"\x17\x03"):
            connection = self.plain()
            connection.sendall(text)
            error = parse(msgpack.unpackb(read_all(connection)), REALM_TO_DEVICE)
            assert isinstance(error, Error)
            self.assertEqual(Code.TLS_REQUIRED, error.code)
        self.assert_only_bystanders_are_here()

    def test_bytes_that_only_begin_as_tls(self) -> None:
        chance = random.Random(1)
        for size in (1, 5, 100, 5000, 20_000):
            connection = self.plain()
            connection.sendall(b"\x16" + chance.randbytes(size))
            connection.shutdown(socket.SHUT_WR)
            try:
                read_all(connection)
            except ConnectionResetError:
                pass
        self.assert_only_bystanders_are_here()

    def test_a_handshake_cut_at_every_byte(self) -> None:
        hello = client_hello()
        for cut in range(0, len(hello), 7):
            connection = self.plain()
            connection.sendall(hello[:cut])
            connection.close()
        self.assert_only_bystanders_are_here()


class HandshakeTests(BadInputTestCase):
    def refused_with_alert(self, context: ssl.SSLContext) -> str:
        """Return the alert that a context's connection gets, in words."""

        def connect_and_read() -> None:
            # In TLS 1.3 the client is done before the server has looked at its certificate.
            with RawDevice(self.port, ALICE, context) as device:
                device.receive()

        error = self.assertRaises(ssl.SSLError, connect_and_read)
        return str(error).lower().replace("_", " ")

    def test_no_client_certificate(self) -> None:
        alert = self.refused_with_alert(client_context(None))
        self.assertIn("certificate required", alert)
        self.assert_only_bystanders_are_here()

    def test_tls_1_2(self) -> None:
        alert = self.refused_with_alert(client_context(ALICE, newest=ssl.TLSVersion.TLSv1_2))
        self.assertIn("protocol version", alert)

    def test_a_certificate_of_another_kind(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        context = client_context(None)
        context.load_cert_chain(*write_certificate(folder, ec.generate_private_key(ec.SECP256R1())))
        self.assertIn("alert", self.refused_with_alert(context))
        self.assert_only_bystanders_are_here()

    def test_another_protocol_by_alpn(self) -> None:
        self.assertIn(
            "no application protocol", self.refused_with_alert(client_context(ALICE, alpn="h2"))
        )

    def test_no_protocol_by_alpn(self) -> None:
        device = self.device(context=client_context(ALICE, alpn=None))
        (error,) = device.rest()
        assert isinstance(error, Error)
        self.assertEqual(Code.TLS_REQUIRED, error.code)


class HelloTests(BadInputTestCase):
    def assert_refused(self, code: Code, *pieces: bytes | Packet) -> None:
        """Assert that a new connection that sends pieces gets one error, and is closed."""
        device = self.device()
        device.send(*pieces)
        (error,) = device.rest()
        assert isinstance(error, Error)
        self.assertEqual(code, error.code)
        device.close()

    def test_another_devices_id(self) -> None:
        bob = self.join(BOB)
        self.assert_refused(Code.WRONG_DEVICE, Hello(bob.device_id))
        bob.send(Hello(bob.device_id))
        self.assertIsInstance(bob.receive(), BackHeartbeat)

    def test_anything_before_hello(self) -> None:
        bob = self.join(BOB)
        alice = bytes(ALICE.device_id)
        for packet in (Send(alice, bob.device_id, b"x"), Send(alice, bob.device_id, b"x", 7)):
            self.assert_refused(Code.HELLO_FIRST, packet)
        for number in (3, 31, 200):
            self.assert_refused(Code.HELLO_FIRST, msgpack.packb({"packet_id": number}))
        self.assert_refused(Code.WRONG_VERSION, Hello(alice, version=0))
        bob.send_to(bob.device_id, b"the only one")
        self.assertEqual(Send(bob.device_id, bob.device_id, b"the only one"), bob.receive())

    def test_bytes_that_are_no_hello(self) -> None:
        for data, code in (
            (b"\xc1", Code.MALFORMED),
            (b"GET / HTTP/1.1\r\n", Code.MALFORMED),
            (msgpack.packb([1, 2]), Code.MALFORMED),
            (msgpack.packb({"packet_id": 0, "content": 7}), Code.MALFORMED),
            (b"\x81\xa1k" + b"\x91" * 100, Code.MALFORMED),
            (b"\xdf\xff\xff\xff\xff", Code.TOO_LARGE),
            (b"\x81\xa1k\xc6\xff\xff\xff\xff", Code.TOO_LARGE),
            (b"\x81\xa1k\xc5\x10\x00", Code.TOO_LARGE),
            (b"\x81\xa1k\xdd\x7f\xff\xff\xff", Code.TOO_LARGE),
        ):
            self.assert_refused(code, data)


class PacketTests(BadInputTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.join(ALICE), self.join(BOB)

    def assert_refused(self, code: Code, *pieces: bytes | Packet) -> None:
        """Assert that alice is refused and closed, and what she sent before has arrived."""
        self.alice.send_to(self.bob.device_id, b"good")
        self.alice.send(*pieces)
        (error,) = self.alice.rest()
        assert isinstance(error, Error)
        self.assertEqual(code, error.code)
        self.assertEqual(
            Send(self.alice.device_id, self.bob.device_id, b"good"), self.bob.receive()
        )
        self.alice.close()
        self.alice = self.join(ALICE)

    def test_a_lying_source(self) -> None:
        lie = Send(bytes(NOBODY.device_id), self.bob.device_id, b"lie")
        self.assert_refused(Code.WRONG_SOURCE, lie)
        self.assert_refused(Code.WRONG_SOURCE, codec.encode(lie) * 3)
        unusual = Send(bytes(NOBODY.device_id), self.bob.device_id, b"lie", request=1)
        self.assert_refused(Code.WRONG_SOURCE, unusual)
        # And a claim to be the target itself.
        self.assert_refused(Code.WRONG_SOURCE, Send(self.bob.device_id, self.bob.device_id, b"lie"))
        self.assertIsInstance(self.answer_of(self.bob), BackHeartbeat)

    def answer_of(self, device: RawDevice) -> Packet:
        """Return what a device gets for a heartbeat: the next packet that it is sent."""
        device.send(Hello(device.device_id))
        return device.receive()

    def test_oversized_and_huge_lengths(self) -> None:
        head = codec.encode(Send(self.alice.device_id, self.bob.device_id, b""))[:-2]
        for data in (
            head + b"\xc6\xff\xff\xff\xff",
            head + b"\xc6\x00\x01\x00\x00",
            head + b"\xc5\xff\xff",
            b"\x81\xa1k\xc6\x00\x01\x00\x00",
            b"\x81\xa1k\xdb\xff\xff\xff\xff",
            b"\x81\xa1k\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
        ):
            self.assert_refused(Code.TOO_LARGE, data)

    def test_malformed_and_nested(self) -> None:
        head = codec.encode(Send(self.alice.device_id, self.bob.device_id, b""))[:-2]
        for data in (
            b"\xc1",
            b"\x90",
            head + b"\xa3abc",
            head + b"\xc0\xc0\xc0\xc0\xc0",
            msgpack.packb({"packet_id": 2}),
            msgpack.packb({"packet_id": -1}),
            msgpack.packb({"packet_id": 256}),
            msgpack.packb({"packet_id": "2"}),
            b"\x82\xa9packet_id\x02\xa9packet_id\x02",
            b"\x81\xa1k" + b"\x91" * 40 + b"\xc0",
            b"\x81\xa1k" + b"\x81\xa1k" * 40 + b"\xc0",
            b"\x82\xa9packet_id\x02\xa1k\xa2\xff\xfe",
        ):
            self.assert_refused(Code.MALFORMED, data)

    def test_truncated_and_then_closed(self) -> None:
        packet = codec.encode(Send(self.alice.device_id, self.bob.device_id, b"x" * 50))
        for end in (RawDevice.close, RawDevice.reset):
            self.alice.send(packet + packet[:-1])
            self.bob.receive()
            end(self.alice)
            self.alice = self.join(ALICE)
        self.assertIsInstance(self.answer_of(self.bob), BackHeartbeat)

    def test_random_bytes(self) -> None:
        chance = random.Random(2)
        for _ in range(40):
            device = self.join(OTHERS[0])
            # What is random may promise bytes that never come; then it has enough of these.
            device.send(chance.randbytes(200), b"\xc1" * 70_000)
            *_, error = device.rest()
            assert isinstance(error, Error)
            self.assertIn(error.code, (Code.MALFORMED, Code.TOO_LARGE))
            device.close()
        self.assertIsInstance(self.answer_of(self.bob), BackHeartbeat)

    def test_an_unknown_packet_and_an_absent_target_close_nothing(self) -> None:
        for number in (15, 30, 99, 255):
            self.alice.send(msgpack.packb({"packet_id": number, "request": number}))
            error = self.alice.receive_error()
            self.assertEqual(
                (Code.UNKNOWN_PACKET, number, number), (error.code, error.about, error.request)
            )
        for identity in (NOBODY, OTHERS[1]):
            self.alice.send_to(bytes(identity.device_id), b"x")
            error = self.alice.receive_error()
            self.assertEqual(
                (Code.TARGET_ABSENT, identity.device_id, 1),
                (error.code, error.target_device, error.dropped),
            )
        self.assertIsInstance(self.answer_of(self.alice), BackHeartbeat)

    def test_a_conversation_cut_at_every_byte(self) -> None:
        identity = OTHERS[2]
        device_id = bytes(identity.device_id)
        conversation = (
            codec.encode(Hello(device_id))
            + codec.encode(Send(device_id, self.bob.device_id, b"x"))
            + codec.encode(Send(device_id, self.bob.device_id, b"y", request=3))
            + msgpack.packb({"packet_id": 99})
        )
        for cut in range(len(conversation) + 1):
            device = RawDevice(self.port, identity)
            device.send(conversation[:cut])
            device.reset() if cut % 2 else device.close()
        self.bob.send_to(self.bob.device_id, b"the last")
        last = Send(self.bob.device_id, self.bob.device_id, b"the last")
        got = list(iter(self.bob.receive, last))
        for packet in got:
            assert isinstance(packet, Send), packet
            self.assertEqual(device_id, packet.source_device)
        self.alice.close()
        self.bob.close()
        self.assert_only_bystanders_are_here()


class OverloadTests(BadInputTestCase):
    limits: ClassVar[dict[str, float]] = {**LIMITS, "stall_seconds": 1.5}

    def test_a_target_that_does_not_read_while_100_others_go_on(self) -> None:
        """Its sender is told, its queue is bounded, it is cut off; 50 pairs do not notice."""
        slow, sender = self.join(ALICE), self.join(BOB)
        pairs = list(zip(OTHERS[:48:2], OTHERS[1:48:2], strict=True))
        pairs += list(zip(OTHERS[48:96:2], OTHERS[49:96:2], strict=True))
        before = self.realm.resident_bytes()
        stop = threading.Event()
        talks = [Talk(self.join(first), self.join(second), stop) for first, second in pairs]
        for talk in talks:
            talk.start()
        codes = list(self.send_until_absent(sender, slow.device_id))
        during = self.realm.resident_bytes()
        stop.set()
        for talk in talks:
            talk.join(PATIENCE_SECONDS)
            self.assertIsNone(talk.problem)
            self.assertGreater(talk.rounds, 10)
            self.assertLess(talk.slowest_seconds, SLOWEST_SECONDS)
        self.assertIn(Code.QUEUE_FULL, codes)
        self.assertEqual([Code.UNDELIVERED, Code.TARGET_ABSENT], codes[-2:])
        self.realm.log_line("is gone", slow.device_id[:4].hex(), Code.STALLED)
        self.assertLess(during - before, 30 * MEGABYTE)

    def send_until_absent(self, sender: RawDevice, target: bytes) -> Iterator[str]:
        """Send to who does not read until it has been cut off; yield each code when it changes."""
        run = codec.encode(Send(sender.device_id, target, bytes(8000))) * 8
        last = ""
        while last != Code.TARGET_ABSENT:
            sender.send(run, Hello(sender.device_id))
            while not isinstance(packet := sender.receive(), BackHeartbeat):
                assert isinstance(packet, Error), packet
                if packet.code != last:
                    last = packet.code
                    yield last

    def test_many_that_do_not_read_are_bounded_together(self) -> None:
        sender = self.join(BOB)
        slow = [self.join(identity) for identity in OTHERS[:12]]
        before = self.realm.resident_bytes()
        codes: set[str] = set()
        for device in slow:
            run = codec.encode(Send(sender.device_id, device.device_id, bytes(60_000)))
            for _ in range(100):
                sender.send(run)
            sender.send(Hello(sender.device_id))
            while not isinstance(packet := sender.receive(), BackHeartbeat):
                assert isinstance(packet, Error), packet
                codes.add(packet.code)
        self.assertIn(Code.QUEUE_FULL, codes)
        self.assertLess(self.realm.resident_bytes() - before, 30 * MEGABYTE)

    def test_a_flood_of_questions_whose_answers_are_not_read(self) -> None:
        before = self.realm.resident_bytes()
        for identity, question in (
            (ALICE, msgpack.packb({"packet_id": 99})),
            (BOB, codec.encode(Hello(bytes(BOB.device_id)))),
        ):
            device = self.join(identity)
            flood = question * (16384 // len(question))
            try:
                for _ in range(32 * MEGABYTE // len(flood)):
                    device.send(flood)
            except OSError:
                pass
            device.close()
            self.realm.log_line("is gone", device.device_id[:4].hex(), Code.STALLED)
        self.assertLess(self.realm.resident_bytes() - before, 20 * MEGABYTE)

    def test_a_flood_is_told_that_it_was_one(self) -> None:
        device = self.join(ALICE)
        device.send(msgpack.packb({"packet_id": 99}) * 1300)
        *answers, last = device.rest()
        self.assertEqual({Code.UNKNOWN_PACKET}, {getattr(answer, "code", "") for answer in answers})
        assert isinstance(last, Error)
        self.assertEqual(Code.STALLED, last.code)

    def test_a_flood_of_packets_to_nobody(self) -> None:
        device = self.join(ALICE)
        run = codec.encode(Send(device.device_id, bytes(NOBODY.device_id), b"x")) * 170
        dropped = 0
        for _ in range(200):
            device.send(run)
            device.send(Hello(device.device_id))
            while not isinstance(packet := device.receive(), BackHeartbeat):
                assert isinstance(packet, Error)
                self.assertEqual(Code.TARGET_ABSENT, packet.code)
                dropped += packet.dropped or 0
        self.assertEqual(200 * 170, dropped)

    def test_a_flood_of_connections(self) -> None:
        """More than there may be: some are told, some are not even shaken hands with."""
        connections = [self.plain() for _ in range(400)]
        self.bystanders.check()
        for connection in connections:
            connection.close()
        self.assert_only_bystanders_are_here()


class TimeTests(BadInputTestCase):
    """Who is silent at the wrong time is closed, soon and not at once."""

    limits: ClassVar[dict[str, float]] = {
        **LIMITS,
        "hello_seconds": SHORT_SECONDS,
        "heartbeat_seconds": SHORT_SECONDS / 3,
        "silence_seconds": SHORT_SECONDS,
    }

    def setUp(self) -> None:
        super().setUp()
        self.begun = time.monotonic()

    def assert_it_took_the_time(self) -> None:
        """Assert that the realm has waited for as long as its limit says."""
        took = time.monotonic() - self.begun
        self.assertTrue(SHORT_SECONDS * 0.9 < took < SHORT_SECONDS + SLOWEST_SECONDS, took)

    def test_silence_before_tls(self) -> None:
        connections = [self.plain() for _ in range(3)]
        connections[1].sendall(b"\x16")
        connections[2].sendall(client_hello()[:100])
        for connection in connections:
            self.assertEqual(b"", read_all(connection))
            connection.close()
        self.assert_it_took_the_time()
        self.realm.log_line("was not let in", Code.HELLO_LATE, number=2)
        self.assert_only_bystanders_are_here()

    def test_silence_instead_of_hello(self) -> None:
        devices = [self.device(identity) for identity in (ALICE, BOB)]
        devices[1].send(codec.encode(Hello(devices[1].device_id))[:-1])
        for device in devices:
            (error,) = device.rest()
            assert isinstance(error, Error)
            self.assertEqual(Code.HELLO_LATE, error.code)
        self.assert_it_took_the_time()

    def test_silence_after_hello(self) -> None:
        devices = [self.join(identity) for identity in (ALICE, BOB)]
        self.begun = time.monotonic()
        truncated = codec.encode(Send(devices[1].device_id, devices[0].device_id, b"x" * 50))
        devices[1].send(truncated[:-1])
        for device in devices:
            (error,) = device.rest()
            assert isinstance(error, Error)
            self.assertEqual(Code.SILENT, error.code)
        self.assert_it_took_the_time()

    def test_what_is_never_finished_costs_no_memory(self) -> None:
        """Three kilobytes that promise 32 MB, on each of 60 connections."""
        promise = b"\x81\xa1k" + b"\xdc\x10\x00" * 30
        filling = b"\x81\xa1k\xdc\x10\x00" + b"\x90" * 4000
        before = self.realm.resident_bytes()
        devices = [self.device(identity) for identity in OTHERS[:60]]
        for device in devices:
            device.send(promise if device.device_id[0] % 2 else filling)
        for device in devices:
            device.rest()
        self.assertLess(self.realm.resident_bytes() - before, 20 * MEGABYTE)


class IdentityTests(BadInputTestCase):
    def test_two_machines_with_one_identity(self) -> None:
        """They replace each other until both are told why."""
        told: dict[int, list[str]] = {0: [], 1: []}
        devices = [self.join(ALICE)]
        for number in range(1, 8):
            devices.append(self.join(ALICE))
            for packet in devices[-2].rest():
                assert isinstance(packet, Error)
                told[(number - 1) % 2].append(packet.code)
        for codes in told.values():
            self.assertEqual(Code.REPLACED, codes[0])
            self.assertIn(Code.IDENTITY_CONFLICT, codes)
            self.assertEqual(Code.REPLACED, codes[-1])
        self.assertEqual(Code.IDENTITY_CONFLICT, devices[-1].receive_error().code)
        devices[-1].send_to(devices[-1].device_id, b"still here")
        self.assertIsInstance(devices[-1].receive(), Send)


class Talk(threading.Thread):
    """A pair that sends a packet there and back until it is stopped."""

    def __init__(self, first: RawDevice, second: RawDevice, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.first, self.second = first, second
        self.rounds = 0
        self.slowest_seconds = 0.0
        self.problem: Exception | None = None
        self._stop_event = stop

    def run(self) -> None:
        there = Send(self.first.device_id, self.second.device_id, b"there")
        back = Send(self.second.device_id, self.first.device_id, b"back")
        try:
            while not self._stop_event.wait(0.02):
                begun = time.monotonic()
                self.first.send(there)
                assert self.second.receive() == there
                self.second.send(back)
                assert self.first.receive() == back
                self.rounds += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
        except Exception as problem:
            self.problem = problem
