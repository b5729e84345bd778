"""Circuits from a device's end: what keeps one from coming about, and how one ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from abst import codec
from abst.address import RealmAddress
from abst.device import Device, DeviceFactory
from abst.device.leg_pipe import SILENT_SECONDS, TLS_SECONDS, LegDialler, LegPipe, TlsLegPipe
from abst.device.pipes import Pipe
from abst.device.streams.dial import DIAL_SECONDS
from abst.device.streams.streams import LATELY_SECONDS
from abst.errors import AbstError, Code, PeerUnreachableError, RealmRefusedError
from abst.identity import Identity
from abst.joining import joined_ends
from abst.packets import Circuit, ConnectToDevice, Error, Leg, Packet
from abst.realm import RealmFactory
from abst.realm.limits import Limits
from abst.testing import MemoryLink, MemoryNetwork
from abst.tls import DEVICE_ALPN, STREAM_ALPN, TLS_HANDSHAKE_BYTE
from tests.carriers import running_reactor
from tests.device.doubles import OTHER, RawDevice
from tests.device.streams.doubles import BIG, Built, Echo, MemoryWorld, Notes, TcpWorld

HERE = "127.0.0.1"


class MemoryCircuitTestCase(MemoryWorld, TestCase):
    """Two devices that know each other, and realms."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()

    def device(self, name: str, **options: Any) -> Device:
        return self.network.device(name, DeviceFactory(), **options)


class NoCircuitTests(MemoryCircuitTestCase):
    async def test_a_peer_that_is_not_here(self) -> None:
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        self.network.kill(self.bob)
        problem = await self.refused(PeerUnreachableError)
        self.assertIn("bob: the target device is not connected to this realm", str(problem))

    async def test_no_realm_at_all(self) -> None:
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.realm.stop()
        self.network.settle()
        problem = await self.refused(PeerUnreachableError)
        self.assertIn("bob: ", str(problem))

    async def test_a_realm_that_is_back_in_a_moment_is_waited_for(self) -> None:
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        await self.bob.streams.listen("notes", Built(Notes))
        (link,) = self.alice.links_up()
        assert isinstance(link, MemoryLink)
        link.cut()
        waiting = self.alice.streams.connect(self.bob.device_id, "notes", Built(Notes))
        self.assertNoResult(waiting)
        self.network.advance(4)
        self.successResultOf(waiting)

    async def test_a_realm_that_does_not_come_back_is_not(self) -> None:
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        self.network.realm.stop()
        waiting = self.alice.streams.connect(self.bob.device_id, "notes", Built(Notes))
        self.network.advance(4)
        self.assertNoResult(waiting)
        self.network.advance(2)
        self.failureResultOf(waiting, PeerUnreachableError)

    async def test_a_peer_that_does_not_answer(self) -> None:
        """Its connection to the realm stands, and nothing comes of what it is told."""
        self.alice = self.device("alice")
        raw = RawDevice(self.network, Identity.generate())
        self.alice.trust(raw.device_id, "sleeper")
        self.network.settle()
        waiting = self.alice.streams.connect(raw.device_id, "notes", Built(Notes))
        self.network.advance(9)
        self.assertNoResult(waiting)
        self.network.advance(2)
        problem = self.failureResultOf(waiting).value
        self.assertIsInstance(problem, PeerUnreachableError)
        self.assertIn("sleeper: the other device did not open its end", str(problem))
        self.assertEqual(0, len(self.network.realm.realm.circuits))

    async def test_a_peer_that_does_not_want(self) -> None:
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.alice.trust(self.bob.device_id, "bob")
        self.network.settle()
        problem = await self.refused(RealmRefusedError)
        self.assertEqual(Code.CIRCUIT_REFUSED, problem.code)
        self.assertEqual(0, len(self.network.realm.realm.circuits))

    async def test_a_realm_without_circuits(self) -> None:
        self.network = MemoryNetwork()
        self.network.realm.stop()
        self.network.add_realm(Limits(circuits=0))
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        problem = await self.refused(RealmRefusedError)
        self.assertEqual(Code.CIRCUITS_FULL, problem.code)

    async def test_many_streams_at_once_are_opened_one_after_the_other(self) -> None:
        self.network.realm.stop()
        self.network.add_realm(Limits(circuit_requests_per_minute=60, device_circuits=200))
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        await self.bob.streams.listen("notes", Built(Notes))
        connect = self.alice.streams.connect
        opening = [connect(self.bob.device_id, "notes", Built(Notes)) for _ in range(63)]
        self.network.settle()
        self.assertEqual(60, sum(each.called for each in opening))
        self.network.advance(5)
        for each in opening:
            self.successResultOf(each)

    async def test_too_many_streams_at_once_are_refused(self) -> None:
        self.network.realm.stop()
        self.network.add_realm(Limits(circuit_requests_per_minute=1))
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        await self.open()
        problem = await self.refused(RealmRefusedError)
        self.assertEqual(Code.RATE_LIMITED, problem.code)

    async def test_a_peer_on_another_realm_is_found(self) -> None:
        second = self.network.add_realm()
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        self.bob.removeRealm(self.network.realm.address)
        self.network.settle()
        near, _ = await self.open()
        self.assertEqual(second.address, near.transport.path.realm)


