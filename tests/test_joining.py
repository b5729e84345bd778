"""Two connections joined in user space: bytes, pauses and every kind of end, over loopback TCP."""

from __future__ import annotations

import contextlib
import errno
import functools
import random
import socket
import threading
from typing import Any

from hypothesis import HealthCheck, example, given, settings
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
from tests.plays import Act, Play, perform, plays, read_to_the_end, reset


class Ends(Factory):
    """Gives each connection the next one of the ends that wait."""

    noisy = False

    def __init__(self) -> None:
        self.waiting: list[End] = []

    def buildProtocol(self, addr: object) -> End:
        return self.waiting.pop(0)


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
        # It may be reset before the client has heard that it is connected.
        with contextlib.suppress(ConnectionResetError):
            bob = self.connect(second)
            self.assertIsNone(read_to_the_end(bob))
        self.assertIsNone(read_to_the_end(alice))

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
        def check(play: Play) -> None:
            ends = self.joined()
            perform(play, [functools.partial(self.connect, end) for end in ends])
            until(lambda: not any(end.connected for end in ends), "the end of both connections")

        check()


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
