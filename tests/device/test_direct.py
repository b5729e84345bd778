"""Direct connections over this machine's loopback: real sockets, and no realm anywhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, TestCase

from abst.address import format_host_port
from abst.device import Device, DeviceProtocol
from abst.device.arrivals import MAX_ARRIVALS_PER_HOST
from abst.device.carriers import DIRECT_PIECE_BYTES
from abst.device.channel import HANDSHAKE_SECONDS, Channel, ChannelState
from abst.device.device import MAX_STRANGERS
from abst.device.direct import DIAL_SECONDS, DirectPort
from abst.device.knock import RANDOM_BYTES, knock
from abst.device.lan import LocalNetwork
from abst.device.pipes import Pipe
from abst.errors import (
    AbstError,
    AddressError,
    NotTrustedError,
    PeerUnreachableError,
    WrongKeyError,
)
from abst.identity import Identity
from abst.tls import ChannelContexts
from tests.device.doubles import HIGHER, LOWER, OTHER, OTHERS, Notes, NotesFactory, connection_of

V4: Final = "127.0.0.1"
V6: Final = "::1"
MEGABYTE: Final = 1024 * 1024


class Ear:
    """Whoever has one end of a connection.

    Attributes:
        pipe: the connection.
        heard: what came.
        lost: why it is gone, once it is.
    """

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.heard = bytearray()
        self.lost: AbstError | None = None
        pipe.owner = self

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        assert pipe is self.pipe
        self.heard += data

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        assert pipe is self.pipe
        assert self.lost is None
        self.lost = problem


class Tapped(LocalNetwork):
    """A local network on which somebody hears what a device sends where it dials.

    Attributes:
        sent: what was sent.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sent: list[bytes] = []

    def dial(self, address: str) -> Deferred[Pipe]:
        return super().dial(address).addCallback(self._tap)

    def _tap(self, pipe: Any) -> Pipe:
        write = pipe.write

        def heard(data: bytes) -> None:
            self.sent.append(data)
            write(data)

        pipe.write = heard
        tapped: Pipe = pipe
        return tapped