class PatienceTests(MemoryCircuitTestCase):
    """Nobody waits for ever, and nobody gives up too soon."""

    def setUp(self) -> None:
        super().setUp()
        self.lan = self.network.lan()
        self.alice = self.device("alice", lan=self.lan.port())
        self.bob = self.device("bob", lan=self.lan.port())
        self.network.introduce(self.alice, self.bob)

    def dial(self) -> Deferred[Any]:
        return self.alice.streams.connect(self.bob.device_id, "notes", Built(Notes))

    async def test_a_realm_that_comes_up_while_an_address_is_dialled_is_used(self) -> None:
        self.network.settle()
        await self.bob.streams.listen("notes", Built(Notes))
        self.alice.removeRealm(self.network.realm.address)
        self.lan.latency_seconds = 60.0
        waiting = self.dial()
        self.network.advance(8)
        self.assertNoResult(waiting)
        self.alice.addRealm(self.network.realm.address)
        self.network.advance(1)
        self.assertEqual("realm", self.successResultOf(waiting).transport.path.kind)

    async def test_a_realm_that_never_answers(self) -> None:
        self.network.settle()
        self.lan.announces = False
        (link,) = self.alice.links_up()
        link.ask = lambda packet: Deferred()  # type: ignore[method-assign]
        self.alice.use_lan(None)
        waiting = self.dial()
        self.network.advance(DIAL_SECONDS - 1)
        self.assertNoResult(waiting)
        self.network.advance(2)
        self.failureResultOf(waiting, PeerUnreachableError)

    async def test_a_realm_that_wants_to_be_asked_again_at_once_for_ever(self) -> None:
        self.network.settle()
        self.alice.use_lan(None)
        (link,) = self.alice.links_up()
        asked: list[Packet] = []

        def refuse(packet: Packet) -> Deferred[Any]:
            asked.append(packet)
            return fail(RealmRefusedError(str(Code.RATE_LIMITED), "", 0.0))

        link.ask = refuse  # type: ignore[method-assign]
        waiting = self.dial()
        self.network.advance(10, 0.05)
        self.failureResultOf(waiting, RealmRefusedError)
        self.assertLess(len(asked), 60)

    async def test_a_circuit_that_is_not_needed_is_given_back(self) -> None:
        self.network.settle()
        await self.bob.streams.listen("notes", Built(Notes))
        (link,) = self.alice.links_up()
        circuits = self.network.realm.realm.circuits

        def never(circuit: Circuit, *, inside_tls: bool = False) -> Deferred[Pipe]:
            return Deferred()

        link.open_leg = never  # type: ignore[method-assign]
        self.lan.latency_seconds = 0.3
        waiting = self.dial()
        self.network.advance(0.5, 0.05)
        self.assertEqual(1, len(circuits))
        self.network.advance(1.5, 0.05)
        self.assertEqual("direct", self.successResultOf(waiting).transport.path.kind)
        self.assertEqual(0, len(circuits))


class ShareTests(MemoryCircuitTestCase):
    async def test_one_peer_leaves_circuits_for_others(self) -> None:
        self.network.realm.stop()
        realm = self.network.add_realm(Limits(device_circuits=10))
        self.bob, self.alice = self.device("bob"), self.device("alice")
        greedy = RawDevice(self.network, Identity.generate(), realm)
        self.bob.trust(greedy.device_id, "greedy")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        await self.bob.streams.listen("notes", Built(Notes))
        for _ in range(10):
            asking = ConnectToDevice(bytes(greedy.device_id), bytes(self.bob.device_id))
            greedy.link.ask(asking).addErrback(lambda failure: None)
        self.network.settle()
        near = await self.connect("notes", Built(Notes))
        self.assertEqual("realm", near.transport.path.kind)


