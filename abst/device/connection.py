"""Everything between this device and one other: dialling, channels, the session, its protocol.

Owns which channel carries the session, and when to dial again. The rules are those of
docs/spec/channel.md: one dial wins when both sides dial, a newer channel replaces an older one
once it has proved itself, a hole in the stream ends a channel and never the session.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst import codec
from abst.device.channel import HANDSHAKE_SECONDS, Channel, ChannelState
from abst.device.introduction import Household, Introduction, Stage
from abst.device.link import Link, next_wait_seconds
from abst.device.pairing import PAIRING_SECONDS
from abst.device.paths import Path
from abst.device.peers import Peer
from abst.device.protocol import DeviceProtocol
from abst.device.session import Session
from abst.device.session_store import SavedSession, SessionStore
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
    CHANNEL_NUMBER_BYTES,
    FIRST_APPLICATION_ID,
    LAST_PACKET_ID,
    SESSION_ID_BYTES,
    Application,
    Error,
    Heartbeat,
    Packet,
)
from abst.tls import ChannelContexts

HEARTBEAT_SECONDS: Final = 15.0
DEAD_SECONDS: Final = 35.0
SESSION_SECONDS: Final = 3600.0
CONNECT_SECONDS: Final = 10.0
"""How long an application waits for a session, for each realm that may have to be tried."""

STEADY_SECONDS: Final = 5.0
"""A channel that has lasted so long was a good one: after it the next is dialled at once."""

LOST_DIAL_SECONDS: Final = 1.0
"""A dial unanswered for so long was lost, when the device that should answer dials by itself."""


class Owner(Household, Protocol):
    """What a connection needs of its device."""

    reactor: Any
    contexts: ChannelContexts
    session_seconds: float
    random_fraction: Callable[[], float]
    store: SessionStore | None
    ended_sessions: dict[bytes, tuple[bytes, int]]
    """By peer, the ID of a session that has ended here and what was received of it: the peer may
    not know yet, and would send again in the next one what was handled in that one."""

    def links_up(self) -> list[Link]:
        """Return the links that a peer could be reached over, best first."""

    def why_unreachable(self) -> str:
        """Return one line on why no link is up."""

    def build_protocol(self, peer: Peer) -> DeviceProtocol | None:
        """Return the application's protocol for a new session."""

    def storage_failed(self, problem: AbstError) -> None:
        """Take every session back to what is on disk: writing has failed."""

    def connection_idle(self, connection: PeerConnection) -> None:
        """Forget a connection that has nothing left."""


