"""The realm behind real TLS on loopback: one behaviour, over every carrier."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any, ClassVar

from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from abst import codec
from abst.errors import Code
from abst.identity import Identity
from abst.packets import (
    BackHeartbeat,
    CreateGroup,
    Error,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    GroupMessage,
    Hello,
    JoinGroup,
    Send,
)
from abst.poller import Poller
from abst.realm import RealmFactory, RealmProtocol
from abst.realm.limits import Limits
from tests.carriers import (
    Behaviour,
    PlainReactor,
    TimeOnlyReactor,
    in_reactor,
    in_thread,
    running_reactor,
    until,
)
from tests.integration.raw_client import RawDevice, client_context, identities
from tests.realm.group_members import Keys

REALM_IDENTITY = Identity.generate()
ALICE, BOB, CAROL, *OTHERS = identities(20)


class Mistaken(RealmProtocol):
    """Makes a mistake when it reads the word; everything else it does as it should."""

    WORD = b"a word that makes a mistake happen"

    def dataReceived(self, data: bytes) -> None:
        if self.WORD in data:
            raise ZeroDivisionError("a mistake of ours")
        super().dataReceived(data)


class MistakenInFlush(RealmProtocol):
    """Makes a mistake when it should write the word."""

    def flush(self) -> None:
        waiting = [run for run, _, _ in self.conversation._outbox._runs]
        if any(Mistaken.WORD in run for run in waiting):
            raise ZeroDivisionError("a mistake of ours")
        super().flush()


class RealmBehaviour(Behaviour):
    """What a realm does, whatever carries its connections; the subclasses say what does."""

    def make_reactor(self) -> Any:
        """Return the reactor from which the realm's carrier follows."""
        raise NotImplementedError

    limits: ClassVar[Limits] = Limits(stall_seconds=60)

    def setUp(self) -> Any:
        self.factory = RealmFactory(self.make_reactor(), REALM_IDENTITY, self.limits)
        self.realm = self.factory.realm
        self.devices: list[Any] = []
        return ensureDeferred(self.listen())

    async def listen(self) -> None:
        endpoint = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        self.listening = await endpoint.listen(self.factory)
        self.port = self.listening.getHost().port

    def tearDown(self) -> Any:
        return ensureDeferred(self.end())

    async def end(self) -> None:
        """Close all, and see that nothing is left; trial sees to timers and sockets."""
        await self.listening.stopListening()
        self.factory.stop()
        for device in self.devices:
            device.close()
        while self.realm.conversations or self.factory.legs:
            await deferLater(running_reactor(), 0.005)
        self.assertEqual(0, self.realm.queued_bytes)
        self.assertEqual(0, self.realm.here)
        self.assertIsNone(self.realm.next_deadline())
        self.assertEqual([], self.realm.touched)

    def set_limits(self, limits: Limits) -> None:
        self.realm.limits = limits

    def device(
        self, identity: Identity = ALICE, context: ssl.SSLContext | None = None
    ) -> RawDevice:
        """Return a connection that has said nothing."""
        device = RawDevice(self.port, identity, context)
        self.devices.append(device)
        return device

    def join(self, identity: Identity) -> RawDevice:
        """Return a connection on which Hello has been answered."""
        device = self.device(identity)
        device.hello()
        return device

    def plain(self) -> socket.socket:
        """Return a connection without TLS."""
        connection = socket.create_connection(("127.0.0.1", self.port), 20.0)
        self.devices.append(connection)
        return connection

    def until_there_are(self, number: int) -> None:
        """Wait until there are that many connections."""
        until(lambda: len(self.realm.conversations) == number, f"{number} connections")

    @in_thread
    def test_who_sends_too_fast_is_read_from_later(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        packet = Send(alice.device_id, bob.device_id, bytes(1000))
        for limits in (
            Limits(device_bytes_per_second=100_000),
            Limits(device_packets_per_second=100),
            Limits(bytes_per_second=100_000),
        ):
            in_reactor(self.realm.use_limits, limits)
            begun = time.monotonic()
            # A second's worth goes at once; the rest of these makes what follows wait.
            for _ in range(160):
                alice.send(packet)
            for _ in range(160):
                self.assertEqual(packet, bob.receive())
            alice.send(packet)
            self.assertEqual(packet, bob.receive())
            self.assertGreater(time.monotonic() - begun, 0.3, limits)
            self.assertLess(time.monotonic() - begun, 5.0, limits)

    @in_thread
    def test_packets_arrive_as_they_were_sent(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        for size in (0, 1, 255, 256, 16_000, 17_000, 65_000):
            content = bytes(index % 251 for index in range(size))
            alice.send_to(bob.device_id, content)
            self.assertEqual(Send(alice.device_id, bob.device_id, content), bob.receive())
            bob.send_to(alice.device_id, content, request=size)
            self.assertEqual(Send(bob.device_id, alice.device_id, content, size), alice.receive())

    @in_thread
    def test_messages_reach_the_members_of_a_group(self) -> None:
        keys = Keys(b"garden")
        group = keys.group
        members: list[bytes] = []
        devices: list[RawDevice] = []
        for identity in (ALICE, BOB, CAROL):
            device = self.device(identity)
            nonce, device_id = device.hello().nonce, device.device_id
            if not members:
                proof = keys.proof(nonce, device_id, 0)
                device.send(CreateGroup(group, 0, keys.public(0), proof))
                self.assertEqual(GroupEpoch(group, 0, keys.public(0)), device.receive())
            device.send(JoinGroup(group, 0, keys.proof(nonce, device_id, 0)))
            members.append(device_id)
            answer = device.receive()
            assert isinstance(answer, GroupMembers), answer
            self.assertEqual(members, answer.devices)
            for other in devices:
                self.assertEqual(GroupMembers(group, 0, [device_id]), other.receive())
            devices.append(device)
        alice, bob, carol = devices
        for size in (0, 1, 256, 17_000, 65_000):
            message = GroupMessage(alice.device_id, group, bytes(size))
            alice.send(message)
            for other in (bob, carol):
                self.assertEqual(message, other.receive())
        bob.close()
        for other in (alice, carol):
            self.assertEqual(GroupLeft(group, [bob.device_id]), other.receive())

    @in_thread
    def test_many_packets_arrive_in_order(self) -> None:
        alice, bob, carol = self.join(ALICE), self.join(BOB), self.join(CAROL)

        def pump(source: RawDevice) -> None:
            for begin in range(0, 6000, 200):
                numbers = range(begin, begin + 200)
                packets = [Send(source.device_id, bob.device_id, b"%d" % n) for n in numbers]
                source.send(b"".join(map(codec.encode, packets)))

        threads = [threading.Thread(target=pump, args=(source,)) for source in (alice, carol)]
        for thread in threads:
            thread.start()
        expected = {alice.device_id: 0, carol.device_id: 0}
        for _ in range(12_000):
            packet = bob.receive()
            assert isinstance(packet, Send), packet
            self.assertEqual(b"%d" % expected[packet.source_device], packet.content)
            expected[packet.source_device] += 1
        for thread in threads:
            thread.join()
        self.assertEqual(12_000, self.realm.counters.relayed_packets)

    @in_thread
    def test_a_refused_device_reads_why_and_then_the_end(self) -> None:
        for packet, code in (
            (Hello(BOB.device_id), Code.WRONG_DEVICE),
            (b"\xc1", Code.MALFORMED),
            (Send(ALICE.device_id, BOB.device_id, b"x"), Code.HELLO_FIRST),
        ):
            alice = self.device()
            alice.send(packet)
            (error,) = alice.rest()
            assert isinstance(error, Error)
            self.assertEqual(code, error.code)
            alice.close()
        self.until_there_are(0)

    @in_thread
    def test_a_revoked_device_reads_so_and_is_not_let_in_again(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)

        def revoke() -> None:
            self.realm.access.revoke(alice.device_id, lambda is_kept: None)
            self.factory.settle()

        in_reactor(revoke)
        for device in (alice, self.device(ALICE)):
            device.send(Hello(alice.device_id))
            (error,) = device.rest()
            assert isinstance(error, Error)
            self.assertEqual((Code.REVOKED, 60), (error.code, error.retry_after))
            device.close()
        bob.send_to(bob.device_id, b"undisturbed")
        self.assertIsInstance(bob.receive(), Send)

    @in_thread
    def test_a_device_with_too_many_connections_is_told_before_it_says_anything(self) -> None:
        self.set_limits(Limits(device_connections=2))
        alice, _ = self.join(ALICE), self.device(ALICE)
        (error,) = self.device(ALICE).rest()
        assert isinstance(error, Error)
        self.assertEqual(Code.TOO_MANY_CONNECTIONS, error.code)
        alice.send_to(alice.device_id, b"undisturbed")
        self.assertIsInstance(alice.receive(), Send)

    @in_thread
    def test_the_reason_arrives_though_much_was_sent_after_what_was_wrong(self) -> None:
        """A socket closed with unread bytes resets the connection, and the reason is lost."""
        alice = self.join(ALICE)
        alice.send(b"\xc1" + bytes(400_000))
        (error,) = alice.rest()
        assert isinstance(error, Error)
        self.assertEqual(Code.MALFORMED, error.code)

    @in_thread
    def test_who_is_refused_and_does_not_close_is_forgotten(self) -> None:
        alice = self.join(ALICE)
        alice.send(b"\xc1")
        silent = self.device(BOB)
        silent.send(b"\xc1")
        self.assertEqual(1, len(alice.rest()))
        self.until_there_are(0)

    @in_thread
    def test_no_alpn_is_told_within_tls(self) -> None:
        device = self.device(context=client_context(ALICE, alpn=None))
        (error,) = device.rest()
        assert isinstance(error, Error)
        self.assertEqual(Code.TLS_REQUIRED, error.code)

    @in_thread
    def test_plain_text_is_told_in_plain(self) -> None:
        for text, begin in ((b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"), (b"\x80", b"\x82")):
            connection = self.plain()
            connection.sendall(text)
            answer = b"".join(iter(lambda c=connection: c.recv(1000), b""))  # type: ignore[misc]
            self.assertTrue(answer.startswith(begin), answer)
        self.until_there_are(0)

    @in_thread
    def test_no_certificate_is_refused(self) -> None:
        device = self.device(context=client_context(None))
        self.assertRaises(ssl.SSLError, device.receive)
        device.close()
        self.until_there_are(0)
        self.assertEqual(0, self.realm.counters.connections)

    @in_thread
    def test_who_does_not_shake_hands_in_time_is_closed(self) -> None:
        self.set_limits(Limits(hello_seconds=0.2))
        silent, half, mute = self.plain(), self.plain(), self.device()
        half.sendall(b"\x16\x03\x01")
        for connection in (silent, half):
            try:
                self.assertEqual(b"", connection.recv(1000))
            except ConnectionResetError:
                pass  # What Twisted's TLS does in the middle of a handshake.
        (error,) = mute.rest()
        assert isinstance(error, Error)
        self.assertEqual(Code.HELLO_LATE, error.code)
        self.assertEqual(3, self.realm.counters.refused_connections[Code.HELLO_LATE])
        for ended in (silent, half, mute):
            ended.close()
        self.until_there_are(0)

    @in_thread
    def test_ends_of_every_kind_are_noticed(self) -> None:
        for end in (
            RawDevice.close,
            RawDevice.reset,
            lambda device: device.socket.unwrap(),
            lambda device: device.socket.shutdown(socket.SHUT_WR),
        ):
            alice = self.join(ALICE)
            in_reactor(self.assertEqual, 1, self.realm.here)
            end(alice)
            self.until_there_are(0)
            alice.close()
        for connection in [self.plain() for _ in range(3)]:
            connection.close()
        self.until_there_are(0)

    @in_thread
    def test_a_full_queue_is_told_and_nothing_of_it_is_lost(self) -> None:
        self.set_limits(Limits(packet_bytes=8192, queue_bytes=131072))
        alice, bob, carol = self.join(ALICE), self.join(BOB), self.join(CAROL)
        number = dropped = 0
        while not dropped:
            for _ in range(50):
                alice.send_to(bob.device_id, b"%d " % number + bytes(5000))
                number += 1
            alice.send(Hello(alice.device_id))
            while not isinstance(packet := alice.receive(), BackHeartbeat):
                assert isinstance(packet, Error), packet
                self.assertEqual(Code.QUEUE_FULL, packet.code)
                dropped += packet.dropped or 0
        # Others go on, and control goes before what waits.
        carol.send_to(carol.device_id, b"undisturbed")
        self.assertIsInstance(carol.receive(), Send)
        bob.send(Hello(bob.device_id))
        got: list[int] = []
        while len(got) < number - dropped:
            packet = bob.receive()
            if isinstance(packet, Send):
                got.append(int(packet.content.split()[0]))
        self.assertEqual(sorted(set(got)), got)
        until(lambda: self.realm.queued_bytes == 0, "an empty queue")
        alice.send_to(bob.device_id, b"last")
        while bob.receive() != Send(alice.device_id, bob.device_id, b"last"):
            pass

    def fill(self, source: RawDevice, target: RawDevice) -> None:
        """Send to who does not read until the realm says that the queue is full."""
        packet: object = None
        while not isinstance(packet, Error):
            for _ in range(10):
                source.send_to(target.device_id, bytes(60_000))
            source.send(Hello(source.device_id))
            packet = source.receive()
        while not isinstance(packet, BackHeartbeat):
            packet = source.receive()

    @in_thread
    def test_who_does_not_read_is_cut_off(self) -> None:
        self.set_limits(Limits(stall_seconds=0.3))
        alice, bob = self.join(ALICE), self.join(BOB)
        self.fill(alice, bob)
        error = alice.receive_error()
        self.assertEqual(Code.UNDELIVERED, error.code)
        self.until_there_are(1)
        self.assertEqual(1, self.realm.counters.refused_connections[Code.STALLED])

    @in_thread
    def test_who_closes_while_it_does_not_read_is_forgotten(self) -> None:
        for end in (RawDevice.close, RawDevice.reset):
            alice, bob = self.join(ALICE), self.join(BOB)
            self.fill(alice, bob)
            end(bob)
            self.assertEqual(Code.UNDELIVERED, alice.receive_error().code)
            self.until_there_are(1)
            alice.close()
            self.until_there_are(0)

    @in_thread
    def test_a_newer_connection_takes_over_from_one_that_does_not_read(self) -> None:
        self.set_limits(Limits(stall_seconds=0.3))
        alice, bob = self.join(ALICE), self.join(BOB)
        self.fill(alice, bob)
        newer = self.join(BOB)
        self.assertEqual(Code.UNDELIVERED, alice.receive_error().code)
        alice.send_to(newer.device_id, b"for the newer")
        self.assertEqual(Send(alice.device_id, newer.device_id, b"for the newer"), newer.receive())
        self.until_there_are(2)  # The older does not read why, and is cut off.

    @in_thread
    def test_a_stop_is_told_to_everybody(self) -> None:
        devices = [self.join(identity) for identity in OTHERS]
        awaiting = self.device(ALICE)
        until(lambda: all(one.device_id for one in self.realm.conversations), "a handshake")
        in_reactor(self.factory.stop)
        for device in [*devices, awaiting]:
            (error,) = device.rest()
            assert isinstance(error, Error)
            self.assertEqual(Code.RESTARTING, error.code)
            device.close()
        self.until_there_are(0)

    @in_thread
    def test_a_full_realm_says_so_and_then_nothing(self) -> None:
        self.set_limits(Limits(connections=2))
        alice, bob = self.join(ALICE), self.join(BOB)
        more = self.device(CAROL)
        more.send(Hello(CAROL.device_id))
        (error,) = more.rest()
        assert isinstance(error, Error)
        self.assertEqual(Code.REALM_FULL, error.code)
        connections = [self.plain() for _ in range(self.factory.hard_limit + 3)]
        for _ in range(3):
            self.assertEqual(b"", connections.pop().recv(100))
        alice.send_to(bob.device_id, b"undisturbed")
        self.assertIsInstance(bob.receive(), Send)
        for connection in connections:
            connection.close()

    @in_thread
    def test_a_mistake_of_ours_closes_one_connection(self) -> None:
        for protocol in (Mistaken, MistakenInFlush):
            self.factory.protocol = protocol
            alice, bob, carol = self.join(ALICE), self.join(BOB), self.join(CAROL)
            alice.send_to(bob.device_id, Mistaken.WORD)
            at_fault, other = (alice, bob) if protocol is Mistaken else (bob, alice)
            with self.assertRaises((OSError, EOFError)):
                at_fault.receive()
            carol.send_to(other.device_id, b"x")
            packet = other.receive()
            if isinstance(packet, Error):
                self.assertEqual(Code.UNDELIVERED, packet.code)
                packet = other.receive()
            self.assertEqual(Send(carol.device_id, other.device_id, b"x"), packet)
            for device in (alice, bob, carol):
                device.close()
            self.until_there_are(0)
            self.assertEqual(1, len(in_reactor(self.flushLoggedErrors, ZeroDivisionError)))

    @in_thread
    def test_fighting_machines_are_counted(self) -> None:
        for _ in range(6):
            self.join(ALICE)
        self.assertEqual(2, self.realm.counters.identity_conflicts)
        self.assertEqual(5, self.realm.counters.refused_connections[Code.REPLACED])

    @in_thread
    def test_the_address_that_the_realm_observes_is_told(self) -> None:
        device = self.device()
        host, port = device.socket.getsockname()
        self.assertEqual([host, port], device.hello().observed_address)

    @in_thread
    def test_who_does_not_read_its_last_bytes_is_cut_off_too(self) -> None:
        self.set_limits(Limits(stall_seconds=0.3))
        self.join(ALICE)
        (conversation,) = self.realm.conversations

        def close() -> None:
            transport: Any = conversation.carrier.transport  # type: ignore[attr-defined]
            transport.unregisterProducer()
            transport.write(bytes(64_000_000))
            conversation.close(Code.SILENT)
            self.factory.settle()

        in_reactor(close)
        self.until_there_are(0)


class OverPollerTests(RealmBehaviour, TestCase):
    """Sockets behind a poller: what a realm on Linux has."""

    def make_reactor(self) -> Any:
        return running_reactor()

    @in_thread
    def test_it_is_a_poller_and_it_leaves(self) -> None:
        descriptors = self.factory.descriptors
        if not isinstance(descriptors, Poller):
            raise SkipTest("there is no epoll here")
        alice = self.join(ALICE)
        self.assertGreaterEqual(in_reactor(descriptors.fileno), 0)
        alice.close()
        self.until_there_are(0)
        self.assertEqual(-1, in_reactor(descriptors.fileno))

    @in_thread
    def test_who_reads_slowly_is_not_cut_off(self) -> None:
        """Less in the time of a stall than the kernel wants to have room for."""
        self.set_limits(Limits(stall_seconds=0.4))
        alice, bob = self.join(ALICE), self.device(BOB)
        bob.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bob.hello()
        self.fill(alice, bob)
        pause = threading.Event()
        for _ in range(8):
            pause.wait(0.1)
            bob.socket.recv(16384)
            alice.send(Hello(alice.device_id))
            self.assertIsInstance(alice.receive(), BackHeartbeat)
        self.assertEqual(0, self.realm.counters.refused_connections[Code.STALLED])


class OverReactorTests(RealmBehaviour, TestCase):
    """Sockets straight in the reactor: without epoll."""

    def make_reactor(self) -> Any:
        return PlainReactor()


class OverTwistedTlsTests(RealmBehaviour, TestCase):
    """Twisted's TLS: where the reactor has no descriptors."""

    def make_reactor(self) -> Any:
        return TimeOnlyReactor()
