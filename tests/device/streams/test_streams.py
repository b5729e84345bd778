"""Streams between devices: one behaviour, whatever carries them."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from abst.address import RealmAddress
from abst.device import Device, DeviceFactory, StreamAddress
from abst.device.lan import LocalNetwork
from abst.device.link import RealmLink
from abst.device.streams import stream
from abst.device.streams.streams import MAX_STREAMS_OF_PEER
from abst.errors import (
    Code,
    NotTrustedError,
    PeerUnreachableError,
    StreamError,
)
from abst.identity import Identity
from abst.realm import RealmFactory
from abst.realm.limits import Limits
from abst.testing import MemoryNetwork
from tests.carriers import running_reactor
from tests.device.streams.doubles import (
    BIG,
    Built,
    Echo,
    HalfNotes,
    MemoryWorld,
    Notes,
    Puller,
    Pusher,
    TcpWorld,
    World,
)


class StreamBehaviour(World):
    """What a stream does; the subclasses say what carries it."""

    # Bytes.

    async def test_bytes_go_both_ways(self) -> None:
        await self.begin()
        near, far = await self.open(Notes, Echo)
        near.transport.write(b"one ")
        near.transport.writeSequence([b"two ", b"three"])
        await self.until(lambda: bytes(near.heard) == b"one two three")
        self.assertEqual(near.transport.path.kind, self.path_kind)
        self.assertEqual(far.transport.path.kind, self.path_kind)

    async def test_much_goes_through_whole(self) -> None:
        await self.begin()
        near, far = await self.open(Notes, Echo)
        near.transport.write(BIG)
        await self.until(lambda: len(near.heard) == len(BIG))
        self.assertEqual(BIG, bytes(near.heard))
        self.assertEqual(len(BIG), near.transport.sent_bytes)
        self.assertEqual(len(BIG), far.transport.received_bytes)

    async def test_the_acceptor_may_speak_first(self) -> None:
        class Greeter(Notes):
            def connectionMade(self) -> None:
                self.transport.write(b"welcome")

        await self.begin()
        near, _ = await self.open(Notes, Greeter)
        await self.until(lambda: bytes(near.heard) == b"welcome")

    async def test_both_ends_say_who_they_are(self) -> None:
        await self.begin()
        near, far = await self.open(service="web.1")
        alices = StreamAddress(self.alice.device_id, "web.1")
        bobs = StreamAddress(self.bob.device_id, "web.1")
        self.assertEqual((alices, bobs), (near.transport.getHost(), near.transport.getPeer()))
        self.assertEqual((bobs, alices), (far.transport.getHost(), far.transport.getPeer()))
        verifyObject(IAddress, alices)
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, near.transport)

    async def test_streams_do_not_disturb_each_other(self) -> None:
        await self.begin()
        offered = Built(Echo)
        await self.bob.streams.listen("echo", offered)
        ends = [await self.connect("echo", Built(Notes)) for _ in range(5)]
        for number, end in enumerate(ends):
            end.transport.write(b"%d" % number * 1000)
        ends[2].transport.abortConnection()
        others = [0, 1, 3, 4]
        await self.until(lambda: all(len(ends[number].heard) == 1000 for number in others))
        self.assertEqual([b"%d" % n * 1000 for n in others], [bytes(ends[n].heard) for n in others])

    # Ends.

    async def test_who_closes_loses_nothing(self) -> None:
        await self.begin()
        near, far = await self.open()
        near.transport.write(BIG)
        near.transport.loseConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(BIG, bytes(far.heard))
        self.assertIsInstance(near.ended, ConnectionDone)
        self.assertIsInstance(far.ended, ConnectionDone)
        await self.nothing_is_left()

    async def test_the_acceptor_may_close(self) -> None:
        await self.begin()
        near, far = await self.open()
        far.transport.write(b"goodbye")
        far.transport.loseConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(b"goodbye", bytes(near.heard))
        self.assertIsInstance(near.ended, ConnectionDone)
        self.assertIsInstance(far.ended, ConnectionDone)

    async def test_one_direction_ends_and_the_other_goes_on(self) -> None:
        await self.begin()
        near, far = await self.open(HalfNotes, HalfNotes)
        near.transport.write(b"question")
        near.transport.loseWriteConnection()
        near.transport.write(b"too late")
        await self.until(lambda: far.halves == ["read"])
        self.assertEqual((["write"], b"question"), (near.halves, bytes(far.heard)))
        far.transport.write(BIG)
        await self.until(lambda: len(near.heard) == len(BIG))
        self.assertIsNone(near.ended)
        far.transport.loseWriteConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(["write", "read"], near.halves)
        self.assertIsInstance(near.ended, ConnectionDone)
        self.assertIsInstance(far.ended, ConnectionDone)

    async def test_who_knows_no_halves_closes_with_the_other(self) -> None:
        await self.begin()
        near, far = await self.open(HalfNotes, Notes)
        near.transport.loseWriteConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertIsInstance(far.ended, ConnectionDone)
        self.assertIsInstance(near.ended, ConnectionDone)

    async def test_an_abort_is_no_end(self) -> None:
        await self.begin()
        near, far = await self.open(HalfNotes, HalfNotes)
        near.transport.write(b"half of a")
        near.transport.abortConnection()
        await self.until(lambda: near.ended and far.ended)
        self.assertIsInstance(near.ended, ConnectionAborted)
        self.assertIsInstance(far.ended, ConnectionLost)
        self.assertEqual([], far.halves)
        await self.nothing_is_left()

    async def test_an_end_that_is_asked_for_in_the_middle_comes_later(self) -> None:
        class Aborter(Notes):
            def dataReceived(self, data: bytes) -> None:
                self.transport.abortConnection()
                assert self.ended is None

        await self.begin()
        near, far = await self.open(Notes, Aborter)
        near.transport.write(b"x")
        await self.until(lambda: near.ended and far.ended)
        self.assertIsInstance(far.ended, ConnectionAborted)
        self.assertIsInstance(near.ended, ConnectionLost)

    async def test_a_protocol_that_fails_breaks_its_stream_alone(self) -> None:
        class Mistaken(Notes):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError("a mistake")

        await self.begin()
        near, far = await self.open(Notes, Mistaken)
        other, _ = await self.open(Notes, Echo, "other")
        near.transport.write(b"x")
        await self.until(lambda: near.ended and far.ended)
        self.assertIsInstance(far.ended, ZeroDivisionError)
        self.assertIsInstance(near.ended, ConnectionLost)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        other.transport.write(b"here")
        await self.until(lambda: bytes(other.heard) == b"here")

    async def test_a_protocol_that_cannot_begin(self) -> None:
        class Stillborn(Notes):
            def connectionMade(self) -> None:
                raise ZeroDivisionError("a mistake")

        await self.begin()
        offered = Built(Stillborn)
        await self.bob.streams.listen("notes", offered)
        try:
            near = await self.connect("notes", Built(Notes))
        except PeerUnreachableError:
            pass  # That it broke overtook that it had been opened.
        else:
            await self.until(lambda: near.ended)
            self.assertIsInstance(near.ended, ConnectionLost)
        await self.until(lambda: offered.built[0].ended)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        await self.bob.streams.listen("other", Built(Notes))
        try:
            await self.connect("other", Built(Stillborn))
        except ZeroDivisionError:
            pass
        else:
            self.fail("it was opened")
        await self.nothing_is_left()

    async def test_a_producer_that_fails_keeps_no_stream_open(self) -> None:
        class Mistaken(Pusher):
            def stopProducing(self) -> None:
                raise ZeroDivisionError("a mistake")

        await self.begin()
        near, far = await self.open()
        near.transport.registerProducer(Mistaken(near.transport, b""), True)
        self.assertRaises(ZeroDivisionError, near.transport.abortConnection)
        await self.until(lambda: near.ended and far.ended)
        await self.nothing_is_left()

    # Flow.

    async def test_who_does_not_read_is_waited_for(self) -> None:
        await self.begin()
        near, far = await self.open()
        far.transport.pauseProducing()
        pusher = Pusher(near.transport, BIG[:65536])
        near.transport.registerProducer(pusher, True)
        while not pusher.is_paused:
            pusher.push(1 << 20)
            await self.until(lambda: True)
            self.assertLess(pusher.written, 1 << 28)
        heard = len(far.heard)
        far.transport.resumeProducing()
        await self.until(lambda: not pusher.is_paused and len(far.heard) == pusher.written)
        self.assertGreater(pusher.written, heard)
        near.transport.unregisterProducer()
        near.transport.loseConnection()
        await self.until(lambda: far.ended)
        self.assertEqual(pusher.written, len(far.heard))
        self.assertFalse(pusher.stopped)

    async def test_who_reads_slowly_gets_everything_after_the_other_has_left(self) -> None:
        """Longer than anybody lingers."""
        self.patch(stream, "LINGER_SECONDS", 0.5)
        await self.begin()
        near, far = await self.open()
        far.transport.pauseProducing()
        near.transport.write(BIG)
        near.transport.loseConnection()
        await self.pass_time(1.5)
        self.assertIsNone(far.ended)
        far.transport.resumeProducing()
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(BIG, bytes(far.heard))
        self.assertIsInstance(near.ended, ConnectionDone)
        self.assertIsInstance(far.ended, ConnectionDone)

    async def test_what_pauses_hears_nothing_until_it_goes_on(self) -> None:
        class Shy(Notes):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()

        await self.begin()
        near, far = await self.open(Notes, Shy)
        near.transport.write(b"hello")
        near.transport.loseConnection()
        other, _ = await self.open(Notes, Echo, "other")
        other.transport.write(b"x")
        await self.until(lambda: other.heard)
        self.assertEqual((b"", None), (bytes(far.heard), far.ended))
        far.transport.resumeProducing()
        await self.until(lambda: far.ended)
        self.assertEqual(b"hello", bytes(far.heard))
        self.assertIsInstance(far.ended, ConnectionDone)

    async def test_a_pull_producer_is_asked_until_it_is_done(self) -> None:
        await self.begin()
        near, far = await self.open()
        near.transport.registerProducer(Puller(near.transport, 300), False)
        await self.until(lambda: near.ended and far.ended)
        self.assertEqual(BIG[:1000] * 300, bytes(far.heard))
        self.assertIsInstance(far.ended, ConnectionDone)

    async def test_a_producer_is_let_finish_and_then_stopped(self) -> None:
        await self.begin()
        near, far = await self.open()
        pusher = Pusher(near.transport, b"more")
        near.transport.registerProducer(pusher, True)
        self.assertRaises(RuntimeError, near.transport.registerProducer, pusher, True)
        near.transport.loseConnection()
        pusher.push(4)
        near.transport.unregisterProducer()
        await self.until(lambda: far.ended)
        self.assertEqual(b"more", bytes(far.heard))
        broken, _ = await self.open(service="other")
        broken.transport.registerProducer(pusher, True)
        broken.transport.abortConnection()
        self.assertTrue(pusher.stopped)

    # Refusals.

    async def test_a_service_that_is_not_there(self) -> None:
        await self.begin()
        problem = await self.refused(StreamError, "nothing")
        self.assertEqual(Code.NO_SERVICE, problem.code)
        self.assertIn("nothing: the other device offers no such service", str(problem))

    async def test_a_service_that_is_withdrawn(self) -> None:
        await self.begin()
        near, far = await self.open()
        await self.refused(StreamError)
        near.transport.write(b"this goes on")
        await self.until(lambda: bytes(far.heard) == b"this goes on")

    async def test_a_peer_that_is_not_admitted(self) -> None:
        await self.begin()
        asked: list[Any] = []

        def nobody(peer: Any) -> bool:
            asked.append(peer.device_id)
            return False

        offered = Built(Notes)
        await self.bob.streams.listen("notes", offered, nobody)
        problem = await self.refused(StreamError)
        self.assertEqual(Code.NOT_ADMITTED, problem.code)
        self.assertEqual(([self.alice.device_id], []), (asked, offered.built))

    async def test_a_factory_that_refuses(self) -> None:
        class Refusing(Factory):
            def buildProtocol(self, addr: Any) -> None:
                return None

        await self.begin()
        await self.bob.streams.listen("notes", Refusing())
        problem = await self.refused(StreamError)
        self.assertEqual(Code.NOT_ADMITTED, problem.code)

    async def test_a_factory_that_fails(self) -> None:
        class Failing(Factory):
            def buildProtocol(self, addr: Any) -> None:
                raise ZeroDivisionError("a mistake")

        await self.begin()
        await self.bob.streams.listen("notes", Failing())
        problem = await self.refused(StreamError)
        self.assertEqual(Code.NOT_ADMITTED, problem.code)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    async def test_who_is_not_trusted_there_opens_nothing(self) -> None:
        await self.begin()
        offered = Built(Notes)
        await self.bob.streams.listen("notes", offered)
        self.bob.peers.forget(self.alice.device_id)
        await self.refused(Exception)
        self.assertEqual([], offered.built)

    async def test_who_is_not_trusted_here_is_not_asked(self) -> None:
        await self.begin()
        self.alice.peers.forget(self.bob.device_id)
        await self.refused(NotTrustedError)

    async def test_another_pairing_there(self) -> None:
        await self.begin()
        await self.bob.streams.listen("notes", Built(Notes))
        self.alice.peers.pend(self.bob.device_id, self.bob.public_key, bytes(32), "")
        self.alice.peers.settle(self.bob.device_id, bytes(32))
        problem = await self.refused(NotTrustedError)
        self.assertIn("different pairings", str(problem))

    async def test_a_pending_pairing_is_settled(self) -> None:
        await self.begin()
        key = b"k" * 32
        self.alice.peers.pend(self.bob.device_id, self.bob.public_key, key, "")
        self.bob.peers.pend(self.alice.device_id, self.alice.public_key, key, "")
        await self.open()
        for device, other in ((self.alice, self.bob), (self.bob, self.alice)):
            peer = device.peers.get(other.device_id)
            assert peer is not None
            self.assertEqual((key, None), (peer.pairing_key, peer.pending_key))

    async def test_to_forget_a_peer_ends_its_streams(self) -> None:
        await self.begin()
        near, far = await self.open()
        self.bob.forget(self.alice.device_id)
        await self.until(lambda: near.ended and far.ended)
        self.assertIsInstance(near.ended, ConnectionLost)

    async def test_a_device_that_stops_ends_its_streams(self) -> None:
        await self.begin()
        near, far = await self.open()
        waiting = self.bob.stopService()
        await self.until(lambda: near.ended and far.ended)
        await self.done(waiting)
        self.assertIsInstance(near.ended, ConnectionLost)
        await self.done(self.alice.stopService())
        await self.refused(PeerUnreachableError)

    async def test_only_so_many_at_once(self) -> None:
        await self.begin()
        self.bob.streams._of_peer[self.alice.device_id] = MAX_STREAMS_OF_PEER - 1
        await self.bob.streams.listen("notes", Built(Notes))
        near = await self.connect("notes", Built(Notes))
        await self.refused(Exception)
        near.transport.loseConnection()
        await self.until(
            lambda: self.bob.streams._of_peer[self.alice.device_id] == MAX_STREAMS_OF_PEER - 1
        )
        await self.connect("notes", Built(Notes))

    async def test_what_is_not_wanted_any_more(self) -> None:
        await self.begin()
        offered = Built(Notes)
        await self.bob.streams.listen("notes", offered)
        waiting = self.alice.streams.connect(self.bob.device_id, "notes", Built(Notes))
        waiting.cancel()
        try:
            await self.done(waiting)
        except (CancelledError, PeerUnreachableError):
            pass
        near = await self.connect("notes", Built(Notes))
        near.transport.loseConnection()
        await self.until(lambda: near.ended)
        await self.until(lambda: all(far.ended for far in offered.built))
        await self.nothing_is_left()

    # Names.

    async def test_names_of_services(self) -> None:
        await self.begin()
        for name in ("", "a b", "a:b", "ä", "x" * 65, "a/b", "a\n"):
            self.assertIsInstance(await self.refused(StreamError, name), StreamError)
            try:
                await self.bob.streams.listen(name, Built(Notes))
            except StreamError as problem:
                self.assertIn("letters, digits", str(problem))
            else:
                self.fail(name)
        port: Any = await self.bob.streams.listen("x" * 64, Built(Notes))
        self.assertEqual(["x" * 64], self.bob.streams.services())
        self.assertEqual(StreamAddress(self.bob.device_id, "x" * 64), port.getHost())
        try:
            await self.bob.streams.listen("x" * 64, Built(Notes))
        except StreamError as problem:
            self.assertIn("already", str(problem))
        else:
            self.fail("two services of one name")
        port.stopListening()
        port.stopListening()
        await self.bob.streams.listen("x" * 64, Built(Notes))


class MemoryDirectTests(StreamBehaviour, MemoryWorld, TestCase):
    async def begin(self) -> None:
        self.network = MemoryNetwork()
        lan = self.network.lan()
        self.alice = self.network.device("alice", DeviceFactory(), lan=lan.port())
        self.bob = self.network.device("bob", DeviceFactory(), lan=lan.port())
        self.network.introduce(self.alice, self.bob)
        self.network.settle()


class MemoryCircuitTests(StreamBehaviour, MemoryWorld, TestCase):
    path_kind = "realm"

    async def begin(self) -> None:
        self.network = MemoryNetwork()
        self.alice = self.network.device("alice", DeviceFactory())
        self.bob = self.network.device("bob", DeviceFactory())
        self.network.introduce(self.alice, self.bob)
        self.network.settle()


class TcpDirectTests(StreamBehaviour, TcpWorld, TestCase):
    """Real sockets, without a realm."""

    async def begin(self) -> None:
        reactor = running_reactor()
        self.alice, self.bob = (
            Device(
                reactor,
                Identity.generate(),
                DeviceFactory(),
                lan=LocalNetwork(reactor, interface="127.0.0.1", announces=False),
            )
            for _ in range(2)
        )
        self.introduce()
        self.alice.peers.add_address(self.bob.device_id, self.bob.own_addresses()[0])

    async def test_many_at_once(self) -> None:
        await self.begin()
        await self.bob.streams.listen("echo", Built(Echo))
        connect = self.alice.streams.connect
        opening = [connect(self.bob.device_id, "echo", Built(Notes)) for _ in range(30)]
        ends: list[Any] = [await self.done(each) for each in opening]
        for end in ends:
            end.transport.write(b"here")
        await self.until(lambda: all(bytes(end.heard) == b"here" for end in ends))


class RealmCircuitTests(StreamBehaviour, TcpWorld, TestCase):
    """Real sockets, through a real realm."""

    path_kind = "realm"

    async def begin(self) -> None:
        reactor = running_reactor()
        identity = Identity.generate()
        limits = Limits(circuit_meet_seconds=0.5)
        self.realm = RealmFactory(reactor, identity, limits, **self.realm_options)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.realm)
        self.addCleanup(port.stopListening)
        address = RealmAddress("127.0.0.1", port.getHost().port, identity.pin)
        self.alice, self.bob = (
            Device(reactor, Identity.generate(), DeviceFactory(), realms=[address])
            for _ in range(2)
        )
        self.introduce()
        await self.until(lambda: self.alice.links_up() and self.bob.links_up())

    realm_options: ClassVar[dict[str, Any]] = {}


class UserSpaceCircuitTests(RealmCircuitTests):
    """The same, with a realm that does not join sockets in the kernel."""

    realm_options: ClassVar[dict[str, Any]] = {"splices": False}


class TlsLegTests(RealmCircuitTests):
    """The same, with legs inside TLS."""

    async def begin(self) -> None:
        await super().begin()
        for device in (self.alice, self.bob):
            for link in device.links.values():
                assert isinstance(link, RealmLink)
                link._legs.tls_works()