class DirectOrNotTests(MemoryCircuitTestCase):
    async def test_direct_comes_first(self) -> None:
        lan = self.network.lan()
        self.alice = self.device("alice", lan=lan.port())
        self.bob = self.device("bob", lan=lan.port())
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        near, _ = await self.open()
        self.assertEqual("direct", near.transport.path.kind)
        self.assertEqual(0, self.network.realm.realm.counters.circuits_offered)

    async def test_who_does_not_answer_directly_is_reached_by_a_circuit(self) -> None:
        lan = self.network.lan()
        lan.latency_seconds = 3.0
        self.alice = self.device("alice", lan=lan.port())
        self.bob = self.device("bob", lan=lan.port())
        self.network.introduce(self.alice, self.bob)
        self.network.advance(10)
        began = self.network.clock.seconds()
        near, far = await self.open(Notes, Echo)
        self.assertLess(self.network.clock.seconds() - began, 1.0)
        self.assertEqual("realm", near.transport.path.kind)
        near.transport.write(b"x")
        await self.until(lambda: near.heard)
        self.network.advance(15)
        self.assertEqual((b"x", None), (bytes(near.heard), near.ended))
        self.assertEqual(b"x", bytes(far.heard))

    async def test_what_a_session_goes_over_is_tried_at_once(self) -> None:
        """Nobody waits for addresses that the session has found to be of no use."""
        lan = self.network.lan()
        self.alice = self.device("alice", lan=lan.port())
        self.bob = self.device("bob", lan=lan.port())
        self.network.introduce(self.alice, self.bob)
        lan.latency_seconds = 60.0
        session = self.alice.connect(self.bob.device_id)
        self.network.advance(1)
        self.network.result(session)
        self.assertTrue(self.alice.addresses_of(self.bob.device_id))
        await self.bob.streams.listen("notes", Built(Notes))
        opened = self.alice.streams.connect(self.bob.device_id, "notes", Built(Notes))
        self.network.settle()
        protocol: Any = self.network.result(opened)
        self.assertEqual("realm", protocol.transport.path.kind)

    async def test_what_the_last_stream_went_over_is_tried_alone(self) -> None:
        lan = self.network.lan()
        place = lan.port(addresses=5)
        self.alice = self.device("alice", lan=lan.port())
        self.bob = self.device("bob", lan=place)
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        begun: list[bytes] = []
        dial = self.alice.contexts.dial

        def noted(check: Any, server_name: bytes | None = None, **options: Any) -> Any:
            # A session dials too, whenever it likes.
            begun.append(options.get("alpn", DEVICE_ALPN))
            return dial(check, server_name, **options)

        self.alice.contexts.dial = noted  # type: ignore[method-assign]
        for _ in range(2):
            self.network.advance(LATELY_SECONDS + 1)
            begun.clear()
            await self.open()
            self.assertEqual(5, begun.count(STREAM_ALPN))
            begun.clear()
            await self.open()
            self.assertEqual(1, begun.count(STREAM_ALPN))

    async def test_what_has_worked_and_does_not_any_more_costs_little(self) -> None:
        lan = self.network.lan()
        place = lan.port()
        self.alice, self.bob = self.device("alice", lan=lan.port()), self.device("bob", lan=place)
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        near, _ = await self.open()
        self.assertEqual("direct", near.transport.path.kind)
        lan.latency_seconds = 60.0
        await self.bob.streams.listen("notes", Built(Notes))
        opened = self.alice.streams.connect(self.bob.device_id, "notes", Built(Notes))
        self.network.advance(0.3, 0.05)
        protocol: Any = self.network.result(opened)
        self.assertEqual("realm", protocol.transport.path.kind)

    async def test_the_realm_reads_nothing(self) -> None:
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        near, _ = await self.open(Notes, Echo, "a-secret-service")
        near.transport.write(b"the words of nobody else")
        await self.until(lambda: near.heard)
        relayed = bytes(self.network.realm.relayed)
        self.assertGreater(len(relayed), 1000)
        for word in (b"a-secret-service", b"the words of nobody else", b"alice", b"bob"):
            self.assertNotIn(word, relayed)


