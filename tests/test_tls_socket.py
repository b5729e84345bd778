"""A server's TLS connection: one behaviour over every carrier, and what the socket's own adds."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import select
import socket
import ssl
import struct
import termios
import threading
import weakref
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from abst.identity import Identity
from abst.poller import Poller
from abst.realm.legs import tune_leg
from abst.tls import device_key_of, realm_server_context
from abst.tls_acceptor import TlsAcceptor
from abst.tls_socket import LINGER_SECONDS, READ_BYTES, READS_PER_TURN, TlsSocket
from tests.carriers import (
    PATIENCE_SECONDS,
    Behaviour,
    PlainReactor,
    TimeOnlyReactor,
    in_reactor,
    in_thread,
    running_reactor,
    until,
)
from tests.integration.raw_client import ALPN, client_context

SERVER, CLIENT = Identity.generate(), Identity.generate()
CONTEXT = realm_server_context(SERVER)
MEGABYTE = 1024 * 1024


@implementer(IHandshakeListener)
class Notes(Protocol):
    """Notes what happens; says nothing by itself."""

    transport: Any

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.received = bytearray()

    def connectionMade(self) -> None:
        self.happened.append("made")

    def handshakeCompleted(self) -> None:
        self.happened.append("handshake")
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.happened.append("lost")

    def pauseProducing(self) -> None:
        self.happened.append("pause")

    def resumeProducing(self) -> None:
        self.happened.append("resume")

    def stopProducing(self) -> None:
        pass


class PlainEcho(Protocol):
    """Says back what it reads, in plain."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"plain: " + data)
        if data.endswith(b"."):
            self.transport.loseConnection()


@implementer(IHalfCloseableProtocol)
class HalfClosing(Notes):
    """Notes the end of one direction, too."""

    def readConnectionLost(self) -> None:
        self.happened.append("read lost")

    def writeConnectionLost(self) -> None:
        pass


class Server(Factory):
    """Puts ``Notes`` behind an acceptor; the newest one is ``protocol``."""

    noisy = False

    def __init__(self, descriptors: Any) -> None:
        self.descriptors = descriptors
        self.notes: list[Any] = []
        self.acceptors: list[Any] = []

    def buildProtocol(self, addr: object) -> Any:
        self.notes.append(Notes())
        self.acceptors.append(TlsAcceptor(self.descriptors, CONTEXT, self.notes[-1], PlainEcho))
        return self.acceptors[-1]


def _readable_bytes(connection: socket.socket) -> int:
    """Return how much has come that nobody has read."""
    answer = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", answer)[0])


class TlsStage(Behaviour):
    """A server, and clients of it."""

    def make_descriptors(self) -> Any:
        """Return what the acceptor is given, from which the carrier follows."""
        raise NotImplementedError

    def setUp(self) -> Any:
        self.descriptors = self.make_descriptors()
        self.server = Server(self.descriptors)
        self.sockets: list[socket.socket] = []
        return ensureDeferred(self.listen())

    async def listen(self) -> None:
        endpoint = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        self.listening = await endpoint.listen(self.server)
        self.port = self.listening.getHost().port

    def tearDown(self) -> Any:
        return ensureDeferred(self.end())

    async def end(self) -> None:
        await self.listening.stopListening()
        for connection in self.sockets:
            connection.close()
        end_by = running_reactor().seconds() + PATIENCE_SECONDS
        while running_reactor().seconds() < end_by and not all(
            "lost" in notes.happened for notes in self.server.notes
        ):
            await deferLater(running_reactor(), 0.005)
        for notes in self.server.notes:
            self.assertEqual(1, notes.happened.count("lost"))
            self.assertEqual("lost", notes.happened[-1])

    def plain(self) -> socket.socket:
        """Return a connection without TLS."""
        connection = socket.create_connection(("127.0.0.1", self.port), 20.0)
        self.sockets.append(connection)
        return connection

    def connect(self) -> tuple[ssl.SSLSocket, Any]:
        """Return both ends of a connection whose handshake is done."""
        connection = client_context(CLIENT).wrap_socket(self.plain())
        self.sockets.append(connection)
        until(lambda: "handshake" in self.server.notes[-1].happened, "a handshake")
        return connection, self.server.notes[-1]

    def read_all(self, connection: socket.socket) -> bytes:
        """Return what comes until the server closes in order."""
        return b"".join(iter(lambda: connection.recv(65536), b""))

    def until_lost(self, notes: Any) -> None:
        until(lambda: "lost" in notes.happened, "the end of the connection")

    def half_closing(self) -> tuple[ssl.SSLSocket, Any]:
        """Return both ends of a connection whose protocol cares for each direction's end."""
        connection, notes = self.connect()
        newer = HalfClosing()
        newer.happened = notes.happened
        newer.transport = notes.transport
        in_reactor(notes.transport.hand_over, newer)
        return connection, newer

    def says_its_end(self, connection: ssl.SSLSocket) -> None:
        """Send close_notify, and do not wait for the other side's."""
        connection.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.unwrap()
        connection.settimeout(PATIENCE_SECONDS)