class SocketTestCase(TestCase):
    timeout = 20

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.ports: list[DirectPort] = []
        self.dialled: list[Ear] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        for ear in self.dialled:
            ear.pipe.close()
        for port in self.ports:
            await port.stop()
        await self.until(lambda: not self.connections())

    def connections(self) -> list[Connection]:
        """Return every connection of this process that is open."""
        selectables = (*self.reactor.getReaders(), *self.reactor.getWriters())
        return [one for one in selectables if isinstance(one, Connection)]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; the time limit of the test is that of the waiting."""
        while not holds():
            await deferLater(self.reactor, 0.005, lambda: None)

    async def until_lost(self, *ears: Ear) -> None:
        """Wait until the other side has closed connections."""
        await self.until(lambda: all(ear.lost is not None for ear in ears))

    def port(self, interface: str = V4, **options: Any) -> DirectPort:
        """Return a port that does not listen yet."""
        made = DirectPort(self.reactor, interface=interface, **options)
        self.ports.append(made)
        return made

    def needs(self, host: str) -> None:
        """Skip a test where the machine has no such loopback."""
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
                tried.bind((host, 0))
        except OSError:
            raise SkipTest(f"{host} is not here") from None

    def silent_port(self) -> int:
        """Return a port that is taken, and on which nobody listens until the test ends."""
        taken = socket.socket()
        self.addCleanup(taken.close)
        taken.bind((V4, 0))
        number: int = taken.getsockname()[1]
        return number

    async def dial(self, address: str) -> Ear:
        """Connect from a port that need not listen."""
        ear = Ear(await DirectPort(self.reactor).dial(address))
        self.dialled.append(ear)
        return ear


class PortTests(SocketTestCase):
    """A port, and who dials it."""

    def listen(self, interface: str = V4, **options: Any) -> DirectPort:
        """Return a port that listens; who comes is in ``accepted``."""
        self.accepted: list[Ear] = []
        port = self.port(interface, **options)
        port.start(lambda pipe: self.accepted.append(Ear(pipe)))
        return port

    async def pair(self, host: str = V4, interface: str | None = None) -> tuple[Ear, Ear]:
        """Return both ends of a connection, the dialler's first."""
        port = self.listen(host if interface is None else interface)
        assert port.port is not None
        dialled = await self.dial(format_host_port(host, port.port))
        await self.until(lambda: self.accepted)
        return dialled, self.accepted[0]

    async def assert_both_ways(self, one: Ear, other: Ear) -> None:
        one.pipe.write(b"there")
        other.pipe.write(b"and back")
        await self.until(lambda: bytes(other.heard + one.heard) == b"thereand back")

    async def refused(self, dialling: Deferred[Pipe]) -> str:
        """Return the words with which a dial fails."""
        problem = await self.assertFailure(dialling, PeerUnreachableError)
        return str(problem)

    async def test_a_port_that_is_free_is_taken(self) -> None:
        port = self.port()
        self.assertEqual((None, []), (port.port, port.addresses()))
        port.start(lambda pipe: None)
        assert port.port is not None
        self.assertGreater(port.port, 1023)
        self.assertEqual([f"{V4}:{port.port}"], port.addresses())
        await port.stop()
        self.assertEqual((None, []), (port.port, port.addresses()))
        await port.stop()

    async def test_the_addresses_are_those_of_the_machine(self) -> None:
        port = self.listen("", addresses=lambda: ["192.0.2.7", "2001:db8::7"])
        expected = [f"192.0.2.7:{port.port}", f"[2001:db8::7]:{port.port}"]
        self.assertEqual(expected, port.addresses())

    async def test_bytes_go_both_ways(self) -> None:
        for host in (V4, V6):
            self.needs(host)
            dialled, accepted = await self.pair(host)
            await self.assert_both_ways(dialled, accepted)
            self.assertTrue(accepted.pipe.address.startswith(format_host_port(host, 0)[:-1]))

    async def test_one_port_takes_both_kinds_of_address(self) -> None:
        self.needs(V6)
        port = self.listen("")
        assert port.port is not None
        for host in (V4, V6):
            self.accepted.clear()
            dialled = await self.dial(format_host_port(host, port.port))
            await self.until(lambda: self.accepted)
            await self.assert_both_ways(dialled, self.accepted[0])
            # So that one host counts as one, however it has come.
            self.assertTrue(
                self.accepted[0].pipe.address.startswith(format_host_port(host, 0)[:-1])
            )

    async def test_a_host_may_have_a_name(self) -> None:
        port = self.listen()
        dialled = await self.dial(f"localhost:{port.port}")
        await self.until(lambda: self.accepted)
        await self.assert_both_ways(dialled, self.accepted[0])
        self.assertEqual(f"localhost:{port.port}", dialled.pipe.address)

    async def test_where_nobody_listens_nobody_is_reached(self) -> None:
        port = DirectPort(self.reactor)
        for host in (V4, "localhost"):
            address = f"{host}:{self.silent_port()}"
            self.assertIn(address, await self.refused(port.dial(address)))

    async def test_a_name_that_nobody_has_reaches_nobody(self) -> None:
        await self.refused(DirectPort(self.reactor).dial("nobody.invalid:4000"))

    async def test_what_is_no_address_is_not_dialled(self) -> None:
        for text in ("", "127.0.0.1", "::1:4000", "localhost:0", "a b:4000", "x:99999", "\n:1"):
            await self.assertFailure(DirectPort(self.reactor).dial(text), AddressError)

    def test_nobody_is_waited_for_longer_than_a_few_seconds(self) -> None:
        memory = MemoryReactorClock()
        dialling = DirectPort(memory).dial("192.0.2.7:4000")
        ((host, port, _, timeout_seconds, _),) = memory.tcpClients
        self.assertEqual(("192.0.2.7", 4000, DIAL_SECONDS), (host, port, timeout_seconds))
        dialling.cancel()
        self.failureResultOf(dialling, PeerUnreachableError)

    async def test_a_dial_can_be_cancelled(self) -> None:
        port = self.listen()
        for host in (V4, "localhost"):
            dialling = DirectPort(self.reactor).dial(f"{host}:{port.port}")
            dialling.cancel()
            await self.refused(dialling)
        await self.until(lambda: not self.connections())
        self.assertTrue(all(ear.lost is not None for ear in self.accepted))

    async def test_a_port_that_is_taken_is_no_reason_to_stop(self) -> None:
        first = self.listen()
        second = self.listen(port=first.port)
        self.assertEqual((None, []), (second.port, second.addresses()))
        await second.stop()

    async def test_who_listens_no_more_is_not_reached_and_keeps_what_it_has(self) -> None:
        dialled, accepted = await self.pair()
        (port,) = self.ports
        address = port.addresses()[0]
        await port.stop()
        await self.refused(port.dial(address))
        await self.assert_both_ways(dialled, accepted)

    async def test_a_port_may_listen_again(self) -> None:
        port = self.listen()
        await port.stop()
        port.start(lambda pipe: self.accepted.append(Ear(pipe)))
        dialled = await self.dial(port.addresses()[0])
        await self.until(lambda: self.accepted)
        await self.assert_both_ways(dialled, self.accepted[0])

    async def test_closing_sends_first_what_was_written(self) -> None:
        """It is more than the kernel takes at once."""
        for at in (0, 1):
            ends = await self.pair()
            sent = os.urandom(8 * MEGABYTE)
            closing, other = ends[at], ends[1 - at]
            closing.pipe.write(sent)
            closing.pipe.close()
            await self.until_lost(other)
            self.assertEqual(sent, bytes(other.heard))

    async def test_closing_loses_nothing_while_the_other_side_still_talks(self) -> None:
        """A socket closed with something unread in it would take along what was written."""
        for at in (0, 1):
            ends = await self.pair()
            closing, other = ends[at], ends[1 - at]
            sent = os.urandom(MEGABYTE)
            other.pipe.write(bytes(8 * MEGABYTE))
            await self.until(lambda closing=closing: closing.heard)  # type: ignore[misc]
            closing.pipe.write(sent)
            closing.pipe.close()
            await self.until_lost(other)
            self.assertEqual(sent, bytes(other.heard))

    async def test_who_closes_hears_nothing_more(self) -> None:
        dialled, accepted = await self.pair()
        accepted.pipe.write(b"x" * MEGABYTE)
        dialled.pipe.close()
        accepted.pipe.write(b"y" * MEGABYTE)
        await self.until(lambda: not self.connections())
        self.assertEqual((b"", None), (bytes(dialled.heard), dialled.lost))
        self.assertIsInstance(accepted.lost, PeerUnreachableError)

    async def test_the_end_is_told_once_and_with_the_address(self) -> None:
        dialled, accepted = await self.pair()
        accepted.pipe.close()
        await self.until_lost(dialled)
        self.assertIn(dialled.pipe.address, str(dialled.lost))
        dialled.pipe.close()
        dialled.pipe.write(b"to nobody")
        self.assertIsNone(accepted.lost)


