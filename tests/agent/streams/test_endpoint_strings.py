"""What endpoint strings mean: through the agent of the user's device, with any protocol."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from abst.agent.streams.endpoint_strings import (
    AgentClientEndpoint,
    AgentServerEndpoint,
    client_endpoint,
    server_endpoint,
)
from abst.agent.streams.gate_client import AgentAbsentError
from abst.agent.streams.gate_lines import MAX_LINE_BYTES, SOCKET_NAME
from abst.device import StreamAddress
from abst.errors import AbstError, PeerUnreachableError, StreamError
from tests.agent.streams.stage import StreamTestCase
from tests.device.streams.doubles import BIG, Built, Echo, HalfNotes, Notes, Pusher


class ParsingTests(SynchronousTestCase):
    """What the strings mean, and what is wrong with others."""

    def test_strings_that_are_wrong(self) -> None:
        for parse, arguments, more, word in (
            (server_endpoint, ["a b"], {}, "letters"),
            (server_endpoint, ["abst.files"], {}, "ABST's own"),
            (server_endpoint, ["web"], {"peers": "a,,b"}, "lacks a name"),
            (server_endpoint, ["web"], {"peers": "a,"}, "lacks a name"),
            (client_endpoint, ["laptop", ""], {}, "letters"),
            (client_endpoint, ["laptop", "web"], {"timeout": "0"}, "timeout"),
            (client_endpoint, ["laptop", "web"], {"timeout": "nan"}, "timeout"),
            (client_endpoint, ["laptop", "web"], {"timeout": "soon"}, "soon"),
        ):
            error = self.assertRaises(
                ValueError,
                parse,
                None,
                *arguments,
                **more,
            )
            self.assertIn(word, str(error))

    def test_they_are_endpoints(self) -> None:
        verifyObject(IStreamServerEndpoint, server_endpoint(None, "web", home="~/x"))
        verifyObject(IStreamClientEndpoint, client_endpoint(None, "laptop", "web", home="~/x"))


class ProgramTestCase(StreamTestCase):
    """Programs of Alice's and Bob's users."""

    def server(self, name: str, service: str, peers: str = "") -> AgentServerEndpoint:
        return server_endpoint(self.reactor, service, peers=peers, home=str(self.homes[name]))

    def client(self, name: str, peer: str, service: str, timeout: str = "") -> AgentClientEndpoint:
        home = str(self.homes[name])
        return client_endpoint(self.reactor, peer, service, timeout=timeout, home=home)

    async def listen(self, name: str, service: str, factory: Factory, peers: str = "") -> Any:
        """Return the port of a program; it is closed in the end."""
        port: Any = await self.server(name, service, peers).listen(factory)
        self.addCleanup(port.stopListening)
        return port

    async def pair(self, far: Any = Notes, near: Any = Notes) -> tuple[Any, Any]:
        """Return the protocols of two programs with a stream between them."""
        offered = Built(far)
        await self.listen("alice", "web", offered)
        notes = await self.client("bob", "alice", "web").connect(Built(near))
        await self.until(lambda: offered.built)
        return notes, offered.built[0]


class StreamTests(ProgramTestCase):
    """A stream from a program at Bob's to one at Alice's."""

    async def test_much_goes_both_ways_whole(self) -> None:
        near, far = await self.pair(Echo)
        near.transport.write(BIG)
        await self.until(lambda: len(near.heard) == len(BIG))
        self.assertEqual((BIG, BIG), (bytes(near.heard), bytes(far.heard)))

    async def test_both_programs_see_who_they_talk_to(self) -> None:
        near, far = await self.pair()
        alices = StreamAddress(self.alice.device_id, "web")
        bobs = StreamAddress(self.bob.device_id, "web")
        self.assertEqual((bobs, alices), (near.transport.getHost(), near.transport.getPeer()))
        self.assertEqual((alices, bobs), (far.transport.getHost(), far.transport.getPeer()))
        self.assertEqual((str(self.bob.device_id), 0), (bobs.host, bobs.port))
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, near.transport)

    async def test_one_direction_ends_and_the_other_goes_on(self) -> None:
        near, far = await self.pair(HalfNotes, HalfNotes)
        near.transport.write(b"question")
        near.transport.loseWriteConnection()
        await self.until(lambda: far.halves == ["read"])
        self.assertEqual(b"question", bytes(far.heard))
        far.transport.write(BIG)
        far.transport.loseWriteConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(BIG, bytes(near.heard))
        for end in (near, far):
            self.assertIsInstance(end.ended, ConnectionDone)

    async def test_who_closes_loses_nothing(self) -> None:
        near, far = await self.pair()
        far.transport.write(BIG)
        far.transport.loseConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(BIG, bytes(near.heard))
        for end in (near, far):
            self.assertIsInstance(end.ended, ConnectionDone)
        await self.until(lambda: not self.alice.streams.open_streams())

    async def test_who_aborts_is_not_taken_for_who_closes(self) -> None:
        for aborts in (0, 1):
            ends = await self.pair()
            ends[0].transport.write(b"half")
            await self.until(lambda ends=ends: ends[1].heard)  # type: ignore[misc]
            ends[aborts].transport.abortConnection()
            await self.until(lambda ends=ends: ends[0].ended and ends[1].ended)  # type: ignore[misc]
            self.assertNotIsInstance(ends[1 - aborts].ended, ConnectionDone)
            await self.stop_agent("alice")
            self.start_agent("alice")

    async def test_a_stream_that_breaks_is_not_taken_for_one_that_ends(self) -> None:
        near, far = await self.pair()
        near.transport.write(b"half")
        await self.until(lambda: far.heard)
        (stream,) = self.alice.streams.open_streams()
        stream.abortConnection()
        await self.until(lambda: near.ended and far.ended)
        for end in (near, far):
            self.assertNotIsInstance(end.ended, ConnectionDone)

    async def test_who_does_not_read_makes_the_other_one_wait(self) -> None:
        near, far = await self.pair()
        far.transport.pauseProducing()
        pusher = Pusher(near.transport, BIG)
        near.transport.registerProducer(pusher, True)
        written = -1
        while written != pusher.written:
            written = pusher.written
            # It has to stand still; for a while there is still room on the way.
            for _ in range(50):
                pusher.push(len(BIG))
                await self.turns(5)
            self.assertLess(pusher.written, 30_000_000)
        self.assertTrue(pusher.is_paused)
        far.transport.resumeProducing()
        await self.until(lambda: len(far.heard) == written)
        await self.until(lambda: not pusher.is_paused)
        near.transport.unregisterProducer()

    async def test_bytes_that_come_at_once_are_not_lost(self) -> None:
        class Greeter(Notes):
            def connectionMade(self) -> None:
                self.transport.write(b"welcome")
                self.transport.loseConnection()

        near, _ = await self.pair(Greeter)
        await self.until(lambda: near.ended)
        self.assertEqual(b"welcome", bytes(near.heard))


class RefusalTests(ProgramTestCase):
    async def test_no_agent_runs(self) -> None:
        await self.stop_agent("bob")
        home = str(self.homes["bob"])
        for waiting in (
            self.server("bob", "web").listen(Built(Notes)),
            self.client("bob", "alice", "web").connect(Built(Notes)),
        ):
            await self.fails(waiting, AgentAbsentError, home, "not running", "abst up")

    async def test_who_cannot_listen_knows_at_once(self) -> None:
        """A stock service ends with what fails at once, and only logs what fails later."""
        await self.stop_agent("bob")
        failed: list[Any] = []
        self.server("bob", "web").listen(Built(Notes)).addErrback(failed.append)
        self.assertEqual(1, len(failed))

    async def test_what_is_not_offered(self) -> None:
        connecting = self.client("bob", "alice", "web").connect(Built(Notes))
        await self.fails(connecting, AbstError, "no such service")

    async def test_a_peer_that_is_not_known(self) -> None:
        connecting = self.client("bob", "carol", "web").connect(Built(Notes))
        await self.fails(connecting, AbstError, "abst peers")
        listening = self.server("bob", "web", peers="alice,carol").listen(Built(Notes))
        await self.fails(listening, AbstError, "carol")

    async def test_a_peer_that_is_not_admitted(self) -> None:
        stranger = self.make_device()
        self.alice.trust(stranger.device_id, "carol")
        offered = Built(Notes)
        await self.listen("alice", "web", offered, peers="carol")
        connecting = self.client("bob", "alice", "web").connect(Built(Notes))
        await self.fails(connecting, AbstError, "ask its owner to admit")
        self.assertEqual([], offered.built)

    async def test_a_name_that_is_taken(self) -> None:
        await self.listen("alice", "web", Built(Notes))
        listening = self.server("alice", "web").listen(Built(Notes))
        await self.fails(listening, AbstError, "already")

    async def test_a_factory_that_builds_nothing(self) -> None:
        class Nothing(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> None:
                return None

        await self.listen("alice", "web", Nothing())
        connecting = self.client("bob", "alice", "web").connect(Nothing())
        await self.fails(connecting, StreamError, "refuses")
        near: Any = await self.client("bob", "alice", "web").connect(Built(Notes))
        await self.until(lambda: near.ended)
        self.assertNotIsInstance(near.ended, ConnectionDone)

    async def test_who_does_not_answer_is_not_waited_for(self) -> None:
        silent = self.make_device()
        self.bob.trust(silent.device_id, "silent")
        port = self.reactor.listenTCP(0, Built(Notes), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.bob.peers.add_address(silent.device_id, f"127.0.0.1:{port.getHost().port}")
        connecting = self.client("bob", "silent", "web", timeout="0.1").connect(Built(Notes))
        await self.fails(connecting, PeerUnreachableError, "0.1 s")

    async def test_an_agent_that_makes_no_sense(self) -> None:
        class Babble(Notes):
            said = b"x" * (MAX_LINE_BYTES + 1)

            def connectionMade(self) -> None:
                self.transport.write(self.said)

        class Nonsense(Babble):
            said = b'{"ok": 5}\n'

        for babble in (Babble, Nonsense):
            await self.stop_agent("bob")
            path = str(self.homes["bob"] / SOCKET_NAME)
            port = self.reactor.listenUNIX(path, Built(babble))
            for waiting in (
                self.server("bob", "web").listen(Built(Notes)),
                self.client("bob", "alice", "web").connect(Built(Notes)),
            ):
                await self.fails(waiting, AbstError, "not understood")
            await port.stopListening()
            self.start_agent("bob")

    async def test_an_agent_that_stops_before_it_answers(self) -> None:
        await self.stop_agent("bob")
        path = str(self.homes["bob"] / SOCKET_NAME)

        class Leaver(Notes):
            def dataReceived(self, data: bytes) -> None:
                self.transport.abortConnection()

        port = self.reactor.listenUNIX(path, Built(Leaver))
        self.addCleanup(port.stopListening)
        connecting = self.client("bob", "alice", "web").connect(Built(Notes))
        await self.fails(connecting, AgentAbsentError, "before it had answered")

    async def test_connecting_can_be_cancelled(self) -> None:
        await self.listen("alice", "web", Built(Notes))
        connecting = self.client("bob", "alice", "web").connect(Built(Notes))
        connecting.cancel()
        await self.fails(connecting, CancelledError)
        await self.until(lambda: not self.gates["bob"].connection_count)
        self.assertEqual([], self.bob.streams.open_streams())


class PortTests(ProgramTestCase):
    """What a program has that listens, also when the agent is started again."""

    async def test_it_is_a_port(self) -> None:
        port = await self.listen("alice", "web", Built(Notes))
        verifyObject(IListeningPort, port)
        self.assertEqual(StreamAddress(self.alice.device_id, "web"), port.getHost())

    async def test_who_stops_listening_is_offered_no_more(self) -> None:
        near, _ = await self.pair(Echo)
        port = await self.listen("alice", "other", Built(Notes))
        await port.stopListening()
        await port.stopListening()
        await self.until(lambda: self.alice.streams.services() == ["web"])
        near.transport.write(b"the stream goes on")
        await self.until(lambda: bytes(near.heard) == b"the stream goes on")

    async def test_the_factory_is_told_when_it_begins_and_ends(self) -> None:
        offered = Built(Notes)
        port = await self.listen("alice", "web", offered)
        self.assertEqual(1, offered.numPorts)
        await port.stopListening()
        self.assertEqual(0, offered.numPorts)

    async def test_it_listens_again_when_the_agent_is_back(self) -> None:
        offered = Built(Echo)
        await self.listen("alice", "web", offered)
        for _ in range(2):
            await self.stop_agent("alice")
            await self.until(lambda: not self.alice.streams.services())
            # Long enough to have asked in vain.
            await self.turns(100)
            self.start_agent("alice")
            await self.until(lambda: self.alice.streams.services())
            near: Any = await self.client("bob", "alice", "web").connect(Built(Notes))
            near.transport.write(b"hello")
            await self.until(lambda near=near: near.heard)  # type: ignore[misc]

    async def test_it_can_stop_while_the_agent_is_away(self) -> None:
        port = await self.listen("alice", "web", Built(Notes))
        await self.stop_agent("alice")
        await self.turns(20)
        await port.stopListening()
        self.start_agent("alice")
        await self.turns(50)
        self.assertEqual([], self.alice.streams.services())

    async def test_it_waits_for_its_name(self) -> None:
        await self.listen("alice", "web", Built(Echo))
        await self.stop_agent("alice")
        other: Any = await self.alice.streams.listen("web", Built(Notes))
        self.start_agent("alice")
        await self.turns(100)
        other.stopListening()
        await self.until(lambda: list(self.gates["alice"].listeners()))
