"""Two connections joined in user space: bytes, pauses and every kind of end, over loopback TCP."""

from __future__ import annotations

import contextlib
import enum
import errno
import random
import socket
import struct
import threading
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from abst.joining import End, joined_ends
from tests.carriers import in_reactor, in_thread, running_reactor, until


class Ends(Factory):
    """Gives each connection the next one of the ends that wait."""

    noisy = False

    def __init__(self) -> None:
        self.waiting: list[End] = []

    def buildProtocol(self, addr: object) -> End:
        return self.waiting.pop(0)


def reset(connection: socket.socket) -> None:
    """Close a socket as a process that crashes does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_to_the_end(connection: socket.socket) -> bytes | None:
    """Return all bytes until the other side's end, or None when the connection fails."""
    found = bytearray()
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        return None
    return bytes(found)


class Act(enum.Enum):
    """What one side of a joined pair may do; SEND stands with a number of bytes."""

    OPEN = "open"
    SEND = "send"
    HALF_CLOSE = "half-close"
    CLOSE = "close"
    RESET = "reset"


def plays() -> st.SearchStrategy[list[tuple[int, Act, int]]]:
    """Return plays: which side does what, and with how many bytes."""
    acts = st.sampled_from([Act.OPEN, Act.SEND, Act.SEND, Act.HALF_CLOSE, Act.CLOSE, Act.RESET])
    sizes = st.sampled_from([1, 100, 5000, 70_000, 300_000])
    return st.lists(st.tuples(st.integers(0, 1), acts, sizes), max_size=12)


class JoiningTests(TestCase):
    def setUp(self) -> Any:
        self.factory = Ends()
        self.sockets: list[socket.socket] = []
        self.ends: list[End] = []
        return ensureDeferred(self.listen())

    async def listen(self) -> None:
        endpoint = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        self.listening = await endpoint.listen(self.factory)
        self.port = self.listening.getHost().port

    def tearDown(self) -> Any:
        return ensureDeferred(self.end())

    async def end(self) -> None:
        """Close all; whatever is left in the reactor fails the test."""
        await self.listening.stopListening()
        for connection in self.sockets:
            connection.close()
        while any(end.connected for end in self.ends):
            await deferLater(running_reactor(), 0.005)

    def joined(self) -> list[End]:
        ends = list(joined_ends())
        self.ends += ends
        return ends

    def connect(self, end: End) -> socket.socket:
        """Return the client's side of a connection whose other side is an end."""
        self.factory.waiting.append(end)
        connection = socket.create_connection(("127.0.0.1", self.port), 20.0)
        self.sockets.append(connection)
        until(lambda: not self.factory.waiting, "the connection")
        return connection

    def pair(self) -> tuple[socket.socket, socket.socket]:
        first, second = self.joined()
        return self.connect(first), self.connect(second)

    @in_thread
    def test_bytes_go_both_ways(self) -> None:
        alice, bob = self.pair()
        data = random.Random(1).randbytes(3_000_000)
        for source, target in ((alice, bob), (bob, alice)):
            sender = threading.Thread(target=source.sendall, args=(data,))
            sender.start()
            received = bytearray()
            while len(received) < len(data):
                received += target.recv(65536)
            sender.join()
            self.assertEqual(data, received)

    @in_thread
    def test_bytes_that_come_before_the_other_connection_wait_in_the_kernel(self) -> None:
        first, second = self.joined()
        alice = self.connect(first)
        data = bytes(range(256)) * 40_000
        sender = threading.Thread(target=alice.sendall, args=(data,))
        sender.start()
        sender.join(0.2)
        self.assertTrue(sender.is_alive(), "somebody has read ten million bytes for nobody")
        self.assertEqual([], in_reactor(lambda: first._early))
        bob = self.connect(second)
        received = bytearray()
        while len(received) < len(data):
            received += bob.recv(65536)
        sender.join()
        self.assertEqual(data, received)

    @in_thread
    def test_who_does_not_read_pauses_the_sender_and_nothing_piles_up(self) -> None:
        first, second = self.joined()
        alice, bob = self.connect(first), self.connect(second)
        sent = 0
        alice.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                sent += alice.send(bytes(65536))
        transport = second.transport
        piled = in_reactor(lambda: len(transport.dataBuffer) + transport._tempDataLen)
        self.assertLessEqual(piled, 3 * 65536)
        self.assertLess(sent, 30_000_000)
        # The other direction is not in its way.
        bob.sendall(b"still there")
        self.assertEqual(b"still there", alice.recv(100))
        received = 0
        while received < sent:
            received += len(bob.recv(1 << 20))
        self.assertEqual(sent, received)

    @in_thread
    def test_one_direction_ends_alone(self) -> None:
        alice, bob = self.pair()
        alice.sendall(b"a question")
        alice.shutdown(socket.SHUT_WR)
        self.assertEqual(b"a question", read_to_the_end(bob))
        bob.sendall(b"an answer" * 100_000)
        bob.close()
        self.assertEqual(b"an answer" * 100_000, read_to_the_end(alice))

    @in_thread
    def test_an_end_before_the_other_connection_is_not_lost(self) -> None:
        first, second = self.joined()
        alice = self.connect(first)
        alice.sendall(b"all")
        alice.shutdown(socket.SHUT_WR)
        bob = self.connect(second)
        self.assertEqual(b"all", read_to_the_end(bob))
        bob.shutdown(socket.SHUT_WR)
        self.assertEqual(b"", read_to_the_end(alice))

    @in_thread
    def test_a_reset_is_passed_on_as_one(self) -> None:
        alice, bob = self.pair()
        alice.sendall(b"the beginning")
        self.assertEqual(b"the beginning", bob.recv(100))
        reset(alice)
        with self.assertRaises(OSError) as raised:
            bob.recv(100)
        self.assertEqual(errno.ECONNRESET, raised.exception.errno)

    @in_thread
    def test_giving_up_aborts_the_connection_that_is_there(self) -> None:
        first, _ = self.joined()
        alice = self.connect(first)
        in_reactor(first.give_up)
        self.assertIsNone(read_to_the_end(alice))

    @in_thread
    def test_giving_up_aborts_the_connection_that_comes_later(self) -> None:
        first, second = self.joined()
        alice = self.connect(first)
        in_reactor(second.give_up)
        bob = self.connect(second)
        self.assertIsNone(read_to_the_end(alice))
        self.assertIsNone(read_to_the_end(bob))

    @in_thread
    def test_giving_up_when_all_is_over_does_nothing(self) -> None:
        ends = self.joined()
        alice, bob = map(self.connect, ends)
        alice.close()
        self.assertEqual(b"", read_to_the_end(bob))
        bob.close()
        until(lambda: not any(end.connected for end in ends), "the end of both")
        for end in ends:
            in_reactor(end.give_up)

    @in_thread
    def test_any_play_ends_with_the_truth_on_both_sides(self) -> None:
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @example([(0, Act.OPEN, 1), (0, Act.SEND, 70_000), (0, Act.CLOSE, 1), (1, Act.OPEN, 1)])
        @example([(0, Act.OPEN, 1), (0, Act.RESET, 1), (1, Act.OPEN, 1)])
        @given(plays())
        def play(acts: list[tuple[int, Act, int]]) -> None:
            self.play(acts)

        play()

    def play(self, acts: list[tuple[int, Act, int]]) -> None:
        """Do what a play says, then end both sides; see what each side has got."""
        ends = self.joined()
        sides = [Side(self, end) for end in ends]
        for index, act, size in [*acts, (0, Act.OPEN, 0), (1, Act.OPEN, 0)]:
            sides[index].do(act, size)
        for side in sides:
            side.do(Act.HALF_CLOSE, 0)
        for side in sides:
            side.start_to_read()
        for side in sides:
            side.finish()
        for side, other in (sides, sides[::-1]):
            if side.got is not None:
                self.assertEqual(bytes(other.sent), side.got, acts)
                self.assertFalse(other.was_reset, acts)
        if not any(side.was_reset or side.was_closed for side in sides):
            self.assertNotIn(None, [side.got for side in sides if not side.was_closed], acts)
        until(lambda: not any(end.connected for end in ends), "the end of both connections")


