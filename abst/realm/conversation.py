"""One device's conversation with the realm (spec: realm.md).

Pure: bytes and ``now`` in, bytes out, and a list of the conversations that have something to
write. Owns what is legal when, and who is told what becomes of a packet. How a stream is cut into
packets stands in ``stream``, what is answered to requests in ``requests``, ``groups`` and
``values``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from abst import codec, packets
from abst.device_id import is_device_id
from abst.errors import MEANINGS, Code, RemoteProtocolError
from abst.packets import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    VALUE_PACKET_IDS,
    ConnectToDevice,
    CreateGroup,
    DeleteValue,
    Error,
    FindWindow,
    GetValue,
    GroupMessage,
    Hello,
    HereInGroup,
    JoinGroup,
    LeaveGroup,
    Leg,
    ListValues,
    OpenWindow,
    PutValue,
    Send,
    WatchValues,
)
from abst.realm import requests
from abst.realm.circuits import Seat
from abst.realm.client import ValueRequest
from abst.realm.drops import Drops
from abst.realm.groups import Membership
from abst.realm.news import News
from abst.realm.outbox import Outbox
from abst.realm.refusal import Refusal
from abst.realm.stream import PacketStream, State
from abst.realm.switchboard import Sender

if TYPE_CHECKING:
    from abst.realm.realm import Realm

__all__ = ["Conversation", "State"]

JOINED_WRITE_BYTES: Final = 16384
"""How much is joined into one write: a TLS record's most."""

CONFLICT_WINDOW_SECONDS: Final = 60.0
CONFLICT_REPLACEMENTS: Final = 4
"""A device replaced this often within the window runs on several machines."""
CONFLICT_RETRY_SECONDS: Final = 60.0
REPLACED_RETRY_SECONDS: Final = 10.0
FULL_RETRY_SECONDS: Final = 30.0
TOO_MANY_RETRY_SECONDS: Final = 30.0
ACCESS_RETRY_SECONDS: Final = 60.0
CONTROL_BYTES_BEFORE_NEWS: Final = 8192
"""How much may wait of the realm's own packets when one more is made of news about groups: so even
the longest list of members fits behind it."""
OWN_ROOM_BYTES: Final = 131072
"""How much of the realm's own may wait among the packets of other devices where these have used up
what may wait: else whoever fills queues would have those cut off that watch values."""


def _no_measure() -> int:
    return 0


def _no_note(error: Error) -> None:
    pass


