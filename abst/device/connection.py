"""All that is between this device and one other: the session, its storage, its protocol.

The rules are those of docs/spec/channel.md, "Sessions". How the other device is reached, and over
which of several channels, is the business of ``ways``; a hole in a stream ends a channel and never
the session.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst import codec
from abst.device.agreement import Agreement
from abst.device.channel import Channel
from abst.device.flow import Flow
from abst.device.introduction import Introduction
from abst.device.leg import Leg
from abst.device.link import Link
from abst.device.pairing import PAIRING_SECONDS
from abst.device.paths import Path
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device.protocol import DeviceProtocol
from abst.device.session import Session
from abst.device.session_store import EndedSessions, SavedSession, SessionStore
from abst.device.session_writer import SessionWriter
from abst.device.ways import Ways, WaysOwner
from abst.device_id import DeviceID
from abst.errors import (
    AbstError,
    Code,
    DatabaseError,
    LocalProtocolError,
    NotTrustedError,
    PairingError,
    PeerUnreachableError,
    RemoteProtocolError,
    SessionEndedError,
    WrongKeyError,
    explain,
)
from abst.packets import (
    FIRST_APPLICATION_ID,
    LAST_PACKET_ID,
    Application,
    Error,
    GiveGroup,
    Heartbeat,
    Packet,
)

SESSION_SECONDS: Final = 3600.0
CONNECT_SECONDS: Final = 10.0
"""How long an application waits for a session, for each realm that may have to be tried."""

IDLE_SECONDS: Final = 60.0
"""A path is closed when nothing was said over it for so long, and opened when there is."""

HELLO_SECONDS: Final = 10.0
"""A path over which only Hello was said is closed after so long."""


class Owner(WaysOwner, Protocol):
    """What a connection needs of its device."""

    running: int
    session_seconds: float
    store: SessionStore | None
    ended_sessions: EndedSessions

    def own_addresses(self) -> list[str]:
        """Return where this device can be dialled, as ``HOST:PORT``."""

    def told_addresses(self, device_id: DeviceID, addresses: list[str]) -> None:
        """Note where a peer says that it listens."""

    def why_unreachable(self) -> str:
        """Return one line on why no link is up."""

    def build_protocol(self, peer: Peer) -> DeviceProtocol | None:
        """Return the application's protocol for a new session."""

    def storage_failed(self, problem: AbstError) -> None:
        """Take every session back to what is on disk: writing has failed."""

    def connection_idle(self, connection: PeerConnection) -> None:
        """Forget a connection that has nothing left."""

    def path_changed(self, device_id: DeviceID, is_open: bool) -> None:
        """Another channel carries what is said to a peer from now on, or none does."""

    def group_given(self, device_id: DeviceID, packet: GiveGroup) -> None:
        """A peer says something about a group."""


@dataclass
class _Pending:
    """What the application waits for."""

    connects: list[Deferred[DeviceProtocol]] = field(default_factory=list)
    sent: deque[Deferred[None]] = field(default_factory=deque)
    pings: dict[int, tuple[float, Deferred[float]]] = field(default_factory=dict)