class Side:
    """One side of a play: sends what it is told, and reads all the time."""

    def __init__(self, tests: JoiningTests, end: End) -> None:
        self._tests = tests
        self._end = end
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._read)
        self._random = random.Random(7)
        self.sent = bytearray()
        self.got: bytes | None = None
        self.was_reset = False
        self.was_closed = False
        self._ended = False

    def _read(self) -> None:
        assert self._socket is not None
        self.got = read_to_the_end(self._socket)

    def do(self, act: Act, size: int) -> None:
        if self._socket is None:
            if act is Act.OPEN:
                # An end that has been given up resets whoever comes, before they are there even.
                with contextlib.suppress(ConnectionError):
                    self._socket = self._tests.connect(self._end)
            return
        with contextlib.suppress(OSError):
            match act:
                case Act.SEND if not self._ended:
                    self._send(self._random.randbytes(size))
                case Act.HALF_CLOSE if not self._ended:
                    self._ended = True
                    self._socket.shutdown(socket.SHUT_WR)
                case Act.CLOSE if not self._ended:
                    self._ended = self.was_closed = True
                    self._socket.close()
                case Act.RESET if not self.was_closed:
                    # What was ended in order before may have arrived whole.
                    self.was_reset = not self._ended
                    self._ended = self.was_closed = True
                    reset(self._socket)

    def _send(self, data: bytes) -> None:
        """Send in pieces, as far as it goes at once: nobody may be reading yet."""
        assert self._socket is not None
        while data:
            size = self._random.choice([1, 1000, 65536])
            try:
                sent = self._socket.send(data[:size], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.sent += data[:sent]
            data = data[sent:]

    def start_to_read(self) -> None:
        if self._socket is not None and not self.was_closed:
            self._thread.start()

    def finish(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
            assert self._socket is not None
            self._socket.close()


class OrderTests(SynchronousTestCase):
    """Transports that go away in an order that sockets do not show."""

    def test_bytes_read_before_the_other_is_there_come_first(self) -> None:
        first, second = joined_ends()
        early, late = StringTransport(), StringTransport()
        first.makeConnection(early)
        self.assertEqual("paused", early.producerState)
        first.dataReceived(b"one ")
        first.dataReceived(b"two")
        second.makeConnection(late)
        self.assertEqual(b"one two", late.value())
        self.assertEqual("producing", early.producerState)

    def test_connections_that_end_before_they_are_joined(self) -> None:
        for failure in (Failure(ConnectionDone()), Failure(ValueError())):
            first, second = joined_ends()
            first.makeConnection(StringTransport())
            first.dataReceived(b"last words")
            first.connectionLost(failure)
            late = StringTransport()
            second.makeConnection(late)
            clean = failure.check(ConnectionDone) is not None
            self.assertEqual(b"last words" if clean else b"", late.value())
            self.assertEqual((True, not clean), (late.disconnecting, late.disconnected))
            second.connectionLost(Failure(ConnectionDone()))
