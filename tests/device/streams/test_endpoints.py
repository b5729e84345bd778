"""Twisted's endpoints over a device's streams."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from abst.device import (
    DeviceFactory,
    Peer,
    StreamAddress,
    StreamClientEndpoint,
    StreamServerEndpoint,
)
from abst.errors import StreamError
from abst.testing import MemoryNetwork
from tests.device.streams.doubles import Built, Echo, Notes


class EndpointTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = MemoryNetwork()
        lan = self.network.lan()
        self.alice = self.network.device("alice", DeviceFactory(), lan=lan.port())
        self.bob = self.network.device("bob", DeviceFactory(), lan=lan.port())
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        self.offered = Built(Echo)

    def result_of(self, waiting: Deferred[Any]) -> Any:
        """Return what becomes of something, also a failure."""
        found: list[Any] = []
        waiting.addBoth(found.append)
        for _ in range(20):
            self.network.settle()
            if found:
                break
            self.network.advance(0.25, 0.25)
        return found[0]

    def listen(self, **more: Any) -> Any:
        return self.result_of(StreamServerEndpoint(self.bob, "echo", **more).listen(self.offered))

    def connect(self) -> Any:
        endpoint = StreamClientEndpoint(self.alice, self.bob.device_id, "echo")
        return self.result_of(endpoint.connect(Built(Notes)))

    def test_they_are_twisted_s(self) -> None:
        server = StreamServerEndpoint(self.bob, "echo")
        verifyObject(IStreamServerEndpoint, server)
        client = StreamClientEndpoint(self.alice, self.bob.device_id, "echo")
        verifyObject(IStreamClientEndpoint, client)

    def test_what_connects_meets_what_listens(self) -> None:
        port = self.listen()
        notes = self.connect()
        self.assertEqual(StreamAddress(self.bob.device_id, "echo"), port.getHost())
        self.assertEqual([StreamAddress(self.alice.device_id, "echo")], self.offered.addresses)
        notes.transport.write(b"hello")
        self.network.settle()
        self.assertEqual(b"hello", bytes(notes.heard))

    def test_what_stops_listening_is_offered_no_more(self) -> None:
        self.listen().stopListening()
        failure = self.connect()
        self.assertIsInstance(failure.value, StreamError)
        self.assertEqual("no_service", failure.value.code)

    def test_who_is_not_admitted(self) -> None:
        asked: list[Any] = []

        def admits(peer: Peer) -> bool:
            asked.append(peer.device_id)
            return False

        self.listen(admits=admits)
        self.assertEqual("not_admitted", self.connect().value.code)
        self.assertEqual([self.alice.device_id], asked)

    def test_a_name_that_is_taken(self) -> None:
        self.listen()
        self.assertIsInstance(self.listen().value, StreamError)