class DeviceTestCase(SocketTestCase):
    """Devices that know each other's address and nothing else."""

    def setUp(self) -> None:
        super().setUp()
        self.devices: list[Device] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        await gatherResults([device.stopService() for device in self.devices if device.running])
        await super().tearDown()

    def make(
        self,
        name: str,
        identity: Identity,
        host: str = V4,
        *,
        reactor: Any = None,
        lan: LocalNetwork | None = None,
    ) -> Device:
        lan = lan or LocalNetwork(self.reactor, interface=host, announces=False)
        device = Device(reactor or self.reactor, identity, NotesFactory(), name=name, lan=lan)
        device.startService()
        self.devices.append(device)
        return device

    def address_of(self, device: Device) -> str:
        assert device.lan is not None
        (address,) = device.lan.addresses()
        return address

    def tell(self, device: Device, *others: Device) -> None:
        """Tell a device whom to trust, and where that one listens."""
        for other in others:
            device.trust(other.device_id, other.device_name)
            device.peers.add_address(other.device_id, self.address_of(other))

    def two(self, host: str = V4) -> tuple[Device, Device]:
        """Return Alice, who knows where Bob is, and Bob, who knows only who Alice is."""
        alice, bob = self.make("alice", LOWER, host), self.make("bob", HIGHER, host)
        self.tell(alice, bob)
        bob.trust(alice.device_id, "alice")
        return alice, bob

    def built(self, device: Device) -> Notes:
        """Return a device's newest protocol."""
        assert isinstance(device.factory, NotesFactory)
        newest = device.factory.built[-1]
        assert isinstance(newest, Notes)
        return newest

    async def connect(self, one: Device, other: Device) -> tuple[Notes, Notes]:
        """Return both ends of a session once each knows of it."""
        ours = await one.connect(other.device_id)
        assert isinstance(ours, Notes)
        await self.until(lambda: other.session_with(one.device_id))
        theirs = other.session_with(one.device_id)
        assert isinstance(theirs, Notes)
        return ours, theirs

    async def exchange(self, one: DeviceProtocol, other: DeviceProtocol) -> None:
        """Send something both ways; it arrives, and is acknowledged, and went directly."""
        assert isinstance(one, Notes) and isinstance(other, Notes)
        await gatherResults([one.sendPacket(5, "there"), other.sendPacket(6, "and back")])
        self.assertEqual((6, "and back"), one.packets[-1])
        self.assertEqual((5, "there"), other.packets[-1])
        for end in (one, other):
            assert end.path is not None
            self.assertEqual("direct", end.path.kind)

    def strangers(self, device: Device) -> int:
        """Return for how many that are not trusted a device holds anything."""
        return sum(device.peers.get(known) is None for known in device._connections)

    def pipe_of(self, device: Device, other: Device) -> Any:
        """Return the connection that a device uses for another one."""
        connection = connection_of(device, other.device_id)
        assert connection is not None and connection.ways.active is not None
        carrier: Any = connection.ways.active.carrier
        return carrier.pipe