class PeerConnection:
    """This device's end of everything shared with one other device.

    Attributes:
        device_id: the other device.
        session: the session, or None when there is none.
        protocol: the application's protocol of that session, or None.
        ways: how the other device is reached.
        refusal: what keeps a realm from passing anything on to it, though it may be there, or None.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, owner: Owner, device_id: DeviceID) -> None:
        self.device_id = device_id
        self.session: Session | None = None
        self.protocol: DeviceProtocol | None = None
        self.refusal: str | None = None
        self._owner = owner
        self.ways = Ways(owner, self, device_id)
        self._pending = _Pending()
        self._flow = Flow()
        self._agreement = Agreement(owner.random_bytes)
        self._give_up_at = math.inf
        self._expires_at = math.inf
        self._used_at = -math.inf
        self._kept_there = False
        self._ending = False
        self._transport: SessionWriter | None = None
        self._is_pairing = False
        self._stored_received = 0
        self._stopped = False
        self._flush_call: Any = None
        self._timer: Any = None

    # For the application, through its protocol.

    @property
    def peer(self) -> Peer:
        """The other device, as it is known now."""
        return self._owner.peer_of(self.device_id) or Peer(self.device_id)

    @property
    def path(self) -> Path | None:
        """What carries the session; None while nothing does."""
        return self.ways.path

    def is_written_by(self, transport: object) -> bool:
        """Tell whether a transport is that of the session that lives now."""
        return transport is self._transport

    def open(self) -> DeviceProtocol | None:
        """Return the session's protocol at once; what is sent waits until a channel carries it."""
        if self.session is None:
            self._make_protocol(self._make_session(self._agreement.own_id(None)))
            self._use()
            self.ways.dialling.seek()
            self._flush_soon()
        return None if self._ending else self.protocol

    def restore(self, saved: SavedSession) -> None:
        """Go on with a session where it stood before a restart."""
        session = self._restored(saved)
        # Whoever waited for these is gone with the former process.
        self._pending.sent.extend(Deferred() for _ in saved.packets)
        self._wait_for_path()
        self._make_protocol(session)

    def reload(self, problem: AbstError) -> None:
        """Take the session back to what is on disk; what is not there was never sent."""
        # A count that is not on disk must not leave, and closing a channel sends what it has.
        self.ways.discard_unsent()
        store, session = self._owner.store, self.session
        if store is None or session is None:
            self.ways.close_all(problem)
            return
        try:
            saved = store.load_one(self.device_id)
        except DatabaseError:
            saved = None
        if saved is None or saved.session_id != session.session_id:
            self._end_session(SessionEndedError(str(problem), session.unacknowledged))
            self.ways.close_all(problem)
            return
        self._restored(saved)
        lost = []
        while len(self._pending.sent) > len(saved.packets):
            lost.append(self._pending.sent.pop())
        while len(self._pending.sent) < len(saved.packets):
            # Acknowledged, and its sender knows; the disk does not, so it is asked for again.
            self._pending.sent.appendleft(Deferred())
        self.ways.close_all(problem)
        for waiting in reversed(lost):
            waiting.errback(problem)
        self.ways.dialling.seek_later()
        self._arm()

    def _restored(self, saved: SavedSession) -> Session:
        self.session = Session(saved.session_id, saved.received, saved.acknowledged, saved.packets)
        self._stored_received = saved.received
        return self.session

    def pair(self) -> Deferred[DeviceProtocol]:
        """Dial, to pair on the channel; the Deferred is that of ``connect``."""
        self._is_pairing = True
        self.ways.close_all(PeerUnreachableError("the devices are being paired again"))
        return self.connect()

    def probe(self) -> None:
        """Dial once, to say Hello; nothing is tried again when nobody answers."""
        self.ways.dialling.seek()
        self.settle()

    def cancel_pairing(self) -> None:
        """End the attempt to pair: the person has gone away."""
        self._is_pairing = False
        for leg in list(self.ways.legs.values()):
            leg.introduction.cancel()
        self._fail_connects(PairingError(str(Code.NOT_CONFIRMED)))
        self.settle()

    def connect(self) -> Deferred[DeviceProtocol]:
        """Return a Deferred of the session's protocol once a channel carries it."""
        waiting: Deferred[DeviceProtocol] = Deferred()
        self._use()
        if self.ways.active is not None and self.protocol is not None and not self._ending:
            waiting.callback(self.protocol)
            return waiting
        self._pending.connects.append(waiting)
        patience = CONNECT_SECONDS * max(1, len(self._owner.links_up()))
        if self._is_pairing:
            patience = PAIRING_SECONDS
        self._give_up_at = min(self._give_up_at, self._now() + patience)
        self.ways.dialling.seek()
        self.settle()
        return waiting

    def send_packet(self, packet_id: int, content: Any) -> Deferred[None]:
        """Send an application packet; see ``DeviceProtocol.sendPacket``."""
        if not FIRST_APPLICATION_ID <= packet_id <= LAST_PACKET_ID:
            raise LocalProtocolError(
                f"an application's packet ids are {FIRST_APPLICATION_ID}-{LAST_PACKET_ID}, "
                f"not {packet_id}"
            )
        if self.session is None or self._ending:
            raise LocalProtocolError("the session has ended")
        session = self.session
        packet = codec.encode(Application(packet_id, content))
        if self.ways.active is None and not self._is_busy(session):
            # The hour without a path begins when there is something to say.
            self._expires_at = math.inf
        number = session.add(packet)
        acknowledged: Deferred[None] = Deferred()
        self._pending.sent.append(acknowledged)
        self._write(lambda store: store.sent(self.device_id, number, packet))
        # A write that fails takes the session back, and has failed the Deferred.
        if self.session is session:
            self._flow.added(session.waiting_bytes)
            self._flush_soon()
        return acknowledged

    @property
    def is_waiting(self) -> bool:
        """Whether anything is not acknowledged."""
        return bool(self._unacknowledged())

    def waiting(self) -> list[tuple[int, int, Any, bool]]:
        """Return what is not acknowledged: number, packet id, content, and whether it is out."""
        if self.session is None:
            return []
        found = []
        for number, packet, is_out in self.session.waiting():
            decoded = codec.decode(packet)
            found.append((number, decoded["packet_id"], decoded["content"], is_out))
        return found

    def replace_packet(self, number: int, packet_id: int, content: Any) -> bool:
        """Put another packet in the place of one that has not left yet; False when it has."""
        if self.session is None:
            return False
        packet = codec.encode(Application(packet_id, content))
        if not self.session.replace(number, packet):
            return False
        self._write(lambda store: store.replace(self.device_id, number, packet))
        self._flush_soon()
        return True

    def ping(self) -> Deferred[float]:
        """Return a Deferred of the round-trip time in seconds."""
        answered: Deferred[float] = Deferred()
        leg = self.ways.active
        if leg is None or self.session is None:
            answered.errback(PeerUnreachableError(f"{self.peer}: no path just now"))
            return answered
        self._use()
        self._pending.pings[self.ways.ping(leg)] = (self._now(), answered)
        self._flush_soon()
        return answered

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume a producer by what waits to be acknowledged."""
        waiting = 0 if self.session is None else self.session.waiting_bytes
        self._flow.register(producer, streaming, waiting)
        self._flush_soon()

    def unregister_producer(self) -> None:
        """Let the producer go."""
        self._flow.unregister()

    def end(self) -> None:
        """End the session once everything is acknowledged."""
        self._ending = True
        self._flush_soon()

    # For the device.

    def knows(self, number: bytes) -> bool:
        """Tell whether a channel with that number is open or being opened."""
        return number in self.ways.legs

    def content_received(self, link: Link, number: bytes, records: bytes) -> None:
        """Take TLS bytes of one of this peer's channels; ``settle`` answers them."""
        leg = self.ways.legs.get(number)
        if leg is None:
            leg = self.ways.accept(link, number)
        if leg is not None and leg.carrier.slot is link:
            if records:
                self.ways.receive(leg, records)
            else:
                if leg is self.ways.active:
                    self._rest()
                self.ways.drop(leg, PeerUnreachableError(f"{self.peer} has closed the channel"))
                if leg.channel.dialled and not leg.is_proved:
                    self.ways.dialling.seek_later()

    def adopt(self, pipe: Pipe, channel: Channel, found: list[tuple[Packet, int]]) -> None:
        """Take a direct connection on which the peer has proved its key."""
        self.ways.take(self.ways.adopt(pipe, channel), found)
        self.settle()

    def link_down(self, link: Link) -> None:
        """Give up what went over a link; try another way at once."""
        self.ways.link_down(link)
        self.settle()

    def link_up(self, link: Link) -> None:
        """A way has opened: dial if somebody waits for one."""
        self.ways.dialling.link_up()
        self.settle()

    def refused(self, link: Link, error: Error) -> None:
        """The realm dropped something for this peer."""
        is_spent = error.code == Code.VOLUME_SPENT
        self.refusal = explain(error.code, error.reason) if is_spent else None
        self.ways.refused(link, error)
        self.settle()

    def addresses_changed(self) -> None:
        """The peer may be listening somewhere else now."""
        self.ways.dialling.addresses_changed()
        self.settle()

    def leave_lan(self) -> None:
        """Give up what is direct: the local network is not to be used any more."""
        self.ways.leave_lan()
        self.settle()

    def network_changed(self) -> None:
        """Something has happened to this device's network."""
        self.ways.network_changed()
        leg = self.ways.active
        if leg is not None and self.session is not None:
            leg.say(self.heartbeat(addresses=self._owner.own_addresses()), self._now())
        self.settle()

    def stop(self) -> None:
        """Close everything now; the session ends, unless it is stored and goes on later."""
        if self._owner.store is not None:
            self._commit()
            self._call(self._flow.stop)
            self.session = self.protocol = None
        self._stopped = True
        self._say_end()
        self._end_session(SessionEndedError("this device stops", self._unacknowledged()))
        self._close_all(PeerUnreachableError("this device stops"))
        self._disarm()

    def forget(self, why: str) -> None:
        """Close everything, because the peer is not trusted any more."""
        self._say_end()
        self._end_session(SessionEndedError(why, self._unacknowledged()))
        # Nothing is resumed with it, so nothing has to be remembered.
        self._peer_knows_the_end()
        self._close_all(NotTrustedError(why, theirs=False))
        self.settle()

    def _close_all(self, problem: AbstError) -> None:
        self.ways.close_all(problem)
        self._fail_connects(problem)

    # For the ways.

    @property
    def wants_path(self) -> bool:
        """Whether a path is to be looked for again and again."""
        return (
            bool(self._owner.running)
            and not self._stopped
            and (self._is_needed() or bool(self._pending.connects))
        )

    def _is_needed(self) -> bool:
        """Whether the session has a use for a path."""
        session = self.session
        if session is None:
            return False
        return self._is_busy(session) or self._now() < self._used_at + IDLE_SECONDS

    def _is_busy(self, session: Session) -> bool:
        return bool(
            session.unacknowledged
            or session.owes_acknowledgement
            or self._ending
            or self._pending.pings
            or self._kept_there
            or self._keeps()
        )

    def _keeps(self) -> bool:
        return self.protocol is not None and self.protocol.keep_alive

    def packet_received(self, leg: Leg, packet: Packet, size: int, now: float) -> None:
        """Take a packet of a channel whose introduction is over."""
        session = self.session
        match packet:
            case Heartbeat() if leg.buries:
                if packet.end:
                    self._peer_knows_the_end()
                    self.ways.drop(leg, PeerUnreachableError("the session has ended"))
            case Application() | GiveGroup() if leg.buries:
                pass  # Its count stays as it is, so that nothing is acknowledged that is lost.
            case Heartbeat() if session is not None:
                self._take_heartbeat(leg, session, packet)
            case Application() if session is not None:
                number = leg.take_number()
                # Nobody takes it when the application has refused the session: it does not count.
                if self.protocol is not None and session.take(number):
                    self._used_at = now
                    self._call(self.protocol.packetReceived, packet.id, packet.content)
            case GiveGroup():
                self._owner.group_given(self.device_id, packet)
            case _:
                raise RemoteProtocolError(Code.HELLO_FIRST, "Hello is the first packet, and once")

    def say(self, packet: GiveGroup) -> bool:
        """Say something that is lost with the channel; False when there is none."""
        leg = self.ways.active
        if leg is None or leg.buries:
            return False
        leg.channel.send(codec.encode(packet))
        self._flush_soon()
        return True

    def heartbeat(self, **fields: Any) -> Heartbeat:
        """Return a heartbeat of the session."""
        received = 0
        if self.session is not None:
            received = self.session.received
            self.session.reported()
        return Heartbeat(received, **fields)

    def moved(self) -> None:
        """Send on another channel from now on; or wait until there is one."""
        leg, session = self.ways.active, self.session
        if leg is None:
            self._kept_there = False
            self._wait_for_path()
        else:
            self._expires_at = math.inf
        pings, self._pending.pings = self._pending.pings, {}
        if session is None:
            for _, answered in pings.values():
                answered.errback(PeerUnreachableError(f"{self.peer}: the session has ended"))
        elif leg is not None:
            session.rewind()
            # The answer is looked for on the new path; what the move took belongs to the time.
            for ping in pings.values():
                self._pending.pings[self.ways.ping(leg)] = ping
        else:
            self._pending.pings = pings
        if self.protocol is not None:
            self._call(self.protocol.pathChanged, self.path)
        if leg is not None:
            self.refusal = None
        self._owner.path_changed(self.device_id, leg is not None)
        self._flush_soon()

    def peer_closed(self, leg: Leg) -> None:
        """Look for no other path when the peer has closed the one in use, but for a need."""
        if leg.buries:
            self._peer_knows_the_end()
        elif leg is self.ways.active:
            self._rest()

    def _rest(self) -> None:
        """Look for no path just because one was used a moment ago."""
        self._used_at = -math.inf
        self._kept_there = False

    def broken(self, problem: RemoteProtocolError) -> None:
        """End the session: the same bytes would come again."""
        lost = f"{self.peer} breaks the protocol: {problem}"
        self._end_session(SessionEndedError(lost, self._unacknowledged()))

    def no_way(self, problem: AbstError) -> None:
        """Tell whoever waits that everything was tried."""
        if isinstance(problem, WrongKeyError):
            self.log.warn("{problem}", problem=str(problem))
        self._fail_connects(problem)

    def changed(self) -> None:
        """Send what is due, and set the timer."""
        self._flush_soon()

    # For introductions.

    @property
    def wants_pairing(self) -> bool:
        """Whether a person has asked for a pairing with this peer, on the next channel."""
        return self._is_pairing

    def own_session(self) -> tuple[bytes, int]:
        """Return the session ID to propose, and what has been received of it."""
        ended = self._owner.ended_sessions.get(self.device_id)
        if ended is not None:
            return ended
        received = 0 if self.session is None else self.session.received
        return self._agreement.own_id(self.session), received

    def agree_on_session(self, proposed: bytes) -> tuple[bytes, int]:
        """Return the session ID that counts, and what has been received of it."""
        ended = self._owner.ended_sessions.get(self.device_id)
        if ended is not None and ended[0] == proposed:
            return ended
        return self._agreement.decide(self.session, proposed)

    def introduced(self, introduction: Introduction) -> None:
        """Let the session that the Hellos agreed on use the channel."""
        leg = self.ways.leg_of(introduction)
        if leg is None:
            # The application was told just now that the devices are paired, and has had enough.
            return
        self._is_pairing = False
        agreed = introduction.session_id
        ended = self._owner.ended_sessions.get(self.device_id)
        if ended is not None and ended[0] == agreed:
            leg.buries = True
            leg.say(Heartbeat(ended[1], end=True), self._now())
            return
        self._peer_knows_the_end()
        session = self._session_for(agreed, leg)
        for other in list(self.ways.legs.values()):
            if other is not leg and other.introduction.is_for_pairing and not other.is_proved:
                self.superfluous(other.introduction)
        # The application was called just now, and may have given up the peer.
        if leg.key not in self.ways.legs:
            return
        # It may be closed soon, when this was only to say Hello.
        self._used_at = max(self._used_at, self._now() - IDLE_SECONDS + HELLO_SECONDS)
        if session is None:
            self._begin_session(agreed, leg)
        else:
            self._resume_session(session, leg)

    def _session_for(self, agreed: bytes, leg: Leg) -> Session | None:
        """Return the session that has the ID agreed on from now on; end one that was lost."""
        session = self.session
        former = self._agreement.own_id(session)
        self._agreement.agreed(former, agreed)
        if session is None or session.session_id == agreed:
            return session
        if session.has_progressed or self._ending:
            lost = SessionEndedError(f"{self.peer} has lost it", session.unacknowledged)
            problem = lost if session.unacknowledged or not self._ending else None
            self._end_session(problem, known_there=True, but=leg)
            self._agreement.agreed(former, agreed)
            # The application may have begun the next one, and have sent something in it.
            session = self.session
        if session is not None:
            # Nothing has come across in it: what waits may go on under the ID agreed on.
            session.session_id = agreed
            self._write(lambda store: store.rename(self.device_id, agreed))
        return session

    def _begin_session(self, session_id: bytes, leg: Leg) -> None:
        session = self._make_session(session_id)
        self.ways.proved(leg)
        self._make_protocol(session)
        if self.session is session and self.protocol is not None:
            self._fulfil_connects(self.protocol)

    def _resume_session(self, session: Session, leg: Leg) -> None:
        try:
            count = session.acknowledge(leg.introduction.peer_received)
        except RemoteProtocolError as problem:
            self.broken(problem)
            raise
        acknowledged = self._take_acknowledged(session, count)
        self.ways.proved(leg)
        if self.session is session and self.protocol is not None and not self._ending:
            self._fulfil_connects(self.protocol)
        for deferred in acknowledged:
            deferred.callback(None)

    def estranged(self, introduction: Introduction, problem: NotTrustedError) -> None:
        """Be done with the other device: one of the two does not trust the other."""
        leg = self.ways.leg_of(introduction)
        if leg is not None:
            self.ways.drop(leg, problem)
        self._end_session(
            SessionEndedError(f"{self.peer} does not trust this device", self._unacknowledged())
        )
        self._fail_connects(problem)

    def unpaired(self, introduction: Introduction, problem: AbstError) -> None:
        """Close a channel that was for pairing alone."""
        self._is_pairing = False
        leg = self.ways.leg_of(introduction)
        if leg is not None:
            self.ways.drop(leg, problem)
        self._fail_connects(problem)

    def superfluous(self, introduction: Introduction) -> None:
        """Close a channel that is not needed, since the devices are paired on another one."""
        leg = self.ways.leg_of(introduction)
        if leg is not None:
            self.ways.drop(leg, PeerUnreachableError("the devices are paired on another channel"))

    # The session.

    def _make_session(self, session_id: bytes) -> Session:
        session = self.session = Session(session_id)
        self._agreement.begun()
        self._stored_received = 0
        self._write(lambda store: store.begin(self.device_id, session_id))
        return session

    def _make_protocol(self, session: Session) -> None:
        protocol = self._owner.build_protocol(self.peer)
        if self.session is not session:
            return
        self.protocol = protocol
        self._ending = protocol is None
        if protocol is None:
            self._fail_connects(
                PeerUnreachableError(f"the application refuses a session with {self.peer}")
            )
            return
        self._transport = SessionWriter(self)
        self._call(protocol.makeConnection, self._transport)

    def _take_heartbeat(self, leg: Leg, session: Session, heartbeat: Heartbeat) -> None:
        leg.take_count(heartbeat.received)
        count = session.acknowledge(heartbeat.received)
        for deferred in self._take_acknowledged(session, count):
            deferred.callback(None)
        if self.session is not session or leg.key not in self.ways.legs:
            return
        if heartbeat.addresses is not None:
            self._owner.told_addresses(self.device_id, heartbeat.addresses)
            self.ways.dialling.addresses_changed()
        if heartbeat.first is not None:
            leg.begins(heartbeat.first, session.received)
            self._kept_there = bool(heartbeat.keep)
            self.ways.first_received(leg)
        if heartbeat.pong is not None:
            self.ways.pong_received(leg, heartbeat.pong)
            begun, answered = self._pending.pings.pop(heartbeat.pong, (0.0, None))
            if answered is not None:
                answered.callback(self._now() - begun)
        if self.session is not session:
            return
        if heartbeat.ping is not None:
            leg.say(self.heartbeat(pong=heartbeat.ping), self._now())
        if heartbeat.end:
            self._end_session(None, known_there=True)

    def _take_acknowledged(self, session: Session, count: int) -> list[Deferred[None]]:
        """Return who is to be told; telling comes last, since anything may follow from it."""
        told = [self._pending.sent.popleft() for _ in range(count)]
        if count:
            self._used_at = self._now()
            total = session.acknowledged
            self._write(lambda store: store.acknowledged(self.device_id, total))
        return told

    def _end_session(
        self,
        problem: SessionEndedError | None,
        *,
        known_there: bool = False,
        but: Leg | None = None,
    ) -> None:
        """End the session, by agreement when there is no problem, and its channels but one."""
        session = self.session
        if session is None:
            return
        lost = problem or SessionEndedError("the other side ended it", self._unacknowledged())
        # Before anything is written: a write that fails takes back the session that there is.
        self.session = self._transport = None
        if session.received and not known_there:
            ended = (session.session_id, session.received)
            self._owner.ended_sessions.put(self.device_id, *ended)
            self._write(lambda store: store.remember_end(self.device_id, *ended))
        self._write(lambda store: store.end(self.device_id))
        self._agreement.ended()
        protocol, self.protocol = self.protocol, None
        sent, self._pending.sent = self._pending.sent, deque()
        self._expires_at = math.inf
        self._used_at = -math.inf
        self._ending = self._kept_there = False
        flow, self._flow = self._flow, Flow()
        for leg in list(self.ways.legs.values()):
            # Their Hellos have agreed on the session that is over.
            if leg.introduction.hello_sent and leg is not but and not leg.buries:
                self.ways.drop(leg, lost)
        if problem is None:
            self.ways.dialling.succeeded()
        for acknowledged in sent:
            acknowledged.errback(lost)
        self._call(flow.stop)
        if protocol is not None:
            reason = Failure(ConnectionDone() if problem is None else problem)
            self._call(protocol.connectionLost, reason)

    def _peer_knows_the_end(self) -> None:
        """Remember an ended session no longer: the peer does not hold it."""
        if self._owner.ended_sessions.pop(self.device_id):
            self._write(lambda store: store.forget_end(self.device_id))

    def _fulfil_connects(self, protocol: DeviceProtocol) -> None:
        waiting, self._pending.connects = self._pending.connects, []
        self._give_up_at = math.inf
        for deferred in waiting:
            deferred.callback(protocol)

    def _fail_connects(self, problem: AbstError) -> None:
        waiting, self._pending.connects = self._pending.connects, []
        self._give_up_at = math.inf
        for deferred in waiting:
            deferred.errback(problem)

    def _unacknowledged(self) -> int:
        return 0 if self.session is None else self.session.unacknowledged

    # Storage.

    def _write(self, change: Callable[[SessionStore], None]) -> None:
        """Write a change of the session; the next ``_commit`` makes it durable."""
        store = self._owner.store
        if store is None:
            return
        try:
            change(store)
        except DatabaseError as problem:
            self._owner.storage_failed(problem)

    def _commit(self) -> None:
        """Make what has happened durable, before anything that follows from it leaves."""
        if self._owner.store is None:
            return
        session = self.session
        if session is not None and session.received != self._stored_received:
            self._stored_received = session.received
            self._write(lambda store: store.received(self.device_id, session.received))
        self._write(lambda store: store.commit())

    # Sending.

    def _say_first(self, leg: Leg, number: int) -> None:
        """Tell the other side which packet comes next on this channel."""
        keep = True if self._keeps() else None
        # What Hello has told may be older, or was nothing, before the devices were paired.
        addresses = self._owner.own_addresses() or None
        leg.say(self.heartbeat(first=number, keep=keep, addresses=addresses), self._now())
        leg.next_out = number

    def _say_end(self) -> None:
        leg = self.ways.active
        if leg is not None and self.session is not None:
            leg.say(self.heartbeat(end=True), self._now())

    def _flush_soon(self) -> None:
        if self._flush_call is None and not self._stopped:
            self._flush_call = self._owner.reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        self.settle()

    def settle(self) -> None:
        """Send what is due, see that a way is being looked for, forget what is over, re-arm."""
        if self._stopped:
            return
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        self._commit()
        if self.ways.active is not None and self.session is not None:
            self._send_session(self.ways.active, self.session)
        self.ways.flush()
        if self.session is not None:
            self._call(self._flow.update, self.session.waiting_bytes)
        if self.ways.active is None and self.wants_path:
            self._seek()
        elif not self.ways.legs and not self.ways.dialling.is_seeking and self._is_over():
            self._disarm()
            self._owner.connection_idle(self)
            return
        self._arm()

    def _seek(self) -> None:
        if self._expires_at == math.inf and self.session is not None:
            self._wait_for_path()
        self.ways.dialling.seek_later()

    def _is_over(self) -> bool:
        return self.session is None and not self._pending.connects and self._flush_call is None

    def _send_session(self, leg: Leg, session: Session) -> None:
        now = self._now()
        if leg.next_out is None:
            self._say_first(leg, session.position)
        for packet in session.packets_to_send():
            if leg.next_out != session.position - 1:
                # An acknowledgement that came another way has skipped some.
                self._say_first(leg, session.position - 1)
            leg.channel.send(packet)
            leg.next_out = session.position
            leg.health.asked(now)
            self._used_at = now
        if self._ending and not session.unacknowledged:
            self._say_end()
            leg.flush(now)
            self._end_session(None)
        elif session.owes_acknowledgement:
            leg.say(self.heartbeat(), now)

    # Time.

    def _now(self) -> float:
        return float(self._owner.reactor.seconds())

    def _use(self) -> None:
        self._used_at = self._now()

    def _wait_for_path(self) -> None:
        """Let the session end in a while, if it has a use for a path and none comes."""
        if self.session is not None and self._is_needed():
            self._expires_at = min(self._expires_at, self._now() + self._owner.session_seconds)

    def _idle_at(self) -> float:
        """Return when the path is closed if nothing is said until then."""
        session = self.session
        if session is None or self.ways.active is None or self._is_busy(session):
            return math.inf
        return self._used_at + IDLE_SECONDS

    def _next_deadline(self) -> float:
        return min(self._give_up_at, self._expires_at, self._idle_at(), self.ways.next_deadline())

    def _ring(self) -> None:
        self._timer = None
        now = self._now()
        if now >= self._expires_at:
            self._expire()
        self.ways.handle_deadline()
        if now >= self._give_up_at:
            self._fail_connects(
                PeerUnreachableError(f"{self.peer} does not answer: {self._why_unreachable()}")
            )
        if self.ways.active is not None and self.session is not None and not self.wants_path:
            self.ways.close_all(PeerUnreachableError("there is nothing to say"))
        self.settle()

    def _expire(self) -> None:
        self._expires_at = math.inf
        if self.session is not None and self._is_needed():
            self._end_session(
                SessionEndedError(
                    f"no way to {self.peer} for {self._owner.session_seconds:g} seconds",
                    self._unacknowledged(),
                )
            )

    def _why_unreachable(self) -> str:
        if self._owner.links_up():
            return self.refusal or "it is not connected to a realm that this device uses"
        return self._owner.why_unreachable()

    def _arm(self) -> None:
        due = self._next_deadline()
        if due == math.inf:
            return
        if self._timer is not None:
            if self._timer.getTime() <= due:
                return
            self._timer.cancel()
        self._timer = self._owner.reactor.callLater(max(0.0, due - self._now()), self._ring)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None

    def _call(self, hook: Callable[..., Any], *args: Any) -> None:
        """Call an application's hook; what it raises is logged and ends nothing."""
        try:
            hook(*args)
        except DatabaseError as problem:
            # What the hook wrote is undone with the session's own counts, and comes again.
            self._owner.storage_failed(problem)
        except Exception:
            self._log_failure()

    def _log_failure(self) -> None:
        self.log.failure("an application's hook failed")
