"""What the device's tests share: applications that take notes, a device by hand, two devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.device import Device, DeviceFactory, DeviceProtocol, Path, Peer
from abst.device.announcement import AnyAnnouncement
from abst.device.channel import Channel, begins_channel, split_content
from abst.device.connection import PeerConnection
from abst.device.key_check import proof, trust_key
from abst.device.link import Link
from abst.device.pipes import Pipe
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.identity import Identity
from abst.packets import Circuit, DeviceHello, Error, Heartbeat, KeyCheck, Packet
from abst.testing import MemoryLan, MemoryLink, MemoryNetwork, MemoryPipe, MemoryRealm
from abst.tls import ChannelContexts

LOWER, HIGHER = sorted((Identity.generate(), Identity.generate()), key=lambda who: who.device_id)
OTHER: Final = Identity.generate()
OTHERS: Final = [Identity.generate() for _ in range(12)]


class Notes(DeviceProtocol):
    """A protocol that notes what happens to it.

    Attributes:
        packets: id and content of each packet.
        paths: each path that it was told of.
        ended: why it ended, once it has.
    """

    def __init__(self) -> None:
        self.made = 0
        self.packets: list[tuple[int, Any]] = []
        self.paths: list[Path | None] = []
        self.ended: Exception | None = None

    @property
    def contents(self) -> list[Any]:
        """The contents of the packets."""
        return [content for _, content in self.packets]

    @property
    def ended_well(self) -> bool:
        """Whether it ended by agreement."""
        return isinstance(self.ended, ConnectionDone)

    def connectionMade(self) -> None:
        self.made += 1

    def packetReceived(self, packet_id: int, content: Any) -> None:
        assert self.made == 1
        assert self.ended is None
        self.packets.append((packet_id, content))

    def pathChanged(self, path: Path | None) -> None:
        self.paths.append(path)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.made == 1
        assert self.ended is None
        self.ended = reason.value  # type: ignore[assignment]


class NotesFactory(DeviceFactory):
    """Keeps every protocol that it has built, the newest last."""

    def __init__(self, protocol: Callable[[], DeviceProtocol] = Notes) -> None:
        self.make = protocol
        self.built: list[Any] = []

    def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
        protocol = self.make()
        protocol.factory = self
        self.built.append(protocol)
        return protocol


def connection_of(device: Device, other: DeviceID) -> PeerConnection | None:
    """Return what a device holds for another one, or None."""
    return device._connections.get(other)


def legs_of(device: Device, other: DeviceID) -> int:
    """Return how many channels a device holds for another one."""
    connection = connection_of(device, other)
    return 0 if connection is None else len(connection.ways.legs)


class RawDevice:
    """A device whose channels are played by hand, for what no honest device would do.

    Attributes:
        channels: its channels, by number.
        found: the packets that came, each with its channel.
        resets: the numbers of the channels that the other side gave up.
        answers: whether it accepts dials at all.
        proves: whether it does the Key check, with the key of those who trust each other by ID.
    """

    def __init__(
        self, network: MemoryNetwork, identity: Identity, realm: MemoryRealm | None = None
    ) -> None:
        self.identity = identity
        self.device_id = identity.device_id
        self.channels: dict[bytes, Channel] = {}
        self.found: list[tuple[Channel, Packet]] = []
        self.resets: list[bytes] = []
        self.contents: list[bytes] = []
        self.answers = True
        self.proves = True
        self.took_packet: Callable[[Channel, Packet], None] = lambda channel, packet: None
        self._contexts = ChannelContexts(identity)
        self._network = network
        self._numbers = 0
        self._targets: dict[bytes, bytes] = {}
        self._introduced: dict[bytes, set[str]] = {}
        self.link = MemoryLink(network.clock, identity, realm or network.realm, self, lambda: 0.5)
        self.link.start()

    def dial(self, target: bytes) -> Channel:
        """Dial a device; the caller settles the network."""
        self._numbers += 1
        number = self._numbers.to_bytes(8, "big")
        engine = self._contexts.dial(lambda key: None)
        channel = Channel(number, engine, dialled=True, now=0.0)
        self.channels[number] = channel
        self._targets[number] = target
        self.flush(channel)
        return channel

    def say(self, channel: Channel, packet: Packet) -> None:
        """Send a packet."""
        channel.send(codec.encode(packet))
        self.flush(channel)

    def hello(self, channel: Channel, session: bytes = bytes(16), **fields: Any) -> None:
        """Say Hello, by default as a device that trusts the other."""
        fields = {"name": "raw", "paired": True, "received": 0, **fields}
        self.say(channel, DeviceHello(bytes(self.device_id), session=session, **fields))
        self._prove(channel, "said")

    def key_check(self, channel: Channel) -> KeyCheck:
        """Return the proof for a channel, as one who trusts the other by its ID makes it."""
        key = trust_key(self.device_id, self._targets[channel.number])
        return KeyCheck(proof(key, channel.exporter(), by_dialler=channel.dialled))

    def _prove(self, channel: Channel, hello: str) -> None:
        """Do the Key check once both have said Hello; a second Hello changes nothing."""
        hellos = self._introduced.setdefault(channel.number, set())
        if self.proves and hello not in hellos:
            hellos.add(hello)
            if len(hellos) == 2:
                self.say(channel, self.key_check(channel))

    def heartbeat(self, channel: Channel, received: int, **fields: Any) -> None:
        """Send a heartbeat."""
        self.say(channel, Heartbeat(received, **fields))

    def flush(self, channel: Channel) -> None:
        """Send what the channel has for the other side."""
        for content in channel.contents_to_send():
            self.link.send(self._targets[channel.number], content)

    def packets(self, kind: type[Packet] = Packet) -> list[Any]:
        """Return the packets of a kind that came."""
        return [packet for _, packet in self.found if isinstance(packet, kind)]

    # As the link's owner.

    def link_up(self, link: Link) -> None:
        pass

    def link_down(self, link: Link) -> None:
        pass

    def link_failed(self, link: Link, problem: AbstError) -> None:
        pass

    def contents_over(self, link: Link) -> None:
        pass

    def content_refused(self, link: Link, error: Error) -> None:
        pass

    def circuit_offered(self, link: Link, circuit: Circuit) -> None:
        pass

    def circuit_ended(self, link: Link, error: Error) -> None:
        pass

    def group_told(self, link: Link, peer_group: bytes, packet: Packet) -> None:
        pass

    def content_received(self, link: Link, source_device: bytes, content: bytes) -> None:
        self.contents.append(content)
        number, records = split_content(content)
        if not records:
            self.resets.append(number)
            return
        channel = self.channels.get(number)
        if channel is None:
            if not (self.answers and begins_channel(records)):
                return
            engine = self._contexts.accept(lambda key: None)
            channel = Channel(number, engine, dialled=False, now=0.0)
            self.channels[number] = channel
            self._targets[number] = source_device
        for packet, _ in channel.receive_data(records):
            self.found.append((channel, packet))
            self.took_packet(channel, packet)
            if isinstance(packet, DeviceHello) and packet.paired:
                self._prove(channel, "heard")
        self.flush(channel)


class Visit:
    """A direct connection that is played by hand from its dialler's end.

    Attributes:
        channel: the channel on it.
        heard: the bytes that came, and that the channel has not had yet.
        found: the packets that came.
        shown: the device that the other side's certificate names, once it has shown one.
        is_over: whether the other side has hung up.
    """

    def __init__(
        self, network: MemoryNetwork, pipe: MemoryPipe, identity: Identity, name: bytes
    ) -> None:
        self.heard = bytearray()
        self.found: list[Packet] = []
        self.shown: DeviceID | None = None
        self.is_over = False
        engine = ChannelContexts(identity).dial(self._see, name)
        self.channel = Channel(b"", engine, dialled=True, now=0.0)
        self._network = network
        self._pipe = pipe
        pipe.owner = self
        self.settle()

    def say(self, packet: Packet) -> None:
        """Send a packet, and take all that comes."""
        self.channel.send(codec.encode(packet))
        self.settle()

    def settle(self) -> None:
        """Go on until neither side has more to say."""
        while True:
            for content in self.channel.contents_to_send():
                self._pipe.write(content)
            self._network.settle()
            heard, self.heard = bytes(self.heard), bytearray()
            if not heard:
                return
            self.found += [packet for packet, _ in self.channel.receive_data(heard)]

    def _see(self, key: bytes) -> None:
        self.shown = DeviceID.of_key(key)

    # As the pipe's owner.

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        self.heard += data

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        self.is_over = True


class Stranger:
    """One in a local network who is played by hand: he takes every connection, and never answers.

    Attributes:
        port: his place in the network.
        device_id: his own.
        heard: what each of those who have dialled him has said.
    """

    def __init__(self, network: MemoryNetwork, lan: MemoryLan, identity: Identity = OTHER) -> None:
        self.identity = identity
        self.device_id = identity.device_id
        self.heard: list[bytearray] = []
        self._network = network
        self._lan = lan
        self.port = lan.port()
        self.port.start(self)

    def repeat(self, announcement: AnyAnnouncement) -> None:
        """Announce for oneself what somebody else has announced."""
        self.port._announcement = announcement  # type: ignore[assignment]
        self.port._announce()

    def move(self, addresses: int = 1) -> None:
        """Be at other addresses, with the same announcement; who has dialled stays connected."""
        announcement = self.port._announcement
        assert announcement is not None
        self.port.is_here = False
        self.port = self._lan.port(addresses)
        self.port.start(self)
        self.repeat(announcement)

    def visit(self, address: str, name: bytes) -> Visit:
        """Dial somebody with a server name, and go on until one of the two waits."""
        pipe = self._lan.connect(self.port, address)
        assert pipe is not None
        return Visit(self._network, pipe, self.identity, name)

    # As the port's owner.

    def pipe_accepted(self, pipe: Pipe) -> None:
        ear = Ear()
        pipe.owner = ear
        self.heard.append(ear.heard)

    def announcement_seen(self, announcement: AnyAnnouncement) -> None:
        pass

    def network_changed(self) -> None:
        pass


class Ear:
    """Hears what comes over a direct connection."""

    def __init__(self) -> None:
        self.heard = bytearray()

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        self.heard += data

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        pass


def turn(network: MemoryNetwork, count: int) -> None:
    """Run a few of the calls that are due, and leave the others on their way."""
    clock = network.clock
    for _ in range(count):
        if clock.calls and clock.calls[0].getTime() <= clock.seconds():
            call: Any = clock.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)


def count_dials(network: MemoryNetwork, device: Device) -> list[float]:
    """Return a list to which the time of every dial from now on is added."""
    found: list[float] = []
    dial = device.contexts.dial

    def counted(check: Any, server_name: bytes | None = None, **options: Any) -> Any:
        found.append(network.clock.seconds())
        return dial(check, server_name, **options)

    device.contexts.dial = counted  # type: ignore[method-assign]
    return found


def quietly(waiting: Deferred[Any]) -> None:
    """Say that it does not matter what becomes of it."""
    waiting.addErrback(lambda failure: None)


class Base(SynchronousTestCase):
    """Alice and Bob on one realm; they trust each other unless a test says otherwise.

    They do so from after they have come to the realm, so that neither has said Hello to the other.
    """

    identities: ClassVar[tuple[Identity, Identity]] = (LOWER, HIGHER)

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.devices: list[Device] = []
        self.raw: list[RawDevice] = []
        self.alice = self.make("alice", self.identities[0])
        self.bob = self.make("bob", self.identities[1])
        self.network.settle()
        self.network.introduce(self.alice, self.bob)

    def tearDown(self) -> None:
        """Nothing may be left on the clock once all have stopped."""
        for raw in self.raw:
            raw.link.stop()
        for device in self.devices:
            device.stopService()
        self.network.settle()
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def make(
        self, name: str, identity: Identity, factory: DeviceFactory | None = None, **options: Any
    ) -> Device:
        device = self.network.device(name, factory or NotesFactory(), identity=identity, **options)
        self.devices.append(device)
        return device

    def make_raw(self, identity: Identity = OTHER, *, trusted: bool = True) -> RawDevice:
        raw = RawDevice(self.network, identity)
        self.raw.append(raw)
        if trusted:
            self.alice.trust(raw.device_id, "raw")
        self.network.settle()
        return raw

    def restart(self, device: Device, **options: Any) -> Device:
        """Kill a device without a word, and start it again with nothing in its memory."""
        self.network.kill(device)
        again = self.make(
            device.device_name, device.identity, NotesFactory(), peers=device.peers, **options
        )
        self.network.settle()
        return again

    def built(self, device: Device) -> list[Notes]:
        assert isinstance(device.factory, NotesFactory)
        return device.factory.built

    def connect(self, one: Device, other: Device | RawDevice) -> Notes:
        protocol = self.connected(one.connect(other.device_id))
        assert isinstance(protocol, Notes)
        return protocol

    def connected(self, waiting: Deferred[DeviceProtocol]) -> DeviceProtocol:
        self.network.settle()
        return self.network.result(waiting)

    def pair(self) -> tuple[Notes, Notes]:
        """Return Alice's and Bob's ends of a new session."""
        ours = self.connect(self.alice, self.bob)
        return ours, self.built(self.bob)[-1]

    def assert_fails(self, kind: type[Exception], waiting: Deferred[Any]) -> Any:
        self.network.settle()
        return self.failureResultOf(waiting, kind).value

    def assert_same_session(self, one: Device, other: Device) -> None:
        mine, theirs = connection_of(one, other.device_id), connection_of(other, one.device_id)
        assert mine is not None and mine.session is not None
        assert theirs is not None and theirs.session is not None
        self.assertEqual(mine.session.session_id, theirs.session.session_id)
        self.assertEqual(1, legs_of(one, other.device_id))
        self.assertEqual(1, legs_of(other, one.device_id))
        self.assertIsNotNone(mine.path)
        self.assertIsNotNone(theirs.path)

    def exchange(self, one: DeviceProtocol, other: DeviceProtocol) -> None:
        """Send something both ways; it has to arrive, and to be acknowledged, soon."""
        assert isinstance(one, Notes) and isinstance(other, Notes)
        before = len(one.packets), len(other.packets)
        waiting = [one.sendPacket(5, "there"), other.sendPacket(6, "and back")]
        self.network.advance(0.2, 0.05)
        for acknowledged in waiting:
            self.assertIsNone(self.successResultOf(acknowledged))
        self.assertEqual([(6, "and back")], one.packets[before[0] :])
        self.assertEqual([(5, "there")], other.packets[before[1] :])

    def dials(self, device: Device) -> list[float]:
        """Return a list to which the time of every dial from now on is added."""
        return count_dials(self.network, device)