class SessionTests(DeviceTestCase):
    """Two devices and no realm at all."""

    async def test_an_address_is_enough(self) -> None:
        for host in (V4, V6):
            self.needs(host)
            alice, bob = self.two(host)
            ours, theirs = await self.connect(alice, bob)
            await self.exchange(ours, theirs)
            assert ours.path is not None
            self.assertEqual(self.address_of(bob), ours.path.address)

    async def test_the_other_one_learns_where_this_one_listens(self) -> None:
        alice, bob = self.two()
        ours, theirs = await self.connect(alice, bob)
        known = bob.peers.get(alice.device_id)
        assert known is not None
        self.assertEqual((self.address_of(alice),), known.told_addresses)
        ours.loseConnection()
        await self.until(lambda: theirs.ended_well)
        await self.until(lambda: not self.connections())
        await self.exchange(*await self.connect(bob, alice))

    async def test_a_name_will_do_and_wrong_addresses_do_not_matter(self) -> None:
        alice, bob = self.two()
        address = self.address_of(bob)
        alice.peers.remove_address(bob.device_id, address)
        wrong = f"{V4}:{self.silent_port()}"
        for text in (wrong, "nobody.invalid:4000", address.replace(V4, "localhost")):
            alice.peers.add_address(bob.device_id, text)
        await self.exchange(*await self.connect(alice, bob))

    async def test_both_dial_at_once(self) -> None:
        alice, bob = self.two()
        self.tell(bob, alice)
        found = await gatherResults([alice.connect(bob.device_id), bob.connect(alice.device_id)])
        await self.exchange(*found)
        for device in (alice, bob):
            assert isinstance(device.factory, NotesFactory)
            self.assertEqual(1, len(device.factory.built), "one session, whoever was first")

    async def test_much_arrives_in_order(self) -> None:
        alice, bob = self.two()
        ours, theirs = await self.connect(alice, bob)
        pieces = [[number, os.urandom(50_000)] for number in range(100)]
        await gatherResults([ours.sendPacket(5, piece) for piece in pieces])
        self.assertEqual(pieces, theirs.contents)

    async def test_a_session_outlives_its_connection(self) -> None:
        for at in (0, 1):
            alice, bob = self.two()
            ours, theirs = await self.connect(alice, bob)
            device, other = (alice, bob) if at else (bob, alice)
            pipe = self.pipe_of(device, other)
            acknowledged = [ours.sendPacket(5, number) for number in range(20)]
            pipe.transport.abortConnection()
            await gatherResults(acknowledged)
            self.assertEqual(list(range(20)), theirs.contents)
            await self.exchange(ours, theirs)

    async def test_who_stops_says_so(self) -> None:
        alice, bob = self.two()
        ours, _ = await self.connect(alice, bob)
        await bob.stopService()
        await self.until(lambda: ours.ended is not None)
        self.assertTrue(ours.ended_well)
        await self.assertFailure(alice.connect(bob.device_id), PeerUnreachableError)

    async def test_nobody_is_there(self) -> None:
        alice = self.make("alice", LOWER)
        alice.trust(HIGHER.device_id, "bob")
        alice.peers.add_address(HIGHER.device_id, f"{V4}:{self.silent_port()}")
        await self.assertFailure(alice.connect(HIGHER.device_id), PeerUnreachableError)

    async def test_stopping_while_a_dial_is_on_its_way(self) -> None:
        alice, bob = self.two()
        connecting = alice.connect(bob.device_id)
        stopping = alice.stopService()
        await self.assertFailure(connecting, AbstError)
        await stopping
        await self.until(lambda: not self.connections())


