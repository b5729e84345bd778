"""Circuits over real sockets: plain legs and legs inside TLS, in every combination."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from abst import codec
from abst.identity import Identity
from abst.packets import REALM_TO_DEVICE, Circuit, ConnectToDevice, Error, Leg, parse
from abst.realm import RealmFactory
from abst.realm.limits import Limits
from tests.carriers import (
    Behaviour,
    TimeOnlyReactor,
    in_thread,
    running_reactor,
    until,
)
from tests.integration.raw_client import RawDevice, client_context, identities

REALM_IDENTITY = Identity.generate()
ALICE, BOB, CAROL = identities(3)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Return that many bytes."""
    found = bytearray()
    while len(found) < size:
        data = connection.recv(min(1 << 20, size - len(found)))
        if not data:
            raise EOFError(f"{len(found)} of {size} bytes")
        found += data
    return bytes(found)


def read_to_the_end(connection: socket.socket) -> bytes | None:
    """Return all bytes until the other side's end, or None when the connection fails."""
    found = bytearray()
    try:
        while data := connection.recv(1 << 18):
            found += data
    except (ConnectionError, ssl.SSLError):
        return None
    return bytes(found)


def error_of(connection: socket.socket) -> Error:
    """Return the Error with which the realm has closed a leg."""
    data = read_to_the_end(connection)
    assert data is not None, "the leg was reset"
    packet = parse(codec.decode(data), REALM_TO_DEVICE)
    assert isinstance(packet, Error)
    return packet


def reset(connection: socket.socket) -> None:
    """Close a socket as a process that crashes does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class CircuitBehaviour(Behaviour):
    """What circuits do, whatever carries them; the subclasses say what does."""

    splices = True
    limits = Limits()
    inside_tls = (False, False)
    """Whether the asker's leg is inside TLS, and the target's."""

    def make_reactor(self) -> Any:
        return running_reactor()

    def setUp(self) -> Any:
        self.sockets: list[Any] = []
        self.factory = RealmFactory(
            self.make_reactor(), REALM_IDENTITY, self.limits, splices=self.splices
        )
        self.realm = self.factory.realm
        return ensureDeferred(self.listen())

    async def listen(self) -> None:
        endpoint = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        self.listening = await endpoint.listen(self.factory)
        self.port = self.listening.getHost().port

    def tearDown(self) -> Any:
        return ensureDeferred(self.end())

    async def end(self) -> None:
        """Close all; whatever the realm has left behind fails the test."""
        await self.listening.stopListening()
        self.factory.stop()
        for connection in self.sockets:
            connection.close()
        while self.realm.conversations or self.factory.legs:
            await deferLater(running_reactor(), 0.005)
        self.assertEqual(0, len(self.realm.circuits))
        self.assertEqual({}, self.realm.circuits._awaited)
        self.assertEqual(set(), self.factory.newcomers)
        self.assertIsNone(self.realm.next_deadline())

    def join(self, identity: Identity) -> RawDevice:
        """Return a device on whose connection Hello has been answered."""
        device = RawDevice(self.port, identity)
        self.sockets.append(device)
        device.hello()
        return device

    def plain(self) -> socket.socket:
        """Return a connection without TLS."""
        connection = socket.create_connection(("127.0.0.1", self.port), 20.0)
        self.sockets.append(connection)
        return connection

    def ask(self, asker: RawDevice, target: RawDevice) -> tuple[Circuit, Circuit]:
        """Return what both are told of a circuit that the first has asked for."""
        asker.send(ConnectToDevice(asker.device_id, target.device_id, request=5))
        answers = asker.receive(), target.receive()
        for answer in answers:
            assert isinstance(answer, Circuit), answer
        return answers  # type: ignore[return-value]

    def connect(self, identity: Identity, inside_tls: bool) -> socket.socket:
        connection = self.plain()
        if inside_tls:
            connection = client_context(identity).wrap_socket(
                connection, suppress_ragged_eofs=False
            )
            self.sockets.append(connection)
        return connection

    def leg(
        self, identity: Identity, token: bytes, inside_tls: bool, early: bytes = b""
    ) -> socket.socket:
        """Return a leg that has sent its token, and something behind it."""
        connection = self.connect(identity, inside_tls)
        connection.sendall(codec.encode(Leg(token)) + early)
        return connection

    def circuit(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a circuit that is joined."""
        devices = self.join(ALICE), self.join(BOB)
        offers = self.ask(*devices)
        first, second = (
            self.leg(identity, offer.token, inside)
            for identity, offer, inside in zip((ALICE, BOB), offers, self.inside_tls, strict=True)
        )
        joined = self.realm.counters
        until(lambda: joined.circuits_joined, "the circuit")
        return first, second

    def until_over(self) -> None:
        until(lambda: not len(self.realm.circuits), "the end of the circuit")
        until(lambda: not self.factory.legs, "the end of the legs")

    @in_thread
    def test_bytes_go_both_ways(self) -> None:
        alice, bob = self.circuit()
        data = random.Random(1).randbytes(5_000_000)
        for source, target in ((alice, bob), (bob, alice)):
            sender = threading.Thread(target=source.sendall, args=(data,))
            sender.start()
            self.assertEqual(data, read_exactly(target, len(data)))
            sender.join()
        until(lambda: self.realm.counters.circuit_bytes == 2 * len(data), "all bytes counted")

    @in_thread
    def test_early_bytes_are_kept_and_delivered(self) -> None:
        devices = self.join(ALICE), self.join(BOB)
        offers = self.ask(*devices)
        data = random.Random(2).randbytes(3_000_000)
        first = self.leg(ALICE, offers[0].token, self.inside_tls[0], data[:1000])
        sender = threading.Thread(target=first.sendall, args=(data[1000:],))
        sender.start()
        second = self.leg(BOB, offers[1].token, self.inside_tls[1], b"hello")
        self.assertEqual(data, read_exactly(second, len(data)))
        sender.join()
        self.assertEqual(b"hello", read_exactly(first, 5))

    @in_thread
    def test_a_reset_resets_the_other_leg(self) -> None:
        alice, bob = self.circuit()
        alice.sendall(b"the beginning")
        self.assertEqual(b"the beginning", read_exactly(bob, 13))
        reset(alice)
        self.assertIsNone(read_to_the_end(bob))
        self.until_over()


class PlainInUserSpaceTests(CircuitBehaviour, TestCase):
    splices = False


class SplicedTests(CircuitBehaviour, TestCase):
    pass


class WithoutDescriptorsTests(CircuitBehaviour, TestCase):
    def make_reactor(self) -> Any:
        return TimeOnlyReactor()


class InsideTlsTests(CircuitBehaviour, TestCase):
    inside_tls = (True, True)


class HalfInsideTlsTests(CircuitBehaviour, TestCase):
    inside_tls = (False, True)


class InsideBufferedTlsTests(CircuitBehaviour, TestCase):
    inside_tls = (True, True)

    def make_reactor(self) -> Any:
        return TimeOnlyReactor()