class EndTests(MemoryCircuitTestCase):
    async def begin_with(self, limits: Limits) -> tuple[Any, Any]:
        self.network.realm.stop()
        self.network.add_realm(limits)
        self.alice, self.bob = self.device("alice"), self.device("bob")
        self.network.introduce(self.alice, self.bob)
        self.network.settle()
        return await self.open()

    async def test_a_circuit_that_is_idle_says_so(self) -> None:
        near, far = await self.begin_with(Limits(circuit_idle_seconds=60))
        self.network.advance(50)
        near.transport.write(b"still here")
        self.network.advance(50)
        self.assertEqual((None, None), (near.ended, far.ended))
        self.network.advance(20)
        for end in (near, far):
            self.assertIsInstance(end.ended, ConnectionLost)
            self.assertIn("nothing went over the circuit for too long", str(end.ended))

    async def test_a_circuit_that_has_carried_enough_says_so(self) -> None:
        near, far = await self.begin_with(Limits(circuit_bytes=500_000))
        near.transport.write(BIG)
        await self.until(lambda: near.ended and far.ended)
        for end in (near, far):
            self.assertIsInstance(end.ended, ConnectionLost)
            self.assertIn("as many bytes as the realm allows", str(end.ended))

    async def test_a_realm_that_vanishes(self) -> None:
        near, far = await self.begin_with(Limits())
        for link in self.alice.links:
            realm = self.network._realms[link]
            realm.stop()
        await self.until(lambda: near.ended and far.ended)
        self.assertIsInstance(near.ended, ConnectionLost)
        self.assertIsInstance(far.ended, ConnectionLost)


class Gate(Protocol):
    """Somebody on the way to the realm, who lets TLS through and nothing else."""

    transport: Any

    def __init__(self, reactor: Any, port: int) -> None:
        self._target = TCP4ClientEndpoint(reactor, HERE, port)
        self.end, self._other = joined_ends()

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(TLS_HANDSHAKE_BYTE):
            self.transport.protocol = self.end
            self.end.makeConnection(self.transport)
            self.end.dataReceived(data)
            self._target.connect(Factory.forProtocol(lambda: self._other))
        else:
            self.transport.abortConnection()


class BlockedTests(TcpWorld, TestCase):
    """A network that lets nothing but TLS out."""

    path_kind = "realm"

    async def begin(self) -> None:
        reactor = running_reactor()
        identity = Identity.generate()
        # The plain legs are waited for in vain: not for longer than this.
        self.realm = RealmFactory(reactor, identity, Limits(circuit_meet_seconds=1))
        port = await TCP4ServerEndpoint(reactor, 0, interface=HERE).listen(self.realm)
        self.addCleanup(port.stopListening)
        inside = port.getHost().port
        gates = Factory.forProtocol(lambda: Gate(reactor, inside))
        gate = await TCP4ServerEndpoint(reactor, 0, interface=HERE).listen(gates)
        self.addCleanup(gate.stopListening)
        address = RealmAddress(HERE, gate.getHost().port, identity.pin)
        self.alice, self.bob = (
            Device(reactor, Identity.generate(), DeviceFactory(), realms=[address])
            for _ in range(2)
        )
        self.introduce()
        await self.until(lambda: self.alice.links_up() and self.bob.links_up())

    async def test_a_stream_goes_through_in_tls(self) -> None:
        await self.begin()
        near, far = await self.open(Notes, Echo)
        near.transport.write(BIG)
        await self.until(lambda: len(near.heard) == len(BIG))
        self.assertEqual(BIG, bytes(near.heard))
        near.transport.loseConnection()
        await self.until(lambda: near.ended and far.ended)
        await self.nothing_is_left()