class TlsBehaviour(TlsStage):
    """What a server's TLS connection does, whatever carries it."""

    @in_thread
    def test_bytes_go_both_ways(self) -> None:
        connection, notes = self.connect()
        data = bytes(range(256)) * 4096
        received = bytearray()

        def read() -> None:
            while len(received) < len(data):
                received.extend(connection.recv(65536))

        reader = threading.Thread(target=read)
        reader.start()
        in_reactor(notes.transport.write, data)
        reader.join()
        self.assertEqual(data, received)
        connection.sendall(data)
        until(lambda: len(notes.received) == len(data), "all bytes")
        self.assertEqual(data, notes.received)

    @in_thread
    def test_who_is_paused_reads_nothing(self) -> None:
        connection, notes = self.connect()
        in_reactor(notes.transport.pauseProducing)
        sender = threading.Thread(target=connection.sendall, args=(bytes(20 * MEGABYTE),))
        sender.start()
        sender.join(0.2)
        self.assertTrue(sender.is_alive())
        self.assertLessEqual(in_reactor(lambda: len(notes.received)), MEGABYTE)
        in_reactor(notes.transport.resumeProducing)
        until(lambda: len(notes.received) == 20 * MEGABYTE, "all bytes")
        sender.join()

    @in_thread
    def test_each_end_knows_the_other(self) -> None:
        connection, notes = self.connect()
        transport = notes.transport
        peer, host = in_reactor(transport.getPeer), in_reactor(transport.getHost)
        self.assertEqual(connection.getsockname(), (peer.host, peer.port))
        self.assertEqual(connection.getpeername(), (host.host, host.port))
        certificate = in_reactor(transport.getPeerCertificate)
        self.assertEqual(CLIENT.public_key, device_key_of(certificate))
        self.assertEqual(ALPN, in_reactor(lambda: transport.negotiatedProtocol).decode("ascii"))
        self.assertEqual("TLSv1.3", connection.version())

    @in_thread
    def test_pieces_are_written_as_one(self) -> None:
        connection, notes = self.connect()
        in_reactor(notes.transport.writeSequence, [b"one ", b"two ", b"three"])
        in_reactor(notes.transport.write, b"")
        self.assertEqual(b"one two three", connection.recv(100))

    @in_thread
    def test_what_was_written_arrives_before_the_end(self) -> None:
        connection, notes = self.connect()
        data = bytes(range(256)) * 16384

        def write_and_close() -> None:
            notes.transport.write(data)
            notes.transport.unregisterProducer()
            notes.transport.loseConnection()
            notes.transport.write(b"too late")

        in_reactor(write_and_close)
        self.assertEqual(data, self.read_all(connection))
        connection.close()
        self.until_lost(notes)

    @in_thread
    def test_a_producer_is_paused_and_resumed_in_turn(self) -> None:
        connection, notes = self.connect()
        data = bytes(8 * MEGABYTE)
        in_reactor(notes.transport.write, data)
        self.assertEqual("pause", notes.happened[-1])
        got = 0
        while got < len(data):
            got += len(connection.recv(65536))
        until(lambda: notes.happened[-1] == "resume", "resuming")
        changes = [what for what in notes.happened if what in ("pause", "resume")]
        self.assertEqual(["pause", "resume"] * (len(changes) // 2), changes)

    @in_thread
    def test_an_abort_is_at_once(self) -> None:
        connection, notes = self.connect()

        def write_and_abort() -> None:
            notes.transport.write(bytes(8 * MEGABYTE))
            notes.transport.abortConnection()
            notes.transport.write(b"too late")
            notes.transport.abortConnection()
            notes.transport.loseConnection()

        in_reactor(write_and_abort)
        self.until_lost(notes)
        got = b""
        with contextlib.suppress(OSError):
            got = self.read_all(connection)
        self.assertLess(len(got), 8 * MEGABYTE)

    @in_thread
    def test_the_last_word_arrives_though_much_is_unread(self) -> None:
        connection, notes = self.connect()

        def last_word() -> None:
            notes.transport.write(b"the last word")
            notes.transport.unregisterProducer()
            notes.transport.loseConnection()

        connection.sendall(b"x")
        in_reactor(last_word)
        with contextlib.suppress(OSError):
            connection.sendall(bytes(2 * MEGABYTE))
        self.assertEqual(b"the last word", connection.recv(100))
        self.assertEqual(b"", connection.recv(100))

    @in_thread
    def test_who_does_not_close_is_closed(self) -> None:
        connection, notes = self.connect()
        in_reactor(notes.transport.unregisterProducer)
        in_reactor(notes.transport.loseConnection)
        self.assertEqual(b"", self.read_all(connection))
        self.until_lost(notes)

    @in_thread
    def test_ends_of_every_kind_are_noticed_once(self) -> None:
        reset = struct.pack("ii", 1, 0)
        for end in (
            lambda connection: connection.unwrap(),
            lambda connection: connection.shutdown(socket.SHUT_WR),
            lambda connection: connection.close(),
            lambda connection: (
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset),
                connection.close(),
            ),
        ):
            for blocked in (False, True):
                connection, notes = self.connect()
                if blocked:
                    in_reactor(notes.transport.write, bytes(8 * MEGABYTE))
                with contextlib.suppress(OSError):
                    # With much in between, the standard library does not find the alert.
                    end(connection)
                connection.close()
                self.until_lost(notes)

    @in_thread
    def test_a_handshake_that_fails_is_an_end(self) -> None:
        for data in (b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16" * 1000):
            connection = self.plain()
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                self.read_all(connection)
            notes = self.server.notes[-1]
            self.until_lost(notes)
            self.assertEqual(["made", "lost"], notes.happened)

    @in_thread
    def test_nothing_at_all_is_an_end_too(self) -> None:
        connection = self.plain()
        until(lambda: self.server.notes, "a connection")
        connection.close()
        self.until_lost(self.server.notes[-1])

    @in_thread
    def test_a_connection_may_be_closed_before_its_handshake(self) -> None:
        for begin in (b"", b"\x16\x03\x01"):
            for method in ("loseConnection", "abortConnection"):
                number = len(self.server.notes)
                connection = self.plain()
                connection.sendall(begin)
                until(lambda: len(self.server.notes) > number, "a connection")  # noqa: B023
                notes = self.server.notes[-1]
                in_reactor(getattr(notes.transport, method))
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(b"", self.read_all(connection))
                connection.close()
                self.until_lost(notes)

    @in_thread
    def test_what_is_not_tls_gets_another_protocol(self) -> None:
        connection = self.plain()
        connection.sendall(b"h")
        self.assertEqual(b"plain: h", connection.recv(100))
        self.assertEqual(["made", "lost"], self.server.notes[-1].happened)
        connection.sendall(b"ello.")
        self.assertEqual(b"plain: ello.", self.read_all(connection))


class HalfCloseBehaviour(TlsBehaviour):
    """What the socket's own TLS does and Twisted's cannot: end one direction alone."""

    @in_thread
    def test_the_other_side_ends_and_this_one_goes_on(self) -> None:
        connection, notes = self.half_closing()
        connection.sendall(b"a question")
        self.says_its_end(connection)
        until(lambda: "read lost" in notes.happened, "the end of one direction")
        self.assertEqual(b"a question", notes.received)
        self.assertNotIn("lost", notes.happened)
        answer = bytes(3 * MEGABYTE)
        in_reactor(notes.transport.write, answer)
        in_reactor(notes.transport.loseWriteConnection)
        received = bytearray()
        # Who has ended its own direction is told of the other's end by this error.
        with self.assertRaises(ssl.SSLZeroReturnError):
            while data := connection.recv(65536):
                received += data
        self.assertEqual(answer, received)
        connection.close()
        self.until_lost(notes)

    @in_thread
    def test_this_side_ends_and_the_other_one_goes_on(self) -> None:
        connection, notes = self.half_closing()
        answer = bytes(3 * MEGABYTE)
        in_reactor(notes.transport.write, answer)
        in_reactor(notes.transport.loseWriteConnection)
        in_reactor(notes.transport.write, b"too late")
        self.assertEqual(answer, self.read_all(connection))
        connection.sendall(b"still here" * 100_000)
        until(lambda: len(notes.received) == 1_000_000, "all bytes")
        self.says_its_end(connection)
        self.until_lost(notes)
        self.assertIn("read lost", notes.happened)

    @in_thread
    def test_a_cut_is_no_end(self) -> None:
        connection, notes = self.half_closing()
        connection.sendall(b"the beginning")
        until(lambda: notes.received, "the beginning")
        connection.close()
        self.until_lost(notes)
        self.assertNotIn("read lost", notes.happened)


class Hasty(PlainReactor):
    """The reactor, for which seconds are hundredths."""

    def callLater(self, seconds: float, *call: Any, **keywords: Any) -> Any:
        return running_reactor().callLater(seconds / 100, *call, **keywords)


class FullOnce:
    """OpenSSL's connection, whose socket is full when ``close_notify`` is to be sent."""

    def __init__(self, tls: Any) -> None:
        self._tls = tls
        self._is_full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def shutdown(self) -> Any:
        if self._is_full:
            self._is_full = False
            raise SSL.WantWriteError
        return self._tls.shutdown()


class SlowReaderBehaviour(TlsStage):
    """What a server's TLS connection does for somebody who reads late."""

    unread = 2 * MEGABYTE
    """Little enough for the system to hold it all, and too much for the reader's end alone."""

    def hold(self, notes: Any) -> None:
        """Let the system hold as much as it can, as a circuit's leg does."""
        handle = notes.transport.getHandle()
        if isinstance(handle, socket.socket):
            tune_leg(handle)

    def read_late(self, connection: ssl.SSLSocket, how_much: int) -> None:
        """Read everything, when the time of lingering has long passed."""
        threading.Event().wait(LINGER_SECONDS / 100 * 5)
        received = 0
        while data := connection.recv(65536):
            received += len(data)
            if received == how_much:
                return
        self.fail(f"{received} of {how_much} bytes")

    @in_thread
    def test_what_was_written_waits_for_its_reader(self) -> None:
        connection, notes = self.connect()
        self.hold(notes)

        def write_and_close() -> None:
            notes.transport.write(bytes(self.unread))
            notes.transport.unregisterProducer()
            notes.transport.loseConnection()

        in_reactor(write_and_close)
        self.read_late(connection, self.unread)
        self.assertEqual(b"", connection.recv(1))
        self.until_lost(notes)

    @in_thread
    def test_who_never_reads_can_be_cut_off(self) -> None:
        connection, notes = self.connect()

        def write_and_close() -> None:
            notes.transport.write(bytes(64 * MEGABYTE))
            notes.transport.unregisterProducer()
            notes.transport.loseConnection()

        in_reactor(write_and_close)
        threading.Event().wait(LINGER_SECONDS / 100 * 5)
        self.assertNotIn("lost", notes.happened)
        in_reactor(notes.transport.abortConnection)
        self.until_lost(notes)
        connection.close()


class SlowHalfCloserBehaviour(SlowReaderBehaviour):
    """The same, where each direction can end alone."""

    @in_thread
    def test_the_tail_waits_for_who_has_ended_its_own_direction(self) -> None:
        connection, notes = self.half_closing()
        self.says_its_end(connection)
        until(lambda: "read lost" in notes.happened, "the end of one direction")
        self.hold(notes)
        in_reactor(notes.transport.write, bytes(self.unread))
        in_reactor(notes.transport.loseWriteConnection)
        self.read_late(connection, self.unread)
        with self.assertRaises(ssl.SSLZeroReturnError):
            connection.recv(1)
        self.until_lost(notes)

    @in_thread
    def test_nothing_is_waited_for_when_both_have_ended(self) -> None:
        connection, notes = self.half_closing()
        self.says_its_end(connection)
        until(lambda: "read lost" in notes.happened, "the end of one direction")
        in_reactor(notes.transport.loseConnection)
        self.assertIsNone(notes.transport._timer)
        self.until_lost(notes)

    @in_thread
    def test_a_full_socket_delays_the_end_and_does_not_swallow_it(self) -> None:
        for other_ends_first in (True, False):
            for end in ("loseConnection", "loseWriteConnection"):
                connection, notes = self.half_closing()
                cast(Any, connection).suppress_ragged_eofs = False
                if other_ends_first:
                    self.says_its_end(connection)
                    until(lambda: "read lost" in notes.happened, "an end")  # noqa: B023
                notes.transport._tls = FullOnce(notes.transport._tls)
                in_reactor(getattr(notes.transport, end))
                try:
                    self.assertEqual(b"", connection.recv(1))
                except ssl.SSLZeroReturnError:
                    self.assertTrue(other_ends_first)
                connection.close()
                self.until_lost(notes)


class OnHastyPollerTests(SlowHalfCloserBehaviour, TestCase):
    def make_descriptors(self) -> Any:
        return Poller(Hasty(), lambda: None)


class OnHastyReactorTests(SlowHalfCloserBehaviour, TestCase):
    def make_descriptors(self) -> Any:
        return Hasty()


class OnHastyTwistedTlsTests(SlowReaderBehaviour, TestCase):
    unread = 16 * MEGABYTE
    """More than the system holds: the rest waits in Twisted's transport."""

    def make_descriptors(self) -> Any:
        reactor = TimeOnlyReactor()
        reactor.callLater = Hasty().callLater
        return reactor


class OnPollerTests(HalfCloseBehaviour, TestCase):
    """The socket itself, behind a poller."""

    def make_descriptors(self) -> Any:
        return Poller(running_reactor(), lambda: None)

    @in_thread
    def test_it_is_taken_by_the_socket(self) -> None:
        _, notes = self.connect()
        self.assertIsInstance(notes.transport, TlsSocket)
        in_reactor(notes.transport.abortConnection)
        self.until_lost(notes)
        self.assertEqual(-1, in_reactor(notes.transport.fileno))
        self.assertEqual(-1, in_reactor(self.descriptors.fileno))

    @in_thread
    def test_a_lost_connection_takes_no_memory_until_circles_are_searched_for(self) -> None:
        """Python puts that search off, and a flood of strangers fills the memory meanwhile."""
        gc.disable()
        self.addCleanup(gc.enable)
        for says_goodbye in (False, True):
            self.connect_and_lose(says_goodbye)

    def connect_and_lose(self, says_goodbye: bool) -> None:
        """Wait until nothing is left of a connection that has ended."""
        connection, notes = self.connect()
        tls = weakref.ref(notes.transport._tls)
        happened = notes.happened
        if says_goodbye:
            in_reactor(notes.transport.loseConnection)
        self.server.notes.remove(notes)
        self.server.acceptors.clear()
        del notes
        connection.close()
        until(lambda: "lost" in happened, "the end of the connection")
        until(lambda: tls() is None, "nothing that keeps it")

    @in_thread
    def test_nothing_is_written_before_somebody_has_shown_a_certificate(self) -> None:
        connection = self.plain()
        until(lambda: self.server.notes, "a connection")
        in_reactor(self.server.notes[0].transport.write, b"too early")
        tls = client_context(CLIENT).wrap_socket(connection)
        self.sockets.append(tls)
        until(lambda: "handshake" in self.server.notes[0].happened, "a handshake")
        in_reactor(self.server.notes[0].transport.write, b"now")
        self.assertEqual(b"now", tls.recv(100))

    @in_thread
    def test_one_connection_does_not_keep_others_from_their_turn(self) -> None:
        """However much has come, a turn reads some records and no more."""
        connection, notes = self.connect()
        other, other_notes = self.connect()
        connection.sendall(bytes(MEGABYTE))
        other.sendall(b"x")
        until(lambda: other_notes.received, "the other's byte")
        until(lambda: len(notes.received) == MEGABYTE, "all of the first")

    @in_thread
    def test_a_turn_reads_some_records_and_one_while_others_wait(self) -> None:
        connection, notes = self.connect()
        handle = notes.transport.getHandle()
        records = READS_PER_TURN + 3
        # Each comes whole before it is looked for: TLS may not hold a part of one.
        size = READ_BYTES + 22
        in_reactor(self.descriptors.removeReader, notes.transport)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MEGABYTE)
        for _ in range(records):
            connection.sendall(bytes(READ_BYTES))
        until(lambda: _readable_bytes(handle) >= records * size, "all records")
        seen: list[int] = []

        def turn(is_busy: bool) -> None:
            begin = len(notes.received)
            self.descriptors.is_busy = is_busy
            notes.transport.doRead()
            self.descriptors.is_busy = False
            seen.append((len(notes.received) - begin) // READ_BYTES)
            self.assertEqual(notes.transport.turn_bytes, len(notes.received) - begin)

        for is_busy in (False, True, True, False, False):
            in_reactor(turn, is_busy)
        in_reactor(self.descriptors.addReader, notes.transport)
        self.assertEqual([READS_PER_TURN, 1, 1, 1, 0], seen)

    @in_thread
    def test_progress_is_what_the_other_end_has_read(self) -> None:
        connection, notes = self.connect()
        in_reactor(notes.transport.write, bytes(8 * MEGABYTE))
        measure = notes.transport.measure_progress
        before = in_reactor(measure)
        self.assertEqual(before, in_reactor(measure))
        got = 0
        while got < 4 * MEGABYTE:
            got += len(connection.recv(65536))
        until(lambda: measure() > before + 2 * MEGABYTE, "progress")

    @in_thread
    def test_a_closing_connection_that_is_blocked_keeps_nobody_busy(self) -> None:
        """What still comes is not read any more, and must not wake the poller again and again."""
        connection, notes = self.connect()
        in_reactor(notes.transport.write, bytes(8 * MEGABYTE))
        in_reactor(notes.transport.loseConnection)
        connection.sendall(b"more")
        number = notes.transport.fileno()
        until(lambda: self.descriptors._masks[number] == select.EPOLLOUT, "the end of reading")
        connection.close()
        self.until_lost(notes)


class OnReactorTests(HalfCloseBehaviour, TestCase):
    """The socket itself, straight in the reactor."""

    def make_descriptors(self) -> Any:
        return PlainReactor()


class OnTwistedTlsTests(TlsBehaviour, TestCase):
    """Twisted's TLS, for transports without a socket of their own."""

    def make_descriptors(self) -> Any:
        return TimeOnlyReactor()

    @in_thread
    def test_it_is_not_the_socket(self) -> None:
        _, notes = self.connect()
        self.assertNotIsInstance(notes.transport, TlsSocket)