class Conversation:
    """One connection's side of the realm.

    Attributes:
        state: where it stands.
        device_id: what the certificate proved; None before ``identify``.
        limits: those that were in force when the connection was made; what the device has been told
            of them stays in force until it ends.
        nonce: what the device's proofs on this connection are made over; empty before Hello.
        memberships: the peer groups that the device has joined on this connection.
        carrier: whatever the adapter wants to find again; never used here.
        measure_progress: returns a number that grows while the device reads, though too slowly
            for the connection to take more; set by an adapter that can tell.
        note_error: called with each Error that the device is told and that does not close; set by
            an adapter that writes them down.
        heard_at: when bytes last came.
        here_since: when its Hello was accepted; 0.0 before.
        sent_packets: how many packets of this device were taken for others.
        sent_bytes: how many bytes these had.
        observed_address: the other end's host and port as the realm sees them, or None.
        closed_for: the code with which the realm closed the conversation, or None.
        seat: what the connection is for since it has turned into a circuit's leg, or None.
        early: what came on it behind the packet that said so.
        stalled: the connection is to be cut off at once, since the device does not read.
    """

    __slots__ = (
        "_admitted_by",
        "_blocked_since",
        "_drops",
        "_news",
        "_outbox",
        "_progress",
        "_realm",
        "_replacements",
        "_stall_watched",
        "_stream",
        "carrier",
        "closed_for",
        "device_id",
        "early",
        "heard_at",
        "here_since",
        "limits",
        "measure_progress",
        "memberships",
        "nonce",
        "note_error",
        "observed_address",
        "seat",
        "sent_bytes",
        "sent_packets",
        "stalled",
        "state",
    )

    def __init__(self, realm: Realm, observed_address: tuple[str, int] | None, now: float) -> None:
        self._realm = realm
        self.limits = realm.limits
        # Runs without a sender are the realm's own; nobody is told when they are dropped.
        self._outbox: Outbox[Sender | None] = Outbox()
        self._stream = PacketStream(self)
        self._drops = Drops()
        self._news = News(self._members_packet)
        # The version of the list of devices by which this one may be here.
        self._admitted_by = realm.access.version
        self._blocked_since: float | None = None
        self._stall_watched = False
        self._progress = 0
        self._replacements: list[float] = []
        self.observed_address = observed_address
        self.device_id: bytes | None = None
        self.nonce = b""
        self.memberships: dict[bytes, Membership] = {}
        self.state = State.AWAITING_HELLO
        self.heard_at = now
        self.here_since = 0.0
        self.sent_packets = 0
        self.sent_bytes = 0
        self.stalled = False
        self.closed_for: Code | None = None
        self.seat: Seat | None = None
        self.early = b""
        self.carrier: object = None
        self.measure_progress: Callable[[], int] = _no_measure
        self.note_error: Callable[[Error], None] = _no_note

    # What comes in.

    def identify(self, device_id: bytes) -> None:
        """Take the device ID that the connection's certificate has proved."""
        self.device_id = device_id
        self._stream.identify(device_id)
        if not self._realm.identified(self, device_id):
            self.close(Code.TOO_MANY_CONNECTIONS, retry_after=TOO_MANY_RETRY_SECONDS)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes as they came from the device."""
        self.heard_at = now
        if self._admitted_by != self._realm.access.version and not self._is_still_admitted():
            return
        if self.state is State.CLOSED:
            return
        try:
            self._stream.receive(data, now)
        except RemoteProtocolError as error:
            self.close(error.code, error.reason)

    def connection_lost(self) -> None:
        """Forget the connection; tell the senders of what was still waiting."""
        self._realm.conversations.discard(self)
        self._leave()
        self._outbox.clear_control()
        # A deadline may keep this object for a while; it shall not keep the connection too.
        self.measure_progress = _no_measure

    # What goes out.

    def data_to_send(self) -> bytes:
        """Return the next bytes for the device, joined up to a TLS record; b"" when none wait."""
        if self._drops.counts:
            self._write_drops()
        if self._news.groups:
            self._write_news()
        before = self._outbox.data_bytes
        data = self._outbox.take(JOINED_WRITE_BYTES)
        self._realm.queued_bytes -= before - self._outbox.data_bytes
        return data

    @property
    def is_blocked(self) -> bool:
        """Whether the connection takes no bytes for now."""
        return self._blocked_since is not None

    def blocked(self, now: float) -> None:
        """Note that the connection takes no more bytes for now."""
        self._blocked_since = now
        self._progress = self.measure_progress()
        if not self._stall_watched:
            self._stall_watched = True
            due = now + self.limits.stall_seconds
            self._realm.deadlines.add(due, self.look_for_stall)

    def unblocked(self) -> None:
        """Note that the connection takes bytes again."""
        self._blocked_since = None

    def close(self, code: Code, reason: str = "", *, retry_after: float | None = None) -> None:
        """Say why, and be done: nothing more is read, accepted or delivered after that word."""
        if self.state is State.CLOSED:
            return
        self._write_drops()
        self._leave()
        self._realm.counters.refused_connections[code] += 1
        self.closed_for = code
        last_word = Error(str(code), reason or MEANINGS[code].sentence, retry_after=retry_after)
        self._outbox.add_last_word(codec.encode(last_word))
        self._realm.touched.append(self)

    def turn_away(self, code: Code) -> None:
        """Close, since the device may not be here, or not any more."""
        if code is Code.NOT_KEPT:
            # What had let it in is not on the disk, and so not in force.
            self._queue(Error(str(code), MEANINGS[code].sentence, about=Hello.packet_id))
            code = Code.NOT_INVITED
        wait = FULL_RETRY_SECONDS if code is Code.REALM_FULL else ACCESS_RETRY_SECONDS
        self.close(code, retry_after=wait)

    def look_for_hello(self, now: float) -> None:
        """Close a connection that has said no Hello."""
        if self.state is State.AWAITING_HELLO:
            self.close(Code.HELLO_LATE)

    def look_for_silence(self, now: float) -> None:
        """Close a connection that has said nothing for too long."""
        if self.state is State.HERE:
            due = self.heard_at + self.limits.silence_seconds
            if now >= due:
                self.close(Code.SILENT)
            else:
                self._realm.deadlines.add(due, self.look_for_silence)

    def look_for_stall(self, now: float) -> None:
        """Cut a connection off whose device has read nothing for too long."""
        if self._blocked_since is None or self not in self._realm.conversations:
            self._stall_watched = False
            return
        progress = self.measure_progress()
        if progress > self._progress:
            self._progress = progress
            self._blocked_since = now
        due = self._blocked_since + self.limits.stall_seconds
        if now < due:
            self._realm.deadlines.add(due, self.look_for_stall)
            return
        self.close(Code.STALLED)
        self.stalled = True
        self._realm.touched.append(self)

    def _leave(self) -> None:
        """Be found by nobody any more; tell the senders of what is not going to be delivered."""
        realm = self._realm
        if self.state is State.HERE and not self._is_own:
            realm.here -= 1
        self.state = State.CLOSED
        if self.device_id is not None:
            realm.parted(self, self.device_id)
            if realm.switchboard.leave(self.device_id, self):
                realm.windows.close(self.device_id)
        self._news.clear()
        realm.groups.leave_all(self)
        realm.queued_bytes -= self._outbox.data_bytes
        for count, source in self._outbox.drop_runs():
            if source is not None:
                self._count_drop(Code.UNDELIVERED, count)
                source.report_drop(Code.UNDELIVERED, self.device_id or b"", count)
        self._drops.counts.clear()
        self._stream.clear()

    # For other conversations.

    def deliver(self, run: bytes, count: int, source: Sender) -> Code | None:
        """Queue a run of packets for this device, or return why it does not fit."""
        realm = self._realm
        outbox = self._outbox
        if not outbox.data_bytes:
            realm.touched.append(self)  # When something waits already, somebody has.
        most = realm.limits.all_queues_bytes - realm.queued_bytes + outbox.data_bytes
        if not outbox.add_run(run, count, source, min(self.limits.queue_bytes, most), most):
            return Code.QUEUE_FULL
        size = len(run)
        realm.queued_bytes += size
        realm.counters.relayed_packets += count
        realm.counters.relayed_bytes += size
        return None

    def _own_room_bytes(self) -> int:
        """Return how much may wait with what the realm says itself of values.

        What waits already is included. Others leave always something of it.
        """
        realm = self._realm
        left_of_all = realm.limits.all_queues_bytes - realm.queued_bytes
        most = self.limits.queue_bytes + OWN_ROOM_BYTES
        return min(most, max(OWN_ROOM_BYTES, left_of_all + self._outbox.data_bytes))

    @property
    def is_here(self) -> bool:
        """Whether the device may ask for anything on this connection."""
        return self.state is State.HERE

    @property
    def _is_own(self) -> bool:
        return self.device_id in self._realm.access.own_devices

    def report_drop(self, code: Code, target_device: bytes, count: int) -> None:
        """Note that packets of this device were dropped; it is told with its next bytes."""
        self._report(code, Send.packet_id, None, target_device or None, count)

    def report_message_drop(
        self, code: Code, group: bytes, target_device: bytes | None, count: int
    ) -> None:
        """Note that messages of this device to a peer group have not reached a member, or any."""
        self._report(code, GroupMessage.packet_id, group, target_device, count)

    def _report(
        self, code: Code, about: int, group: bytes | None, target: bytes | None, count: int
    ) -> None:
        if self.state is State.HERE:
            self._drops.add(code, about, group, target, count)
            self._realm.touched.append(self)

    def replaced(self, now: float) -> list[float]:
        """Give way to a newer connection; return when this device was replaced lately."""
        recent = [at for at in self._replacements if now - at < CONFLICT_WINDOW_SECONDS]
        recent.append(now)
        wait = REPLACED_RETRY_SECONDS
        if len(recent) >= CONFLICT_REPLACEMENTS:
            self._tell_of_conflict()
            wait = CONFLICT_RETRY_SECONDS
        self.close(Code.REPLACED, retry_after=wait)
        return recent

    # For groups, and for their values.

    def is_joined(self, group: bytes) -> bool:
        """Tell whether the device has joined a peer group."""
        return group in self.memberships

    def maker_of(self, group: bytes) -> bytes | None:
        """Return the device that has made a peer group which this one has joined."""
        membership = self.memberships.get(group)
        return None if membership is None else membership.group.record.maker

    def deliver_own(self, packet: bytes) -> bool:
        """Queue an encoded packet of the realm's own, in order behind what waits of other devices.

        Returns:
            False when it does not fit the device's queue. True also when the connection is gone:
            then there is nobody who could miss it.
        """
        if self.state is not State.HERE:
            return True
        if not self._outbox.data_bytes:
            self._realm.touched.append(self)
        room = self._own_room_bytes()
        if not self._outbox.add_run(packet, 1, None, room, room):
            return False
        self._realm.queued_bytes += len(packet)
        return True

    def news(self) -> News:
        """Return what the device is going to be told of its groups; something is to be added."""
        if not self._news.groups:
            self._realm.touched.append(self)
        return self._news

    def owe_answer(self, group: bytes, request: int | None) -> None:
        """Answer a Join with the members that are here, when the device can be written to."""
        if not self.news().answer(group, request):
            self._close_for_answers()

    def parted(self, group: bytes) -> None:
        """Take note that the device has not joined a group any more."""
        owed = self._news.leave(group)
        self.memberships.pop(group, None)
        if self._realm.values is not None:
            self._realm.values.leave(self, group)
        for answer in owed:
            self.tell(answer)

    def _members_packet(self, group: bytes, request: int | None) -> packets.Packet:
        values = self._realm.values
        limits = {} if values is None else values.limits_told()
        return self._realm.groups.members_packet(group, request, limits)

    # What packets do.

    def handle_requests(self, asked: Sequence[ValueRequest], size: int, now: float) -> None:
        """Take requests about values that have come together, in so many bytes."""
        values = self._realm.values
        if values is None:
            for wanted in asked:
                self._refuse_unknown(wanted.packet_id, wanted.request)
        elif self._may_ask(asked, size):
            values.handle_all(self, asked, now)

    def handle(  # noqa: C901
        self, packet: dict[object, object], raw: bytes, now: float
    ) -> None:
        """Take a packet that is neither such a request nor to be forwarded without a look."""
        packet_id = packets.id_of(packet)  # type: ignore[arg-type]
        if self.state is State.AWAITING_HELLO and packet_id != Hello.packet_id:
            if packet_id != Leg.packet_id:
                raise RemoteProtocolError(Code.HELLO_FIRST, MEANINGS[Code.HELLO_FIRST].sentence)
            self._become_leg(packet, raw, now)
            return
        if not self._is_known(packet_id):
            self._refuse_unknown(packet_id, packet.get("request"))
            return
        realm = self._realm
        parsed = packets.parse(packet, packets.DEVICE_TO_REALM)  # type: ignore[arg-type]
        if isinstance(parsed, requests.METERED) and not self._may_ask((parsed,), len(raw)):
            return
        match parsed:
            case Hello() as hello:
                self._hello(hello, now)
            case Send() as send:
                self._check_source(send.source_device)
                self.forward(raw, 1, send.target_device)
            case GroupMessage() as message:
                self._check_source(message.source_device)
                self.publish(raw, 1, message.peer_group)
            case PutValue() | GetValue() | DeleteValue() | ListValues() | WatchValues() as wanted:
                assert realm.values is not None
                realm.values.handle(self, wanted, now)
            case CreateGroup() | JoinGroup() | HereInGroup() | LeaveGroup() as wanted:
                realm.groups.handle(self, wanted, now)
            case OpenWindow() | FindWindow() as wanted:
                requests.answer(realm, self, wanted, now)
            case ConnectToDevice() as wanted:
                self._check_source(wanted.source_device)
                requests.answer(realm, self, wanted, now)
            case Error(code=Code.CIRCUIT_REFUSED, circuit=bytes(circuit)):
                assert self.device_id is not None
                realm.circuits.refuse(circuit, self.device_id)

    def _is_known(self, packet_id: int) -> bool:
        if packet_id in VALUE_PACKET_IDS:
            return self._realm.values is not None
        return packet_id in packets.DEVICE_TO_REALM

    def _may_ask(self, asked: Sequence[requests.Metered], size: int) -> bool:
        """Count requests as sent, and return True; or refuse them, since a month's bytes are."""
        realm = self._realm
        if not realm.is_metered or self._spend(size):
            return True
        refusal = Refusal(Code.VOLUME_SPENT, realm.meter.seconds_left())
        for wanted in asked:
            self.refuse(refusal, wanted)
        return False

    def _spend(self, size: int) -> bool:
        assert self.device_id is not None
        return self._realm.meter.spend(self.device_id, size)

    def _check_source(self, source_device: bytes) -> None:
        if source_device != self.device_id:
            raise RemoteProtocolError(Code.WRONG_SOURCE, MEANINGS[Code.WRONG_SOURCE].sentence)

    def _hello(self, hello: Hello, now: float) -> None:
        if hello.device_id != self.device_id:
            raise RemoteProtocolError(Code.WRONG_DEVICE, MEANINGS[Code.WRONG_DEVICE].sentence)
        if hello.version < PROTOCOL_VERSION:
            raise RemoteProtocolError(
                Code.WRONG_VERSION, f"this realm speaks version {PROTOCOL_VERSION}"
            )
        realm = self._realm
        if self.state is State.AWAITING_HELLO:
            # A device that comes back takes the place of its own older connection.
            is_new = realm.switchboard.route(hello.device_id) is None
            if is_new and len(realm.conversations) > realm.limits.connections:
                self.close(Code.REALM_FULL, retry_after=FULL_RETRY_SECONDS)
                return
        if not self._is_admitted(hello):
            return
        if self.state is State.AWAITING_HELLO:
            self.state = State.HERE
            self.here_since = now
            self.nonce = realm.random_bytes(NONCE_BYTES)
            if not self._is_own:
                realm.here += 1
                realm.counters.connections += 1
            realm.deadlines.add(now + self.limits.silence_seconds, self.look_for_silence)
        self.tell(requests.back_heartbeat(realm, self, hello.request))
        self._arrive(now)

    def _is_still_admitted(self) -> bool:
        """Ask again, since somebody may not be here any more; when this device may not, close.

        Whoever is shut out is closed at once. This holds whatever else may fail.
        """
        access = self._realm.access
        if self.state is State.HERE:
            assert self.device_id is not None
            refusal = access.refusal_of(self.device_id)
            if refusal is not None:
                self.turn_away(refusal)
                return False
        self._admitted_by = access.version
        return True

    def _is_admitted(self, hello: Hello) -> bool:
        """Ask whether the device may be here; when it may not, or that cannot be told, close."""
        try:
            refusal = self._realm.access.admit(hello.device_id, hello.invitation)
        except Exception:
            self.turn_away(Code.NOT_INVITED)
            raise
        if refusal is not None:
            self.turn_away(refusal)
        return refusal is None

    def _become_leg(self, packet: dict[object, object], raw: bytes, now: float) -> None:
        """Be a circuit's leg from now on, and no conversation any more."""
        if len(raw) > packets.MAX_LEG_BYTES:
            raise RemoteProtocolError(
                Code.TOO_LARGE, f"a leg begins with at most {packets.MAX_LEG_BYTES} bytes"
            )
        leg = packets.parse(packet, packets.LEG_TO_REALM)  # type: ignore[arg-type]
        assert isinstance(leg, Leg)
        self.seat = self._realm.circuits.claim(leg.token, self.device_id, now)
        if self.seat is None:
            self.close(Code.WRONG_TOKEN)
            return
        self._leave()
        self._realm.touched.append(self)

    def _arrive(self, now: float) -> None:
        assert self.device_id is not None
        older = self._realm.switchboard.arrive(self.device_id, self)
        if older is None or older is self:
            return
        self._replacements = older.replaced(now)
        if len(self._replacements) >= CONFLICT_REPLACEMENTS:
            self._realm.counters.identity_conflicts += 1
            self._tell_of_conflict()

    def forward(self, run: bytes, count: int, target: bytes) -> None:
        """Forward a run of packets to a device; or count them as dropped."""
        realm = self._realm
        refusal: Code | None
        destination = realm.switchboard.route(target)
        if destination is None and not is_device_id(target):
            raise RemoteProtocolError(Code.MALFORMED, "target_device: needs a device ID")
        if realm.is_metered and not self._spend(len(run)):
            refusal = Code.VOLUME_SPENT
        elif destination is None:
            refusal = Code.TARGET_ABSENT
        else:
            refusal = destination.deliver(run, count, self)
        if refusal is not None:
            self._count_drop(refusal, count)
            self.report_drop(refusal, target, count)
            return
        self.sent_packets += count
        self.sent_bytes += len(run)

    def publish(self, run: bytes, count: int, group: bytes) -> None:
        """Forward a run of messages to the other members of a peer group."""
        realm = self._realm
        membership = self.memberships.get(group)
        if membership is None and not is_device_id(group):
            raise RemoteProtocolError(Code.MALFORMED, "peer_group: needs a group's ID")
        if realm.is_metered and not self._spend(len(run)):
            refusal = Code.VOLUME_SPENT
        elif membership is None:
            refusal = Code.NOT_JOINED
        else:
            realm.groups.relay(membership, run, count)
            self.sent_packets += count
            self.sent_bytes += len(run)
            return
        self._count_drop(refusal, count)
        self.report_message_drop(refusal, group, None, count)

    def _count_drop(self, code: Code, count: int) -> None:
        self._realm.counters.dropped_packets[code] += count

    # What the realm says.

    def tell(self, packet: packets.Packet) -> None:
        """Queue one of the realm's own packets for this device."""
        self._queue(packet)
        self._realm.touched.append(self)

    def refuse(self, refusal: Refusal, refused: requests.Metered) -> None:
        """Say that the device does not get what it has asked for."""
        self._realm.counters.refused_packets[refusal.code] += 1
        self.tell(requests.refused(refusal, refused))

    def _queue(self, packet: packets.Packet) -> None:
        if isinstance(packet, Error) and self.state is not State.CLOSED:
            self.note_error(packet)
        self._queue_bytes(codec.encode(packet))

    def _queue_bytes(self, packet: bytes) -> None:
        if self.state is not State.CLOSED and not self._outbox.add_control(packet):
            self._close_for_answers()

    def _close_for_answers(self) -> None:
        self.close(Code.STALLED, "it asks for more answers than it reads")

    def _tell_of_conflict(self) -> None:
        code = Code.IDENTITY_CONFLICT
        self.tell(Error(str(code), MEANINGS[code].sentence, retry_after=CONFLICT_RETRY_SECONDS))

    def _refuse_unknown(self, packet_id: int, request: object) -> None:
        code = Code.UNKNOWN_PACKET
        repeated = request if type(request) is int and 0 <= request <= packets.MAX_COUNT else None
        self.tell(Error(str(code), MEANINGS[code].sentence, about=packet_id, request=repeated))

    def _write_drops(self) -> None:
        left = self._realm.meter.seconds_left() if self._realm.is_metered else None
        for error in self._drops.take({Code.VOLUME_SPENT: left}):
            self._queue(error)

    def _write_news(self) -> None:
        encode = self._realm.news_encoder.encode
        while self._outbox.control_bytes <= CONTROL_BYTES_BEFORE_NEWS:
            packet = self._news.next_packet()
            if packet is None:
                return
            self._queue_bytes(encode(packet))