class LegPipeTests(SynchronousTestCase):
    """One leg, whose other end is the test."""

    meeting_seconds = 10.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.address = RealmAddress("realm.test")
        self.dialler = LegDialler(self.clock, Identity.generate(), self.address)
        self.open(LegPipe)

    def open(self, kind: type[LegPipe]) -> None:
        """Begin with a leg."""
        circuit = Circuit(b"c" * 8, b"t" * 32, OTHER.device_id, True, self.meeting_seconds, {})
        self.pipe = kind(self.dialler, self.address, circuit)
        self.transport = _Transport(self.clock)
        self.heard = b""
        self.lost: AbstError | None = None
        self.pipe.owner = self
        self.pipe.makeConnection(self.transport)

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        self.heard += data

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        self.lost = problem

    @property
    def goes_on_in_tls(self) -> bool:
        """Whether the next leg is opened inside TLS."""
        return self.clock.seconds() < self.dialler._tls_until

    def test_it_begins_with_its_token(self) -> None:
        self.assertEqual(codec.encode(Leg(b"t" * 32)), self.transport.value())

    def test_the_other_ends_bytes_come(self) -> None:
        self.pipe.dataReceived(b"\x16\x03\x03")
        self.pipe.dataReceived(b"\x84 is no error any more")
        self.assertEqual(b"\x16\x03\x03\x84 is no error any more", self.heard)
        self.clock.advance(self.meeting_seconds + SILENT_SECONDS + 1)
        self.assertIsNone(self.lost)

    def test_an_error_comes_in_their_place(self) -> None:
        for byte in codec.encode(Error("circuit_unanswered", "nobody came")):
            self.pipe.dataReceived(bytes([byte]))
        assert isinstance(self.lost, RealmRefusedError)
        self.assertEqual(Code.CIRCUIT_UNANSWERED, self.lost.code)
        self.assertEqual(b"", self.heard)
        self.assertTrue(self.transport.aborting)

    def test_anything_else_is_no_realms(self) -> None:
        for words in (
            b"HTTP/1.1 400\r\n",
            b"\xc1",
            codec.encode(Leg(bytes(32))),
            b"\x81\xa1x\x01",
        ):
            self.open(LegPipe)
            self.pipe.dataReceived(words)
            self.assertIsNotNone(self.lost)
            self.assertEqual(b"", self.heard)

    def test_an_error_without_end_is_bounded(self) -> None:
        self.pipe.dataReceived(b"\x81\xa7content\xc6\x7f\xff\xff\xff")
        for _ in range(10):
            self.pipe.dataReceived(bytes(1000))
        self.assertIsNotNone(self.lost)

    def test_who_is_silent_for_longer_than_the_realm_may_be_is_given_up(self) -> None:
        for self.meeting_seconds, expected in ((10.0, 12.0), (30.0, 32.0), (5000.0, 62.0)):
            self.open(LegPipe)
            self.clock.advance(expected - 0.1)
            self.assertIsNone(self.lost)
            self.clock.advance(0.2)
            self.assertIsInstance(self.lost, PeerUnreachableError)

    def test_a_leg_that_comes_to_nothing_changes_nothing_for_others(self) -> None:
        self.pipe.connectionLost(Failure(ConnectionLost()))
        self.assertIsInstance(self.lost, PeerUnreachableError)
        self.assertFalse(self.goes_on_in_tls)

    def test_what_has_worked_inside_tls_is_done_again(self) -> None:
        self.open(TlsLegPipe)
        self.assertFalse(self.goes_on_in_tls)
        self.pipe.dataReceived(b"\x16\x03\x03")
        self.assertTrue(self.goes_on_in_tls)
        self.clock.advance(TLS_SECONDS + 1)
        self.assertFalse(self.goes_on_in_tls)

    def test_an_error_inside_tls_is_no_success(self) -> None:
        self.open(TlsLegPipe)
        self.pipe.dataReceived(codec.encode(Error("circuit_unanswered", "nobody came")))
        self.assertFalse(self.goes_on_in_tls)

    def test_what_is_given_up_here_leaves_nothing(self) -> None:
        self.pipe.abort()
        self.pipe.connectionLost(connectionDone)
        self.assertIsNone(self.lost)
        self.assertEqual([], self.clock.getDelayedCalls())


class _Transport(StringTransport):
    """A transport that is on a clock, and can be aborted."""

    aborting = False

    def __init__(self, clock: Clock) -> None:
        address = IPv4Address("TCP", HERE, 42278)
        super().__init__(address, address)
        self.reactor = clock

    def getHandle(self) -> None:
        return None

    def setTcpNoDelay(self, on: bool) -> None:
        pass

    def setTcpKeepAlive(self, on: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.aborting = True
