"""A device: its identity, its peers, its realms, and a connection for each peer it talks to.

The composition root of the library: it owns the parts and passes things between them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger

from abst.address import MAX_ADDRESS_CHARACTERS, RealmAddress, format_host_port
from abst.device.announcement import AnyAnnouncement, recognise
from abst.device.arrivals import Arrivals
from abst.device.channel import Channel, begins_channel, split_content
from abst.device.connection import SESSION_SECONDS, PeerConnection
from abst.device.greetings import Greetings
from abst.device.groups.groups import Groups
from abst.device.groups.protocol import GroupFactory
from abst.device.groups.store import GroupStore
from abst.device.knock import Door
from abst.device.lan import Lan
from abst.device.link import Link, LinkOwner, RealmLink
from abst.device.pairing_attempt import PairingAttempt, PairingObserver, PairingTarget
from abst.device.paths import Path
from abst.device.peers import MAX_ADDRESSES, Peer, PeerBook
from abst.device.pipes import Pipe
from abst.device.protocol import DeviceFactory, DeviceProtocol
from abst.device.session_store import EndedSessions, SessionStore
from abst.device.streams.streams import Streams
from abst.device_id import DeviceID, is_device_id
from abst.errors import (
    AbstError,
    NotTrustedError,
    PeerUnreachableError,
    RemoteProtocolError,
    explain,
)
from abst.identity import Identity
from abst.packets import MAX_NAME_CHARACTERS, Circuit, DeviceHello, Error, GiveGroup, Packet
from abst.tls import ChannelContexts, TlsEngine

MAX_STRANGERS: Final = 8
"""How many devices that are not trusted may have a channel at once: enough to be told so."""

LinkMaker = Callable[[Any, Identity, RealmAddress, LinkOwner, Callable[[], float]], Link]


class Device(Service):
    """A device, as a Twisted service.

    Args:
        reactor: the reactor that runs it.
        identity: who it is.
        factory: builds the protocol of each session.
        realms: the realms where it can be found; the first that works for a peer is used.
        peers: whom it trusts.
        name: what it calls itself to its peers.
        session_seconds: how long a session waits for a new path after it has lost the last one.
        make_link: makes the connection to a realm; ``abst.testing`` has one in memory.
        store: where sessions survive restarts; None keeps them in memory.
        lan: the local network, such as ``LocalNetwork(reactor)``; None for realms alone.
        tells_observed_address: whether peers are told which address realms see this device at.
        group_factory: builds the protocol of each peer group; None for protocols that do nothing.
        group_store: where groups survive restarts; None keeps them in memory.

    Attributes:
        identity: who it is.
        peers: whom it trusts.
        links: its realms, by address.
        streams: connections for other protocols with its peers.
        groups: its peer groups and networks.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        factory: DeviceFactory,
        *,
        realms: Sequence[RealmAddress] = (),
        peers: PeerBook | None = None,
        name: str = "",
        session_seconds: float = SESSION_SECONDS,
        make_link: LinkMaker = RealmLink,
        store: SessionStore | None = None,
        lan: Lan | None = None,
        tells_observed_address: bool = True,
        group_factory: GroupFactory | None = None,
        group_store: GroupStore | None = None,
    ) -> None:
        self.reactor = reactor
        self.identity = identity
        self.device_id = identity.device_id
        self.public_key = identity.public_key
        self.device_name = name[:MAX_NAME_CHARACTERS]
        self.factory = factory
        self.peers = peers if peers is not None else PeerBook()
        self.links: dict[RealmAddress, Link] = {}
        self.contexts = ChannelContexts(identity)
        self._door = Door(identity.device_id)
        self.session_seconds = session_seconds
        self.random_bytes = os.urandom
        self.random_fraction = random.random
        self.store = store
        self.ended_sessions = EndedSessions(store)
        self.lan = lan
        self._tells_observed_address = tells_observed_address
        self.streams = Streams(self)
        self.groups = Groups(self, group_factory, group_store)
        self._arrivals = Arrivals(self)
        self._greetings = Greetings(reactor, self._greet)
        self._greeted: set[bytes] = set()
        self._make_link = make_link
        self._pairing: PairingAttempt | None = None
        self._connections: dict[bytes, PeerConnection] = {}
        self._touched: set[PeerConnection] = set()
        for address in realms:
            self.addRealm(address)

    # The service.

    def startService(self) -> None:
        """Connect to every realm."""
        super().startService()
        if self.lan is not None:
            self.lan.start(self)
        self._restore_sessions()
        self.groups.start()
        for link in self.links.values():
            link.start()

    def stopService(self) -> Deferred[Any]:
        """End every session and leave every realm."""
        super().stopService()
        if self._pairing is not None:
            self._pairing.cancel()
        for connection in list(self._connections.values()):
            connection.stop()
        self._connections.clear()
        self.streams.stop()
        self.groups.stop()
        self._arrivals.stop()
        self._greetings.stop()
        stopping = [link.stop() for link in self.links.values()]
        if self.lan is not None:
            stopping.append(self.lan.stop())
        return DeferredList(stopping)

    # For applications.

    def addRealm(self, address: RealmAddress) -> None:
        """Use a realm from now on, after those that are used already.

        One that is used already is shown the invitation in the address, if there is one.
        """
        known = self.links.get(address)
        if known is not None:
            if address.invitation is not None:
                known.invite(address.invitation)
            return
        link = self._make_link(self.reactor, self.identity, address, self, self.random_fraction)
        self.links[address.without_invitation] = link
        if self.running:
            link.start()

    def removeRealm(self, address: RealmAddress) -> Deferred[Any]:
        """Leave a realm; sessions over it look for another way."""
        link = self.links.pop(address, None)
        if link is None:
            return succeed(None)
        self.link_down(link)
        link.is_up = False
        return link.stop()

    @property
    def realms(self) -> tuple[RealmAddress, ...]:
        """Its realms in the order of use, with the invitations that are still to be shown."""
        return tuple(
            replace(address, invitation=link.invitation) for address, link in self.links.items()
        )

    def use_lan(self, lan: Lan | None) -> Deferred[Any]:
        """Use another local network from now on, or none."""
        older, self.lan = self.lan, None
        for connection in list(self._connections.values()):
            connection.leave_lan()

        def start(stopped: Any) -> None:
            # Not before, since both may want the same port.
            self.lan = lan
            if self.running and lan is not None:
                lan.start(self)
            self.network_changed()

        stopping: Deferred[Any] = succeed(None) if older is None else older.stop()
        return stopping.addCallback(start)

    def trust(self, device_id: DeviceID, name: str = "") -> Peer:
        """Trust another device from now on.

        Raises:
            AbstError: it is this device's own ID.
        """
        if device_id == self.device_id:
            raise AbstError("that is this device's own ID: trust the other device's")
        return self.peers.trust(device_id, name)

    def forget(self, device_id: DeviceID) -> None:
        """Stop trusting a device, and end the session with it."""
        try:
            self.peers.forget(device_id)
        finally:
            self._greeted.discard(device_id)
            self.streams.forget(device_id)
            self.groups.peer_lost(device_id)
            self.connection(device_id).forget("this device has forgotten the other one")

    def connect(self, device_id: DeviceID) -> Deferred[DeviceProtocol]:
        """Return a Deferred of the protocol of the session with a peer.

        A session that exists is used again. The Deferred fails with ``NotTrustedError``,
        ``PeerUnreachableError`` or ``IdentityError``, whose text says what to do.
        """
        if not self.running:
            return fail(PeerUnreachableError("this device is not running"))
        peer = self.peers.get(device_id)
        if peer is None or not peer.is_trusted:
            return fail(
                NotTrustedError(f"{device_id} is not trusted here: 'abst trust' it", theirs=False)
            )
        if not self.links and self.lan is None:
            return fail(
                PeerUnreachableError("this device has no realm: 'abst realm add LINK' adds one")
            )
        return self.connection(device_id).connect()

    def open(self, device_id: DeviceID) -> DeviceProtocol:
        """Return the protocol of the session with a peer at once, also while it is away.

        What is sent waits until the peer is there, within the session's bounds.

        Raises:
            NotTrustedError: the device is not trusted.
            AbstError: the application's factory refuses the session.
        """
        peer = self.peers.get(device_id)
        if peer is None or not peer.is_trusted:
            raise NotTrustedError(f"{device_id} is not trusted here: pair with it", theirs=False)
        if not self.running:
            raise PeerUnreachableError("this device is not running")
        protocol = self.connection(device_id).open()
        if protocol is None:
            raise AbstError("this application refuses the session")
        return protocol

    def session_with(self, device_id: DeviceID) -> DeviceProtocol | None:
        """Return the protocol of a session that exists already, or None."""
        connection = self._connections.get(device_id)
        return None if connection is None else connection.protocol

    def open_pairing(self, observer: PairingObserver) -> PairingAttempt:
        """Let another device pair with this one, for a minute.

        Args:
            observer: is told what to show, and what comes of it.

        Raises:
            PairingError: another attempt is going on.
        """
        return self._start_pairing(PairingAttempt(self, observer, target=None))

    def pair_with(self, target: PairingTarget, observer: PairingObserver) -> PairingAttempt:
        """Pair with a device that shows a code or a link, or whose ID is known.

        Args:
            target: what ``pairing_attempt.parse_target`` has made of what the person typed.
            observer: is told what to show, and what comes of it.

        Raises:
            PairingError: another attempt is going on.
        """
        return self._start_pairing(PairingAttempt(self, observer, target=target))

    def _start_pairing(self, attempt: PairingAttempt) -> PairingAttempt:
        if self._pairing is not None:
            raise AbstError("this device is being paired already: finish or cancel that first")
        self._pairing = attempt
        attempt.start()
        return attempt

    def pairing_over(self, attempt: PairingAttempt) -> None:
        """Forget an attempt that has come to its end."""
        if self._pairing is attempt:
            self._pairing = None

    # For links.

    def link_up(self, link: Link) -> None:
        """A realm has accepted this device: say Hello to its peers, and dial who is waited for."""
        if not self.running:
            return
        self.streams.link_up(link)
        self.groups.link_up(link)
        for connection in list(self._connections.values()):
            connection.link_up(link)
        # Whoever has something waiting for this device learns that it is back.
        self._greetings.add(peer.device_id for peer in self.peers.all())
        if link.path.realm is not None:
            self._tell_factory(self.factory.realmConnectionMade, link.path.realm)

    def link_down(self, link: Link) -> None:
        """A realm's connection is gone."""
        self.groups.link_down(link)
        for connection in list(self._connections.values()):
            connection.link_down(link)

    def link_failed(self, link: Link, problem: AbstError) -> None:
        """A realm cannot be used for now: tell the application why."""
        if self.running and link.path.realm is not None:
            if self._pairing is not None:
                self._pairing.realm_failed()
            self._tell_factory(self.factory.realmConnectionFailed, link.path.realm, problem)

    def _tell_factory(self, hook: Callable[..., None], *arguments: Any) -> None:
        try:
            hook(*arguments)
        except Exception:
            self.log.failure("an application's factory failed")

    def content_received(self, link: Link, source_device: bytes, content: bytes) -> None:
        """Hand TLS bytes to the connection of the device that sent them."""
        if not self.running:
            return
        try:
            number, records = split_content(content)
        except RemoteProtocolError:
            return
        connection = self._connections.get(source_device)
        if connection is None or not connection.knows(number):
            if not begins_channel(records):
                if records:
                    link.send(source_device, number)
                return
            if connection is None and not self._admits(source_device):
                return
        connection = self.connection(source_device)
        self._touched.add(connection)
        connection.content_received(link, number, records)

    def contents_over(self, link: Link) -> None:
        """Answer what has come: one acknowledgement, and one commit, for all that came at once."""
        touched, self._touched = self._touched, set()
        for connection in touched:
            connection.settle()

    def content_refused(self, link: Link, error: Error) -> None:
        """Tell the connection whose bytes the realm dropped."""
        if error.target_device is None:
            self.log.warn("realm: {said}", said=explain(error.code, error.reason))
            return
        connection = self._connections.get(error.target_device)
        if connection is not None:
            connection.refused(link, error)

    def circuit_offered(self, link: Link, circuit: Circuit) -> None:
        """Open this device's leg of a circuit for which a peer has asked, or refuse it."""
        self.streams.circuit_offered(link, circuit)

    def circuit_ended(self, link: Link, error: Error) -> None:
        """Break the stream whose circuit the realm has ended."""
        self.streams.circuit_ended(link, error)

    def group_told(self, link: Link, peer_group: bytes, packet: Packet) -> None:
        """Hand on what a realm, or a member through it, says about a group."""
        if self.running:
            # What comes later would be taken, and not stored any more as taken.
            self.groups.told(link, peer_group, packet)

    # For the local network.

    def announcement_seen(self, announcement: AnyAnnouncement) -> None:
        """See whether a peer announces itself, and tell who is waiting for it."""
        device_id = recognise(announcement, (peer.device_id for peer in self.peers.all()))
        if device_id is not None:
            connection = self._connections.get(device_id)
            if connection is not None:
                connection.addresses_changed()
            if device_id not in self._greeted:
                self._greeted.add(device_id)
                self._greetings.add([device_id])
        if self._pairing is not None:
            self._pairing.announcement_seen()

    def network_changed(self) -> None:
        """Doubt every path: this machine's network has changed."""
        self._greeted.clear()
        self.streams.network_changed()
        for link in self.links.values():
            link.network_changed()
        for connection in list(self._connections.values()):
            connection.network_changed()

    def pipe_accepted(self, pipe: Pipe) -> None:
        """Somebody has connected."""
        if self.running:
            self._arrivals.accept(pipe)
        else:
            pipe.close()

    def admits_knock(self, server_name: bytes | None, local: str) -> bool:
        """Tell whether a dialler who has reached an address of this device knows whose it is."""
        return self._door.admits(server_name, {local, *self.own_addresses()})

    def check_visitor(self, key: bytes) -> None:
        """Accept the key of a peer, or of one of a few strangers.

        Raises:
            AbstError: it is refused.
        """
        device_id = DeviceID.of_key(key)
        peer = self.peers.get(device_id)
        if peer is not None:
            peer.check_key(key)
        elif not self._admits(device_id):
            raise NotTrustedError("too many devices that are not trusted", theirs=False)

    def device_arrived(
        self, device_id: DeviceID, pipe: Pipe, channel: Channel, found: list[tuple[Packet, int]]
    ) -> None:
        """Hand a direct connection to the connection of the device that has made it."""
        if self.peers.get(device_id) is None and not self._admits(device_id):
            # There was room when it showed its key, and has not been since.
            pipe.abort()
            return
        self.connection(device_id).adopt(pipe, channel, found)

    def stream_arrived(
        self, device_id: DeviceID, pipe: Pipe, engine: TlsEngine, plaintext: bytes
    ) -> None:
        """Take a direct connection that is for a stream."""
        self.streams.arrived(device_id, pipe, engine, plaintext)

    # For connections and streams.

    def links_up(self) -> list[Link]:
        """Return the links that are up, in the order in which realms were added."""
        return [link for link in self.links.values() if link.is_up]

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a peer may be listening, as ``HOST:PORT``, most likely first."""
        if self.lan is None:
            return []
        peer = self.peers.get(device_id) or Peer(device_id)
        announced = self.lan.addresses_of(device_id)
        found = dict.fromkeys((*peer.addresses, *announced, *peer.told_addresses))
        own = self.lan.addresses()
        return [address for address in found if address not in own]

    def dial_direct(self, address: str) -> Deferred[Pipe]:
        """Connect to an address."""
        if self.lan is None:
            return fail(PeerUnreachableError("the local network is not used"))
        return self.lan.dial(address)

    def own_addresses(self) -> list[str]:
        """Return where this device can be dialled, as ``HOST:PORT``."""
        port = None if self.lan is None else self.lan.port
        if self.lan is None or port is None:
            return []
        found = self.lan.addresses()
        if self._tells_observed_address:
            observed = [link.observed_address for link in self.links_up()]
            found += [format_host_port(at[0], port) for at in observed if at is not None]
        fitting = [address for address in found if len(address) <= MAX_ADDRESS_CHARACTERS]
        return list(dict.fromkeys(fitting))[:MAX_ADDRESSES]

    def told_addresses(self, device_id: DeviceID, addresses: list[str]) -> None:
        """Note where a peer says that it listens."""
        try:
            self.peers.told_addresses(device_id, addresses)
        except AbstError as error:
            self.log.error("a peer's addresses are not saved: {error}", error=str(error))

    def why_unreachable(self) -> str:
        """Return one line on why no realm is connected."""
        if not self.links:
            return "it is not on this network, and no realm is known"
        return self.why_no_realm()

    def why_no_realm(self) -> str:
        """Return one line on why no realm can be used."""
        problems = [link.problem for link in self.links.values() if link.problem]
        return "; ".join(problems) or "this device has none ('abst realm add LINK' adds one)"

    def peer_of(self, device_id: bytes) -> Peer | None:
        """Return a trusted device, or None."""
        return self.peers.get(device_id)

    def own_hello(
        self, session: bytes, received: int, *, paired: bool, pairing: bool
    ) -> DeviceHello:
        """Return this device's Hello; strangers learn no name, no address and no realm."""
        addresses = self.own_addresses()
        return DeviceHello(
            device_id=bytes(self.device_id),
            name=self.device_name if paired else "",
            paired=paired,
            session=session,
            received=received,
            addresses=addresses if paired else [],
            realms=[str(address) for address in self.links][:16] if paired else [],
            pairing=True if pairing else None,
        )

    def pairing_with(self, device_id: DeviceID) -> PairingAttempt | None:
        """Return the attempt to pair that another device may take part in, or None."""
        attempt = self._pairing
        return attempt if attempt is not None and attempt.admits(device_id) else None

    def not_paired_there(self, device_id: DeviceID) -> None:
        """Forget a pending pairing that the other device has not stored."""
        try:
            self.peers.drop_pending(device_id)
        except AbstError as error:
            self.log.error("a pending pairing stays: {error}", error=str(error))

    def met(
        self,
        device_id: DeviceID,
        key: bytes,
        name: str,
        pairing_key: bytes,
        addresses: list[str],
    ) -> None:
        """Note what a device has shown that has passed the Key check."""
        try:
            self.peers.settle(device_id, pairing_key)
            self.peers.met(device_id, key, name)
            if addresses:
                self.peers.told_addresses(device_id, addresses)
        except AbstError as error:
            # A full disk is no reason to lose a session; the key is pinned in memory already.
            self.log.error("a peer's key is not saved: {error}", error=str(error))
        peer = self.peers.get(device_id)
        if self._pairing is not None and peer is not None and self._pairing.concerns(device_id):
            self._pairing.paired(peer)

    def path_to(self, device_id: DeviceID) -> Path | None:
        """Return what carries the session with a peer just now, or None."""
        session = self.session_with(device_id)
        return None if session is None else session.path

    def refusal_to(self, device_id: DeviceID) -> str | None:
        """Return why a realm passes nothing on to a peer that may be there, or None."""
        connection = self._connections.get(device_id)
        return None if connection is None else connection.refusal

    def pairing_proved(self, device_id: DeviceID, key: bytes) -> None:
        """Note with which pairing's key a peer has passed the Key check of a stream."""
        try:
            self.peers.settle(device_id, key)
        except AbstError as error:
            self.log.error("a pairing is not saved: {error}", error=str(error))

    def build_protocol(self, peer: Peer) -> DeviceProtocol | None:
        """Return the application's protocol for a new session; None when it has none or fails."""
        try:
            return self.factory.buildProtocol(peer)
        except Exception:
            self.log.failure("an application's factory failed")
            return None

    def path_changed(self, device_id: DeviceID, is_open: bool) -> None:
        """Compare groups with a peer that can be reached again."""
        if is_open:
            self.groups.peer_reached(device_id)
        else:
            self.groups.peer_lost(device_id)

    def group_given(self, device_id: DeviceID, packet: GiveGroup) -> None:
        """Take what a peer says about a group."""
        self.groups.given(device_id, packet)

    def say_to(self, device_id: bytes, packet: GiveGroup) -> bool:
        """Say something to a peer over the channel that there is; False when there is none."""
        connection = self._connections.get(device_id)
        return connection is not None and connection.say(packet)

    def reach(self, device_id: bytes) -> None:
        """Look for a way to a peer, once, unless there is one."""
        if self.running:
            self._greet(DeviceID(device_id))

    def connection_idle(self, connection: PeerConnection) -> None:
        """Forget a connection that has nothing left."""
        if self._connections.get(connection.device_id) is connection:
            del self._connections[connection.device_id]

    def storage_failed(self, problem: AbstError) -> None:
        """Take every session back to what is on disk: writing has failed."""
        if self.store is None:
            return
        self.log.error("sessions cannot be stored: {problem}", problem=str(problem))
        for connection in list(self._connections.values()):
            connection.reload(problem)

    # Inside.

    def _greet(self, device_id: DeviceID) -> bool:
        """Say Hello to a peer, unless there is a path already."""
        if self.peers.get(device_id) is None:
            return False
        connection = self.connection(device_id)
        if connection.ways.active is not None:
            return False
        connection.probe()
        return True

    def _restore_sessions(self) -> None:
        if self.store is None:
            return
        for saved in self.store.load():
            if self.peers.get(saved.device_id) is None:
                self.store.end(saved.device_id)
            else:
                self.connection(saved.device_id).restore(saved)
        self.store.commit()

    def connection(self, device_id: bytes) -> PeerConnection:
        """Return the connection of a device, a new one when there is none."""
        connection = self._connections.get(device_id)
        if connection is None:
            connection = self._connections[device_id] = PeerConnection(self, DeviceID(device_id))
        return connection

    def _admits(self, source_device: bytes) -> bool:
        if not is_device_id(source_device):
            return False
        if self.peers.get(source_device) is not None:
            return True
        strangers = sum(self.peers.get(known) is None for known in self._connections)
        return strangers < MAX_STRANGERS