class StrangerTests(DeviceTestCase):
    """Whoever else may be at the other end."""

    async def handshake(self, device: Device, identity: Identity) -> tuple[Ear, Channel]:
        """Connect as somebody, and show a key, but say nothing; return it when that is through."""
        ear = await self.dial(self.address_of(device))
        name = knock(device.device_id, os.urandom(RANDOM_BYTES))
        engine = ChannelContexts(identity).dial(lambda key: None, name)
        channel = Channel(b"", engine, dialled=True, now=0.0, max_content_bytes=DIRECT_PIECE_BYTES)
        for content in channel.contents_to_send():
            ear.pipe.write(content)
        await self.until(lambda: ear.heard)
        while channel.state is ChannelState.HANDSHAKE:
            data, ear.heard = bytes(ear.heard), bytearray()
            channel.receive_data(data)
            await deferLater(self.reactor, 0, lambda: None)
        for content in channel.contents_to_send():
            ear.pipe.write(content)
        return ear, channel

    async def test_another_device_listens_where_a_peer_did(self) -> None:
        """The peer has another address by now; neither device learns who the other one is."""
        alice, mallory = self.make("alice", LOWER), self.make("mallory", OTHER)
        alice.trust(HIGHER.device_id, "bob")
        alice.peers.add_address(HIGHER.device_id, self.address_of(mallory))
        mallory.trust(alice.device_id)
        problem = await self.assertFailure(alice.connect(HIGHER.device_id), AbstError)
        self.assertNotIsInstance(problem, WrongKeyError)  # She has not seen a key at all.
        self.assertEqual({}, mallory._connections)
        bob = alice.peers.get(HIGHER.device_id)
        assert bob is not None
        self.assertIsNone(bob.public_key)

    async def test_who_is_not_trusted_is_told_so_and_leaves_nothing(self) -> None:
        alice, bob = self.make("alice", LOWER), self.make("bob", HIGHER)
        self.tell(alice, bob)
        problem: Any = await self.assertFailure(alice.connect(bob.device_id), NotTrustedError)
        self.assertTrue(problem.theirs)
        await self.until(lambda: not self.connections())
        await self.until(lambda: not bob._connections)
        assert isinstance(bob.factory, NotesFactory)
        self.assertEqual([], bob.factory.built)

    async def test_a_few_strangers_may_stay_a_little_and_friends_come_in(self) -> None:
        clock = Clock()
        bob = self.make("bob", HIGHER, reactor=clock)
        found: list[tuple[Ear, Channel]] = []

        def is_decided() -> bool:
            return len(found) <= self.strangers(bob) or found[-1][0].lost is not None

        for identity in OTHERS:
            found.append(await self.handshake(bob, identity))
            await self.until(is_decided)
        kept = [ear for ear, _ in found if ear.lost is None]
        self.assertEqual((MAX_STRANGERS, MAX_STRANGERS), (len(kept), self.strangers(bob)))
        bob.trust(LOWER.device_id, "alice")
        ear, _ = await self.handshake(bob, LOWER)
        await self.until(lambda: connection_of(bob, LOWER.device_id))
        self.assertIsNone(ear.lost)
        clock.advance(HANDSHAKE_SECONDS)
        await self.until_lost(*(ear for ear, _ in found))
        clock.advance(0)
        self.assertEqual(0, self.strangers(bob))

    async def test_who_repeats_what_was_overheard_sees_nothing(self) -> None:
        lan = Tapped(self.reactor, interface=V4, announces=False)
        alice, bob = self.make("alice", LOWER, lan=lan), self.make("bob", HIGHER)
        self.tell(alice, bob)
        bob.trust(alice.device_id)
        await self.connect(alice, bob)
        again = await self.dial(self.address_of(bob))
        again.pipe.write(lan.sent[0])
        await self.until_lost(again)
        self.assertEqual((b"\x15", 7), (bytes(again.heard[:1]), len(again.heard)))

    async def test_who_speaks_something_else_is_sent_away_at_once(self) -> None:
        alice, bob = self.two()
        for said in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x16\x03\x01\x00\x05hello", b"\x80"):
            ear = await self.dial(self.address_of(bob))
            ear.pipe.write(said + bytes(20_000))
            await self.until_lost(ear)
            self.assertLessEqual(len(ear.heard), 7, "an alert at most")
        await self.exchange(*await self.connect(alice, bob))

    async def test_who_says_nothing_is_sent_away_after_a_while(self) -> None:
        clock = Clock()
        bob = self.make("bob", HIGHER, reactor=clock)
        ears = [await self.dial(self.address_of(bob)) for _ in range(MAX_ARRIVALS_PER_HOST + 2)]
        await self.until(lambda: sum(ear.lost is not None for ear in ears) == 2)
        await self.until(lambda: len(self.connections()) == 2 * MAX_ARRIVALS_PER_HOST)
        clock.advance(HANDSHAKE_SECONDS - 0.1)
        late = await self.dial(self.address_of(bob))
        await self.until_lost(late)
        clock.advance(0.1)
        await self.until_lost(*ears)
        self.assertEqual([b""] * len(ears), [bytes(ear.heard) for ear in ears])
        friend, channel = await self.handshake(bob, LOWER)
        self.assertIs(ChannelState.OPEN, channel.state)
        self.assertIsNone(friend.lost)

    async def test_who_stops_sends_away_who_waits(self) -> None:
        bob = self.make("bob", HIGHER, reactor=Clock())
        ear = await self.dial(self.address_of(bob))
        await self.until(lambda: len(self.connections()) == 2)
        await deferLater(self.reactor, 0, lambda: None)
        await bob.stopService()
        await self.until_lost(ear)