@dataclass(slots=True)
class Leg:
    """A channel, the link that carries it, and its introduction.

    Attributes:
        active: the session uses it.
        buries: it tells the peer that the session that it asks for has ended here.
        sent_at: when bytes last went out.
    """

    channel: Channel
    link: Link
    introduction: Introduction
    active: bool = False
    buries: bool = False
    sent_at: float = 0.0

    @property
    def introduction_ends_at(self) -> float:
        """When the channel is given up if the session may not use it by then."""
        patience = HANDSHAKE_SECONDS
        if self.introduction.stage is Stage.PAIRING:
            patience = PAIRING_SECONDS
        return self.channel.opened_at + patience


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
    """

    log = Logger(namespace="abst.device")

    def __init__(self, owner: Owner, device_id: DeviceID) -> None:
        self.device_id = device_id
        self.session: Session | None = None
        self.protocol: DeviceProtocol | None = None
        self._owner = owner
        self._legs: dict[bytes, Leg] = {}
        self._active: Leg | None = None
        self._pending = _Pending()
        self._next_ping = 0
        self._failures = 0
        self._tried: set[int] = set()
        self._redial_at = math.inf
        self._give_up_at = math.inf
        self._expires_at = math.inf
        self._ending = False
        self._transport: _Transport | None = None
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
        return self._active.link.path if self._active is not None else None

    def is_written_by(self, transport: object) -> bool:
        """Tell whether a transport is that of the session that lives now."""
        return transport is self._transport

    def open(self) -> DeviceProtocol | None:
        """Return the session's protocol at once; what is sent waits until a channel carries it."""
        if self.session is None:
            self._make_protocol(self._make_session(self._owner.random_bytes(SESSION_ID_BYTES)))
            self._expires_at = self._now() + self._owner.session_seconds
            if not self._legs:
                self._dial()
            self._flush_soon()
        return None if self._ending else self.protocol

    def restore(self, saved: SavedSession) -> None:
        """Go on with a session where it stood before a restart."""
        session = self._restored(saved)
        # Whoever waited for these is gone with the former process.
        self._pending.sent.extend(Deferred() for _ in saved.packets)
        self._expires_at = self._now() + self._owner.session_seconds
        self._make_protocol(session)

    def reload(self, problem: AbstError) -> None:
        """Take the session back to what is on disk; what is not there was never sent."""
        if self._active is not None:
            self._drop(self._active, problem)
        store, session = self._owner.store, self.session
        if store is None or session is None:
            return
        saved = store.load_one(self.device_id)
        if saved is None or saved.session_id != session.session_id:
            self._end_session(SessionEndedError(str(problem), session.unacknowledged))
            return
        self._restored(saved)
        while len(self._pending.sent) > len(saved.packets):
            self._pending.sent.pop().errback(problem)
        self._redial_later()
        self._arm()

    def _restored(self, saved: SavedSession) -> Session:
        self.session = Session(saved.session_id, saved.received, saved.acknowledged, saved.packets)
        self._stored_received = saved.received
        return self.session

    def pair(self) -> Deferred[DeviceProtocol]:
        """Dial, to pair on the channel; the Deferred is that of ``connect``."""
        self._is_pairing = True
        return self.connect()

    def probe(self) -> None:
        """Dial once, to say Hello; nothing is tried again when nobody answers."""
        if not self._legs:
            self._dial()
            self._settle()

    def person_says(self, same: bool) -> None:
        """Take the person's word on the words that were shown."""
        for leg in list(self._legs.values()):
            leg.introduction.person_says(same)
        self._settle()

    def cancel_pairing(self) -> None:
        """End the attempt to pair: the person has gone away."""
        self._is_pairing = False
        for leg in list(self._legs.values()):
            leg.introduction.cancel()
        self._fail_connects(PairingError(str(Code.NOT_CONFIRMED)))
        self._settle()

    def connect(self) -> Deferred[DeviceProtocol]:
        """Return a Deferred of the session's protocol once a channel carries it."""
        waiting: Deferred[DeviceProtocol] = Deferred()
        if self._active is not None and self.protocol is not None and not self._ending:
            waiting.callback(self.protocol)
            return waiting
        self._pending.connects.append(waiting)
        patience = CONNECT_SECONDS * max(1, len(self._owner.links_up()))
        if self._is_pairing:
            patience = PAIRING_SECONDS
        self._give_up_at = min(self._give_up_at, self._now() + patience)
        if not self._legs:
            self._dial()
        self._settle()
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
        packet = codec.encode(Application(packet_id, content))
        number = self.session.add(packet)
        self._write(lambda store: store.sent(self.device_id, number, packet))
        acknowledged: Deferred[None] = Deferred()
        self._pending.sent.append(acknowledged)
        self._flush_soon()
        return acknowledged

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
        if self._active is None or self.session is None:
            answered.errback(PeerUnreachableError(f"{self.peer}: no path just now"))
            return answered
        self._next_ping += 1
        self._pending.pings[self._next_ping] = (self._now(), answered)
        self._send_heartbeat(ping=self._next_ping)
        self._flush_soon()
        return answered

    def end(self) -> None:
        """End the session once everything is acknowledged."""
        self._ending = True
        self._flush_soon()

    # For the device.

    def knows(self, number: bytes) -> bool:
        """Tell whether a channel with that number is open or being opened."""
        return number in self._legs

    def content_received(self, link: Link, number: bytes, records: bytes) -> None:
        """Take TLS bytes of one of this peer's channels."""
        leg = self._legs.get(number)
        if leg is None:
            leg = self._accept(link, number, records)
        if leg is None or leg.link is not link:
            return
        if not records:
            if leg.buries:
                self._owner.ended_sessions.pop(self.device_id, None)
            self._drop(leg, PeerUnreachableError(f"{self.peer} has closed the channel"))
        else:
            self._receive(leg, records)
        self._settle()

    def link_down(self, link: Link) -> None:
        """Give up what went over a link; try another way at once."""
        for leg in [leg for leg in self._legs.values() if leg.link is link]:
            self._drop(leg, PeerUnreachableError("the connection to the realm is gone"))
        self._settle()

    def link_up(self, link: Link) -> None:
        """A way has opened: dial if somebody waits for one."""
        self._tried.clear()
        if not self._legs and self._wants_path():
            self._failures = 0
            self._dial()
        self._settle()

    def refused(self, link: Link, error: Error) -> None:
        """The realm dropped something for this peer: its TLS stream has a hole."""
        lost = [leg for leg in self._legs.values() if leg.link is link]
        problem = PeerUnreachableError(f"{self.peer}: {explain(error.code, error.reason)}")
        for leg in lost:
            self._drop(leg, problem)
        if lost and error.code == Code.TARGET_ABSENT:
            self._try_next_link(link, problem)
        self._settle()

    def stop(self) -> None:
        """Close everything now; the session ends, unless it is stored and goes on later."""
        if self._owner.store is not None:
            self._commit()
            self.session = self.protocol = None
        self._stopped = True
        self._send_heartbeat(end=True)
        self._end_session(SessionEndedError("this device stops", self._unacknowledged()))
        self._close_all(PeerUnreachableError("this device stops"))
        self._disarm()

    def forget(self, why: str) -> None:
        """Close everything, because the peer is not trusted any more."""
        self._send_heartbeat(end=True)
        self._end_session(SessionEndedError(why, self._unacknowledged()))
        self._close_all(NotTrustedError(why, theirs=False))
        self._settle()

    def _close_all(self, problem: AbstError) -> None:
        for leg in list(self._legs.values()):
            self._drop(leg, problem)
        self._fail_connects(problem)

    # Dialling and accepting.

    def _dial(self) -> None:
        self._redial_at = math.inf
        links = [link for link in self._owner.links_up() if id(link) not in self._tried]
        if not links:
            return
        link = links[0]
        number = self._owner.random_bytes(CHANNEL_NUMBER_BYTES)
        engine = self._owner.contexts.dial(self._check_key)
        self._add(
            Channel(
                number,
                engine,
                dialled=True,
                now=self._now(),
                max_content_bytes=link.max_content_bytes,
            ),
            link,
        )

    def _accept(self, link: Link, number: bytes, records: bytes) -> Leg | None:
        """Return the leg of a new channel that the other side dials, or None when it may not."""
        for other in [leg for leg in self._legs.values() if not leg.active]:
            if not other.channel.dialled:
                self._drop(other, PeerUnreachableError("the other side has dialled again"))
            elif self._owner.device_id < self.device_id:
                # Both dial: the lower ID's dial counts, and that is ours.
                self._reset(link, number)
                if self._now() >= other.channel.opened_at + LOST_DIAL_SECONDS:
                    self._drop(other, PeerUnreachableError("the dial was lost"))
                    self._dial()
                    self._settle()
                return None
            else:
                self._drop(other, PeerUnreachableError("the other side's dial counts"))
        engine = self._owner.contexts.accept(self._check_key)
        return self._add(
            Channel(
                number,
                engine,
                dialled=False,
                now=self._now(),
                max_content_bytes=link.max_content_bytes,
            ),
            link,
        )

    def _add(self, channel: Channel, link: Link) -> Leg:
        introduction = Introduction(self._owner, self, self.device_id, channel)
        leg = Leg(channel, link, introduction, sent_at=self._now())
        self._legs[channel.number] = leg
        return leg

    def _check_key(self, key: bytes) -> None:
        self.peer.check_key(key)

    def _try_next_link(self, link: Link, problem: AbstError) -> None:
        self._tried.add(id(link))
        if self._legs or not self._wants_path():
            return
        if any(id(other) not in self._tried for other in self._owner.links_up()):
            self._dial()
            return
        self._tried.clear()
        # Nobody at this end can do more: whoever waits shall know, and the session tries later.
        self._fail_connects(problem)
        self._redial_later()

    def _redial_later(self) -> None:
        """Dial again: at once after a good channel, and later each time that it fails."""
        if not self._wants_path():
            return
        wait = 0.0
        if self._failures:
            wait = next_wait_seconds(self._failures, None, self._owner.random_fraction())
        self._failures += 1
        self._redial_at = min(self._redial_at, self._now() + wait)

    def _wants_path(self) -> bool:
        return self.session is not None or bool(self._pending.connects)

    # Receiving.

    def _receive(self, leg: Leg, records: bytes) -> None:
        now = self._now()
        channel = leg.channel
        found = channel.receive_data(records, now)
        is_open = channel.state is ChannelState.OPEN
        if is_open and channel.dialled and not leg.introduction.hello_sent:
            leg.introduction.begin()
        for packet, size in found:
            if channel.number not in self._legs:
                return
            try:
                self._take(leg, packet, size, now)
            except RemoteProtocolError as problem:
                channel.close(problem)
                break
        if channel.state is ChannelState.CLOSED and channel.number in self._legs:
            self._lose(leg, channel.problem or PeerUnreachableError("the channel closed"))

    def _take(self, leg: Leg, packet: Packet, size: int, now: float) -> None:
        session = self.session
        match packet:
            case Heartbeat() if leg.buries:
                if packet.end:
                    self._owner.ended_sessions.pop(self.device_id, None)
                    self._drop(leg, PeerUnreachableError("the session has ended"))
            case Application() if leg.buries:
                pass  # Its count stays as it is, so that nothing is acknowledged that is lost.
            case _ if not leg.active:
                leg.introduction.take(packet, now)
            case Heartbeat() if session is not None:
                self._take_heartbeat(session, packet)
            case Application() if session is not None:
                # Nobody takes it when the application has refused the session: it does not count.
                if self.protocol is not None:
                    session.packet_received(size, now)
                    self._call(self.protocol.packetReceived, packet.id, packet.content)
            case _:
                raise RemoteProtocolError(Code.HELLO_FIRST, "Hello is the first packet, and once")

    # For introductions.

    def own_session(self) -> tuple[bytes, int]:
        """Return the session ID to propose, and what has been received of it."""
        if self.device_id in self._owner.ended_sessions:
            return self._owner.ended_sessions[self.device_id]
        if self.session is None:
            return self._owner.random_bytes(SESSION_ID_BYTES), 0
        return self.session.session_id, self.session.received

    def agree_on_session(self, proposed: bytes) -> tuple[bytes, int]:
        """Return the session ID that counts, and what has been received of it."""
        session = self.session
        ended = self._owner.ended_sessions.get(self.device_id)
        if ended is not None and ended[0] == proposed:
            return ended
        if session is None or session.session_id != proposed:
            return self._owner.random_bytes(SESSION_ID_BYTES), 0
        if self._active is not None:
            # What still came there would be counted twice: the dialler sends it again.
            self._drop(self._active, PeerUnreachableError("the other side has dialled anew"))
        return session.session_id, session.received

    def introduced(self, introduction: Introduction) -> None:
        """Let the session that the Hellos agreed on use the channel."""
        leg = self._legs[introduction.channel.number]
        self._is_pairing = False
        session = self.session
        ended = self._owner.ended_sessions.get(self.device_id)
        if ended is not None and ended[0] == introduction.session_id:
            leg.buries = True
            leg.channel.send(codec.encode(Heartbeat(ended[1], end=True)))
            return
        self._owner.ended_sessions.pop(self.device_id, None)
        if session is not None and not session.has_progressed and not self._ending:
            # Nothing has come across in it, so what waits may go on under the ID agreed on.
            if session.session_id != introduction.session_id:
                session.session_id = introduction.session_id
                self._write(lambda store: store.rename(self.device_id, introduction.session_id))
        elif session is not None and session.session_id != introduction.session_id:
            lost = SessionEndedError(f"{self.peer} has lost it", session.unacknowledged)
            problem = lost if session.unacknowledged or not self._ending else None
            self._end_session(problem, known_there=True)
            session = None
        # The application was called just now, and may have given up the peer.
        if leg.channel.number not in self._legs:
            return
        if session is not None:
            self._resume_session(leg, session, introduction.peer_received)
            return
        session = self._make_session(introduction.session_id)
        self._activate(leg)
        self._make_protocol(session)
        if self.session is session and self.protocol is not None:
            self._fulfil_connects(self.protocol)

    def estranged(self, introduction: Introduction, problem: NotTrustedError) -> None:
        """Be done with the other device: one of the two does not trust the other."""
        self._drop(self._legs[introduction.channel.number], problem)
        self._end_session(
            SessionEndedError(f"{self.peer} does not trust this device", self._unacknowledged())
        )
        self._fail_connects(problem)

    def unpaired(self, introduction: Introduction, problem: AbstError) -> None:
        """Close a channel that was for pairing alone."""
        self._is_pairing = False
        leg = self._legs.get(introduction.channel.number)
        if leg is not None:
            self._drop(leg, problem)
        self._fail_connects(problem)

    # The session.

    def _make_session(self, session_id: bytes) -> Session:
        session = self.session = Session(session_id)
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
        self._transport = _Transport(self)
        self._call(protocol.makeConnection, self._transport)

    def _resume_session(self, leg: Leg, session: Session, received: int) -> None:
        try:
            acknowledged = self._take_acknowledged(session, session.resume(received))
        except RemoteProtocolError as problem:
            self._end_session(self._broken(problem))
            raise
        self._activate(leg)
        protocol = self.protocol
        if protocol is not None:
            self._call(protocol.pathChanged, self.path)
            if not self._ending:
                self._fulfil_connects(protocol)
        for deferred in acknowledged:
            deferred.callback(None)

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

    def _activate(self, leg: Leg) -> None:
        older, self._active = self._active, leg
        leg.active = True
        self._tried.clear()
        self._redial_at = self._expires_at = math.inf
        if older is not None:
            self._drop(older, PeerUnreachableError("a newer channel took over"))

    def _take_heartbeat(self, session: Session, heartbeat: Heartbeat) -> None:
        count = session.acknowledge(heartbeat.received)
        for deferred in self._take_acknowledged(session, count):
            deferred.callback(None)
        if heartbeat.pong in self._pending.pings:
            begun, answered = self._pending.pings.pop(heartbeat.pong)
            answered.callback(self._now() - begun)
        if self.session is not session:
            return
        if heartbeat.ping is not None:
            self._send_heartbeat(pong=heartbeat.ping)
        if heartbeat.end:
            self._end_session(None, known_there=True)

    def _take_acknowledged(self, session: Session, count: int) -> list[Deferred[None]]:
        """Return who is to be told; telling comes last, since anything may follow from it."""
        if count:
            total = session.acknowledged
            self._write(lambda store: store.acknowledged(self.device_id, total))
        return [self._pending.sent.popleft() for _ in range(count)]

    # Losing.

    def _lose(self, leg: Leg, problem: AbstError) -> None:
        """Drop a leg that failed; see whether there is another way."""
        if isinstance(problem, WrongKeyError):
            self.log.warn("{problem}", problem=str(problem))
        self._drop(leg, problem)
        if leg.active and isinstance(problem, RemoteProtocolError):
            # Sent again over another channel it would be as wrong.
            self._end_session(self._broken(problem))
        elif leg.channel.dialled and not leg.active:
            self._try_next_link(leg.link, problem)

    def _broken(self, problem: RemoteProtocolError) -> SessionEndedError:
        return SessionEndedError(
            f"{self.peer} breaks the protocol: {problem}", self._unacknowledged()
        )

    def _drop(self, leg: Leg, problem: AbstError) -> None:
        """Forget a leg; tell the other end, unless it was the one to say so."""
        if self._legs.pop(leg.channel.number, None) is None:
            return
        leg.channel.close(problem)
        self._flush_leg(leg)
        self._reset(leg.link, leg.channel.number)
        leg.introduction.channel_lost()
        if leg is not self._active:
            return
        self._active = None
        now = self._now()
        if now >= leg.channel.opened_at + STEADY_SECONDS:
            self._failures = 0
        if self.session is not None:
            self._expires_at = now + self._owner.session_seconds
        pings, self._pending.pings = self._pending.pings, {}
        for _, answered in pings.values():
            answered.errback(problem)
        if self.protocol is not None:
            self._call(self.protocol.pathChanged, None)

    def _reset(self, link: Link, number: bytes) -> None:
        if link.is_up:
            link.send(self.device_id, number)

    def _end_session(self, problem: SessionEndedError | None, *, known_there: bool = False) -> None:
        """End the session: by agreement when there is no problem."""
        if self.session is None:
            return
        if self.session.received and not known_there:
            ended = (self.session.session_id, self.session.received)
            self._owner.ended_sessions[self.device_id] = ended
        lost = problem or SessionEndedError("the other side ended it", self._unacknowledged())
        self._write(lambda store: store.end(self.device_id))
        self.session = self._transport = None
        protocol, self.protocol = self.protocol, None
        sent, self._pending.sent = self._pending.sent, deque()
        self._expires_at = self._redial_at = math.inf
        self._ending = False
        if self._active is not None:
            self._drop(self._active, lost)
        if problem is None:
            self._failures = 0
        for acknowledged in sent:
            acknowledged.errback(lost)
        if protocol is not None:
            reason = Failure(ConnectionDone() if problem is None else problem)
            self._call(protocol.connectionLost, reason)

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

    # Sending.

    def _send_heartbeat(
        self, *, ping: int | None = None, pong: int | None = None, end: bool | None = None
    ) -> None:
        leg, session = self._active, self.session
        if leg is None or session is None:
            return
        leg.channel.send(codec.encode(Heartbeat(session.received, ping, pong, end)))
        session.reported()

    def _flush_soon(self) -> None:
        if self._flush_call is None and not self._stopped:
            self._flush_call = self._owner.reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        self._settle()

    def _flush_leg(self, leg: Leg) -> None:
        for content in leg.channel.contents_to_send():
            leg.sent_at = self._now()
            leg.link.send(self.device_id, content)

    def _settle(self) -> None:
        """Send what is due, see that a way is being looked for, forget what is over, re-arm."""
        if self._stopped:
            return
        self._commit()
        if self._active is not None and self.session is not None:
            self._send_session(self._active, self.session, self._now())
        for leg in list(self._legs.values()):
            self._flush_leg(leg)
        if not self._legs:
            if self._wants_path():
                if self._redial_at == math.inf and self._owner.links_up():
                    self._redial_later()
            elif self._flush_call is None:
                self._disarm()
                self._owner.connection_idle(self)
                return
        self._arm()

    def _send_session(self, leg: Leg, session: Session, now: float) -> None:
        for packet in session.packets_to_send():
            leg.channel.send(packet)
        due = session.next_deadline()
        if self._ending and not session.unacknowledged:
            self._send_heartbeat(end=True)
            self._flush_leg(leg)
            self._end_session(None)
        elif (due is not None and due <= now) or now >= leg.sent_at + HEARTBEAT_SECONDS:
            self._send_heartbeat()

    # Time.

    def _now(self) -> float:
        return float(self._owner.reactor.seconds())

    def _next_deadline(self) -> float:
        due = min(self._redial_at, self._give_up_at, self._expires_at)
        for leg in self._legs.values():
            if leg.active:
                due = min(due, leg.channel.heard_at + DEAD_SECONDS)
            else:
                due = min(due, leg.introduction_ends_at)
        if self._active is not None and self.session is not None:
            due = min(due, self._active.sent_at + HEARTBEAT_SECONDS)
            acknowledge_at = self.session.next_deadline()
            if acknowledge_at is not None:
                due = min(due, acknowledge_at)
        return due

    def _ring(self) -> None:
        self._timer = None
        now = self._now()
        if now >= self._expires_at:
            self._end_session(
                SessionEndedError(
                    f"no way to {self.peer} for {self._owner.session_seconds:g} seconds",
                    self._unacknowledged(),
                )
            )
        for leg in list(self._legs.values()):
            self._look(leg, now)
        if now >= self._give_up_at:
            self._fail_connects(
                PeerUnreachableError(f"{self.peer} does not answer: {self._why_unreachable()}")
            )
        if now >= self._redial_at:
            self._redial_at = math.inf
            if not self._legs and self._wants_path():
                self._tried.clear()
                self._dial()
        self._settle()

    def _look(self, leg: Leg, now: float) -> None:
        if leg.active and now >= leg.channel.heard_at + DEAD_SECONDS:
            self._lose(leg, PeerUnreachableError(f"{self.peer} has been silent for too long"))
        elif not leg.active and now >= leg.introduction_ends_at:
            self._lose(leg, PeerUnreachableError(f"{self.peer} did not finish its handshake"))

    def _why_unreachable(self) -> str:
        if self._owner.links_up():
            return "it is not connected to a realm that this device uses"
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


class _Transport:
    """What one protocol writes to: the connection, for as long as its session lives."""

    def __init__(self, connection: PeerConnection) -> None:
        self._connection = connection

    @property
    def peer(self) -> Peer:
        return self._connection.peer

    @property
    def path(self) -> Path | None:
        return self._connection.path if self._is_alive() else None

    def send_packet(self, packet_id: int, content: Any) -> Deferred[None]:
        if not self._is_alive():
            raise LocalProtocolError("the session has ended")
        return self._connection.send_packet(packet_id, content)

    def waiting(self) -> list[tuple[int, int, Any, bool]]:
        return self._connection.waiting() if self._is_alive() else []

    def replace_packet(self, number: int, packet_id: int, content: Any) -> bool:
        return self._is_alive() and self._connection.replace_packet(number, packet_id, content)

    def ping(self) -> Deferred[float]:
        if not self._is_alive():
            return fail(PeerUnreachableError(f"{self.peer}: the session has ended"))
        return self._connection.ping()

    def end(self) -> None:
        if self._is_alive():
            self._connection.end()

    def _is_alive(self) -> bool:
        return self._connection.is_written_by(self)
