"""Forwards: connections to this machine that become streams to a service of a peer."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.streams.forwarding import MAX_CONNECTIONS, Forward, parse_local_endpoint
from abst.errors import AbstError
from tests.agent.streams.stage import StreamTestCase
from tests.carriers import running_reactor
from tests.device.streams.doubles import BIG, Built, Echo, HalfNotes, Notes


class LocalEndpointTests(SynchronousTestCase):
    def interface(self, text: str) -> str:
        """Return where an endpoint listens."""
        endpoint: Any = parse_local_endpoint(running_reactor(), text)
        interface: str = endpoint._interface
        return interface

    def test_a_port_is_this_machines_alone_unless_it_says_otherwise(self) -> None:
        for text, interface in (
            ("tcp:8080", "127.0.0.1"),
            ("tcp:port=8080", "127.0.0.1"),
            ("tcp:8080:backlog=5", "127.0.0.1"),
            ("tcp:8080:interface=0.0.0.0", "0.0.0.0"),
            ("tcp:8080:192.0.2.7", "192.0.2.7"),
            ("tcp6:8080", "::1"),
            ("tcp6:8080:50", "::1"),
            (r"tcp6:8080:interface=2001\:db8\:\:1", "2001:db8::1"),
        ):
            self.assertEqual(interface, self.interface(text), text)

    def test_what_stands_around_a_port_may_say_where_it_listens(self) -> None:
        for text in ("haproxy:tcp:8080:interface=127.0.0.1", "haproxy:unix:/tmp/tcp"):
            parse_local_endpoint(running_reactor(), text)

    def test_what_cannot_be_used_is_refused(self) -> None:
        for text, word in (
            ("", "no endpoint"),
            ("8080", "no endpoint"),
            ("tcp:http", "no endpoint"),
            ("tcp:80:colour=red", "no endpoint"),
            ("unix:x.sock", "begin with /"),
            ("unix:address=x.sock", "begin with /"),
            ("tcp:" + "1" * 1000, "at most"),
            ("haproxy:tcp:8080", "interface=127.0.0.1"),
            ("haproxy:tcp6:8080", "interface=127.0.0.1"),
            ("haproxy:haproxy:ssl:443", "interface=127.0.0.1"),
            (r"some:endpoint=tcp\:8080", "interface=127.0.0.1"),
        ):
            error = self.assertRaises(AbstError, parse_local_endpoint, running_reactor(), text)
            self.assertIn(word, str(error))


class ForwardTests(StreamTestCase):
    """What leads from Bob's machine to Alice's."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.told: list[dict[str, Any]] = []
        self.now = 0.0
        self.offered = Built(Echo)

    def seconds(self) -> float:
        return self.now

    async def forward(self, text: str = "tcp:0", service: str = "echo") -> Forward:
        peer = self.bob.peers.find("alice")
        forward = Forward(self.bob, peer, service, self.told.append, self.seconds)
        await forward.listen(parse_local_endpoint(self.reactor, text))
        self.addCleanup(lambda: Deferred.fromCoroutine(forward.stop()))
        return forward

    async def connect(self, forward: Forward, notes: Any = None) -> Any:
        """Return a protocol that is connected to where a forward listens."""
        kind = "unix" if "/" in forward.address else "tcp"
        endpoint = clientFromString(self.reactor, f"{kind}:{forward.address}")
        return await connectProtocol(endpoint, notes or Notes())

    async def test_a_connection_leads_to_the_peer(self) -> None:
        await self.alice.streams.listen("echo", self.offered)
        forward = await self.forward()
        self.assertRegex(forward.address, r"\A127\.0\.0\.1:[1-9][0-9]*\Z")
        ends = [await self.connect(forward, HalfNotes()) for _ in range(3)]
        for end in ends:
            end.transport.write(BIG)
            end.transport.loseWriteConnection()
        await self.until(lambda: all("read" in end.halves for end in ends))
        for end in ends:
            self.assertEqual((BIG, None), (bytes(end.heard), end.ended))
            end.transport.loseConnection()
        self.assertEqual([], self.told)
        await self.until(lambda: not self.bob.streams.open_streams())

    async def test_it_listens_at_a_socket_too(self) -> None:
        await self.alice.streams.listen("echo", self.offered)
        path = self.homes["bob"] / "x.sock"
        forward = await self.forward(f"unix:{path}")
        self.assertEqual(os.fspath(path), forward.address)
        end = await self.connect(forward)
        end.transport.write(b"hello")
        await self.until(lambda: bytes(end.heard) == b"hello")

    async def test_where_it_cannot_listen(self) -> None:
        taken = self.reactor.listenTCP(0, Built(Notes), interface="127.0.0.1")
        self.addCleanup(taken.stopListening)
        with self.assertRaises(AbstError) as refused:
            await self.forward(f"tcp:{taken.getHost().port}")
        self.assertIn("cannot listen", str(refused.exception))

    async def test_a_connection_that_cannot_be_made_is_closed_and_told_of(self) -> None:
        forward = await self.forward()
        end = await self.connect(forward)
        await self.until(lambda: end.ended)
        (told,) = self.told
        self.assertEqual("failed", told["kind"])
        self.assertIn("no such service", told["reason"])

    async def test_it_is_told_once_a_second_and_when_it_works_again(self) -> None:
        forward = await self.forward()
        for now, count in ((0.0, 1), (0.5, 1), (0.9, 1), (1.0, 2)):
            self.now = now
            end = await self.connect(forward)
            await self.until(lambda end=end: end.ended)  # type: ignore[misc]
            self.assertEqual(count, len(self.told))
        await self.alice.streams.listen("echo", self.offered)
        for _ in range(2):
            end = await self.connect(forward)
            end.transport.write(b"x")
            await self.until(lambda end=end: end.heard)  # type: ignore[misc]
        self.assertEqual([{"kind": "working"}], self.told[2:])

    async def test_that_it_works_is_no_news_after_what_was_not_told(self) -> None:
        forward = await self.forward()
        for service in ("nothing", "echo", "nothing", "echo"):
            forward.service = service
            if service == "echo" and not self.alice.streams.services():
                await self.alice.streams.listen("echo", self.offered)
            end = await self.connect(forward)
            end.transport.write(b"x")
            await self.until(lambda end=end: end.heard or end.ended)  # type: ignore[misc]
        self.assertEqual(["failed", "working"], [one["kind"] for one in self.told])

    async def test_with_the_forward_end_its_connections(self) -> None:
        await self.alice.streams.listen("echo", self.offered)
        forward = await self.forward()
        end = await self.connect(forward)
        end.transport.write(b"x")
        await self.until(lambda: end.heard)
        await forward.stop()
        await self.until(lambda: end.ended and self.offered.built[0].ended)
        self.assertEqual([], self.bob.streams.open_streams())
        self.assertEqual([], self.told)

    async def test_what_is_being_opened_ends_too(self) -> None:
        """Also what would be tried for long: a peer's address that takes connections in silence."""
        silent = Built(Notes)
        port = self.reactor.listenTCP(0, silent, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        peer = self.bob.trust(self.make_device().device_id)
        self.bob.peers.add_address(peer.device_id, f"127.0.0.1:{port.getHost().port}")
        forward = await self.forward()
        forward.peer = peer
        end = await self.connect(forward)
        await self.until(lambda: silent.built)
        begun = self.reactor.seconds()
        await forward.stop()
        await self.until(lambda: end.ended and silent.built[0].ended)
        self.assertLess(self.reactor.seconds() - begun, 5.0)
        self.assertEqual([], self.told)

    async def test_there_is_an_end_to_how_many(self) -> None:
        await self.alice.streams.listen("echo", self.offered)
        forward = await self.forward()
        ends = [await self.connect(forward) for _ in range(MAX_CONNECTIONS)]
        await self.until(lambda: forward.connection_count == MAX_CONNECTIONS)
        late = await self.connect(forward)
        await self.until(lambda: late.ended)
        self.assertIn("open already", self.told[0]["reason"])
        ends[0].transport.abortConnection()
        await self.until(lambda: forward.connection_count < MAX_CONNECTIONS)
