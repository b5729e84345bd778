"""One device's conversation with the realm (spec: realm.md).

Pure: bytes and ``now`` in, bytes out, and a list of the conversations that have something to
write. Owns what is legal when, the check of every header, and the hot path: packets for another
device are found, checked and queued without being decoded, in runs as long as they come.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from abst import codec, packets
from abst.device_id import is_device_id
from abst.errors import MEANINGS, Code, RemoteProtocolError
from abst.framing import Frame
from abst.packets import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    BackHeartbeat,
    ConnectToDevice,
    Error,
    FindWindow,
    Hello,
    Leg,
    OpenWindow,
    Send,
    WindowFound,
    WindowOpened,
)
from abst.realm.circuits import Circuits, Seat
from abst.realm.counters import Counters
from abst.realm.deadlines import Deadlines
from abst.realm.limits import Limits
from abst.realm.outbox import Outbox
from abst.realm.pairing_windows import PairingWindows
from abst.realm.refusal import Refusal
from abst.realm.switchboard import MemorySwitchboard, Sender, Switchboard

JOINED_WRITE_BYTES: Final = 16384
"""How much is joined into one write: a TLS record's most."""

CONFLICT_WINDOW_SECONDS: Final = 60.0
CONFLICT_REPLACEMENTS: Final = 4
"""A device replaced this often within the window runs on several machines."""
CONFLICT_RETRY_SECONDS: Final = 60.0
REPLACED_RETRY_SECONDS: Final = 10.0
FULL_RETRY_SECONDS: Final = 30.0
MAX_REPORTED_TARGETS: Final = 64
RESTART_SPREAD_CONNECTIONS_PER_SECOND: Final = 100.0

# The canonical head of a Send packet: a map of four, packet_id 2, then the three keys in order.
_HEAD: Final = b"\x84\xa9packet_id\x02\xadsource_device\xc4\x10"
_TARGET_KEY: Final = b"\xadtarget_device\xc4\x10"
_CONTENT_KEY: Final = b"\xa7content"
_TARGET_AT: Final = len(_HEAD) + 16 + len(_TARGET_KEY)
_CONTENT_KEY_AT: Final = _TARGET_AT + 16
_LENGTH_AT: Final = _CONTENT_KEY_AT + len(_CONTENT_KEY)
_BIN8, _BIN16, _BIN32 = 0xC4, 0xC5, 0xC6


class State(enum.Enum):
    """Where a conversation stands."""

    AWAITING_HELLO = "awaiting Hello"
    HERE = "here"
    CLOSED = "closed"


@dataclass
class Realm:
    """What all conversations of one realm share.

    Attributes:
        random_bytes: returns that many unpredictable bytes.
        random_fraction: returns a number in [0, 1).
        touched: conversations that have something to write, or are to be closed; the adapter
            empties the list after every call.
        here: how many devices are here: their Hello was accepted, and they have not left.
        queued_bytes: how much waits for all devices together.
    """

    limits: Limits
    random_bytes: Callable[[int], bytes]
    random_fraction: Callable[[], float]
    switchboard: Switchboard = field(default_factory=MemorySwitchboard)
    counters: Counters = field(default_factory=Counters)
    deadlines: Deadlines = field(default_factory=Deadlines)
    conversations: set[Conversation] = field(default_factory=set)
    touched: list[Conversation] = field(default_factory=list)
    here: int = 0
    queued_bytes: int = 0
    windows: PairingWindows = field(init=False)
    circuits: Circuits = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no pairing window open, and no circuit."""
        self.windows = PairingWindows(self.limits, self.random_fraction)
        self.circuits = Circuits(
            self.limits, self.random_bytes, self.switchboard, self.counters, self.deadlines
        )

    def open(self, observed_address: tuple[str, int] | None, now: float) -> Conversation:
        """Return the conversation of a connection that has just been made."""
        conversation = Conversation(self, observed_address, now)
        self.conversations.add(conversation)
        self.deadlines.add(now + self.limits.hello_seconds, conversation.look_for_hello)
        return conversation

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called, or None."""
        return self.deadlines.next()

    def handle_deadline(self, now: float) -> None:
        """Close what was silent or did not read for too long."""
        self.deadlines.run_due(now)

    def announce_restart(self) -> None:
        """Tell every device that the realm stops, and when to come back, spread at random."""
        spread = len(self.conversations) / RESTART_SPREAD_CONNECTIONS_PER_SECOND
        for conversation in tuple(self.conversations):
            wait = round(0.5 + self.random_fraction() * spread, 2)
            conversation.close(Code.RESTARTING, retry_after=wait)
        self.circuits.stop()


def _no_measure() -> int:
    return 0


class Conversation:
    """One connection's side of the realm.

    Attributes:
        state: where it stands.
        device_id: what the certificate proved; None before ``identify``.
        carrier: whatever the adapter wants to find again; never used here.
        measure_progress: returns a number that grows while the device reads, though too slowly
            for the connection to take more; set by an adapter that can tell.
        heard_at: when bytes last came.
        observed_address: the other end's host and port as the realm sees them, or None.
        closed_for: the code with which the realm closed the conversation, or None.
        seat: what the connection is for since it has turned into a circuit's leg, or None.
        early: what came on it behind the packet that said so.
        stalled: the connection is to be cut off at once, since the device does not read.
    """

    __slots__ = (
        "_blocked_since",
        "_drops",
        "_frame",
        "_head",
        "_missing_bytes",
        "_outbox",
        "_partial",
        "_progress",
        "_realm",
        "_replacements",
        "_stall_watched",
        "carrier",
        "closed_for",
        "device_id",
        "early",
        "heard_at",
        "measure_progress",
        "observed_address",
        "seat",
        "stalled",
        "state",
    )

    def __init__(self, realm: Realm, observed_address: tuple[str, int] | None, now: float) -> None:
        self._realm = realm
        self._outbox: Outbox[Sender] = Outbox()
        # The beginning of a packet that has not come whole, and what is known of its end: how many
        # bytes are missing, or, when it is not in the canonical form, its frame.
        self._partial = bytearray()
        self._missing_bytes = 0
        self._frame: Frame | None = None
        self._head = b""
        self._drops: dict[tuple[Code, bytes | None], int] = {}
        self._blocked_since: float | None = None
        self._stall_watched = False
        self._progress = 0
        self._replacements: list[float] = []
        self.observed_address = observed_address
        self.device_id: bytes | None = None
        self.state = State.AWAITING_HELLO
        self.heard_at = now
        self.stalled = False
        self.closed_for: Code | None = None
        self.seat: Seat | None = None
        self.early = b""
        self.carrier: object = None
        self.measure_progress: Callable[[], int] = _no_measure

    # What comes in.

    def identify(self, device_id: bytes) -> None:
        """Take the device ID that the connection's certificate has proved."""
        self.device_id = device_id
        self._head = _HEAD + device_id + _TARGET_KEY

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes as they came from the device."""
        self.heard_at = now
        if self.state is State.CLOSED:
            return
        try:
            self._cut(data, now)
        except RemoteProtocolError as error:
            self.close(error.code, error.reason)

    def connection_lost(self) -> None:
        """Forget the connection; tell the senders of what was still waiting."""
        self._realm.conversations.discard(self)
        self._leave()
        self._outbox.clear_control()

    # What goes out.

    def data_to_send(self) -> bytes:
        """Return the next bytes for the device, joined up to a TLS record; b"" when none wait."""
        if self._drops:
            self._write_drops()
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
            due = now + self._realm.limits.stall_seconds
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

    def look_for_hello(self, now: float) -> None:
        """Close a connection that has said no Hello."""
        if self.state is State.AWAITING_HELLO:
            self.close(Code.HELLO_LATE)

    def look_for_silence(self, now: float) -> None:
        """Close a connection that has said nothing for too long."""
        if self.state is State.HERE:
            due = self.heard_at + self._realm.limits.silence_seconds
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
        due = self._blocked_since + self._realm.limits.stall_seconds
        if now < due:
            self._realm.deadlines.add(due, self.look_for_stall)
            return
        self.close(Code.STALLED)
        self.stalled = True
        self._realm.touched.append(self)

    def _leave(self) -> None:
        """Be found by nobody any more; tell the senders of what is not going to be delivered."""
        realm = self._realm
        if self.state is State.HERE:
            realm.here -= 1
        self.state = State.CLOSED
        if self.device_id is not None and realm.switchboard.leave(self.device_id, self):
            realm.windows.close(self.device_id)
        realm.queued_bytes -= self._outbox.data_bytes
        for count, source in self._outbox.drop_runs():
            self._count_drop(Code.UNDELIVERED, count)
            source.report_drop(Code.UNDELIVERED, self.device_id or b"", count)
        self._drops.clear()
        self._partial.clear()
        self._frame = None

    # For other conversations.

    def deliver(self, run: bytes, count: int, source: Sender) -> Code | None:
        """Queue a run of packets for this device, or return why it does not fit."""
        realm = self._realm
        room = min(
            realm.limits.queue_bytes,
            realm.limits.all_queues_bytes - realm.queued_bytes + self._outbox.data_bytes,
        )
        if not self._outbox.add_run(run, count, source, room):
            return Code.QUEUE_FULL
        realm.queued_bytes += len(run)
        realm.counters.relayed_packets += count
        realm.counters.relayed_bytes += len(run)
        realm.touched.append(self)
        return None

    def report_drop(self, code: Code, target_device: bytes, count: int) -> None:
        """Note that packets of this device were dropped; it is told with its next bytes."""
        if self.state is not State.HERE:
            return
        key: tuple[Code, bytes | None] = (code, target_device)
        if key not in self._drops and len(self._drops) >= MAX_REPORTED_TARGETS:
            key = (code, None)
        self._drops[key] = self._drops.get(key, 0) + count
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

    # Cutting the stream into packets.

    def _cut(self, data: bytes, now: float) -> None:
        if self._partial:
            self._partial += data
            if not self._is_whole(len(data)):
                return
            data = bytes(self._partial)
            self._partial.clear()
            self._frame = None
        position = 0
        size = len(data)
        while position < size and self.state is not State.CLOSED:
            if self.state is State.HERE and data.startswith(self._head, position):
                position = self._relay(data, position, now)
            else:
                position = self._decode(data, position, now)

    def _is_whole(self, added_bytes: int) -> bool:
        """Tell whether the bytes just added complete the packet that has been waiting for them."""
        if self._frame is not None:
            return self._frame.find_end(self._partial) is not None
        self._missing_bytes -= added_bytes
        return self._missing_bytes <= 0

    def _relay(self, data: bytes, begin: int, now: float) -> int:  # noqa: C901
        """Forward the run of packets for one target that begins here; return where it ends.

        The head has been compared already, so the packet's id and source are right. Only the
        canonical encoding is understood here; what differs from it goes through the decoder.
        """
        size = len(data)
        lengths_at = begin + _LENGTH_AT
        if lengths_at + 5 > size:
            # Too close to the end to read a length of any kind.
            return self._decode_or_wait(data, begin, lengths_at + 2 - size, now)
        if not data.startswith(_CONTENT_KEY, begin + _CONTENT_KEY_AT):
            return self._decode(data, begin, now)
        prefix = data[begin:lengths_at]
        position = begin
        count = 0
        missing = 0
        problem: RemoteProtocolError | None = None
        while True:
            at = position + _LENGTH_AT
            if at + 5 > size:
                missing = at + 2 - size
                break
            kind = data[at]
            if kind == _BIN8:
                content_at = at + 2
                end = content_at + data[at + 1]
            elif kind == _BIN16:
                content_at = at + 3
                end = content_at + (data[at + 1] << 8 | data[at + 2])
            elif kind == _BIN32:
                content_at = at + 5
                end = content_at + int.from_bytes(data[at + 1 : content_at], "big")
            else:
                problem = RemoteProtocolError(Code.MALFORMED, "content: needs bin")
                break
            length = end - position
            if length > self._realm.limits.packet_bytes:
                problem = self._too_large()
                break
            if end > size:
                missing = end - size
                break
            # Packets of one length often follow each other: compare their heads, length included.
            whole_head = data[position:content_at]
            position = end
            count += 1
            last = size - length
            while position <= last and data.startswith(whole_head, position):
                position += length
                count += 1
            if not data.startswith(prefix, position):
                break
        if count:
            target = prefix[_TARGET_AT : _TARGET_AT + 16]
            self._forward(data[begin:position], count, target)
        if problem is not None:
            raise problem
        if missing:
            return self._decode_or_wait(data, position, missing, now)
        return position

    def _decode_or_wait(self, data: bytes, position: int, missing: int, now: float) -> int:
        """Keep the beginning of a canonical packet until at least ``missing`` bytes have come."""
        if missing <= 0:
            return self._decode(data, position, now)
        self._partial += data[position:]
        self._missing_bytes = missing
        return len(data)

    def _decode(self, data: bytes, position: int, now: float) -> int:
        """Take one packet of any form through the decoder; return where it ends in ``data``.

        Nothing is decoded before it is whole: see ``framing`` for why.
        """
        limits = self._realm.limits
        most = limits.packet_bytes if self.state is State.HERE else limits.hello_packet_bytes
        frame = Frame(most, codec.MAX_MAP_ITEMS, codec.MAX_ARRAY_ITEMS, codec.MAX_DEPTH)
        end = frame.find_end(data, position)
        if end is None:
            self._partial += data[position:]
            self._frame = frame
            return len(data)
        raw = data[position:end]
        self._handle(codec.decode(raw), raw, now)
        if self.seat is not None:
            self.early = data[end:]
        return end

    def _too_large(self) -> RemoteProtocolError:
        most = self._realm.limits.packet_bytes
        return RemoteProtocolError(Code.TOO_LARGE, f"a packet has at most {most} bytes")

    # What packets do.

    def _handle(self, packet: dict[object, object], raw: bytes, now: float) -> None:
        packet_id = packets.id_of(packet)  # type: ignore[arg-type]
        if self.state is State.AWAITING_HELLO and packet_id != Hello.packet_id:
            if packet_id == Leg.packet_id:
                self._become_leg(packet, raw, now)
                return
            raise RemoteProtocolError(Code.HELLO_FIRST, MEANINGS[Code.HELLO_FIRST].sentence)
        if packet_id not in packets.DEVICE_TO_REALM:
            self._refuse_unknown(packet_id, packet.get("request"))
            return
        match packets.parse(packet, packets.DEVICE_TO_REALM):  # type: ignore[arg-type]
            case Hello() as hello:
                self._hello(hello, now)
            case OpenWindow() as wanted:
                self._open_window(wanted, now)
            case FindWindow() as wanted:
                self._find_window(wanted, now)
            case Send() as send:
                self._check_source(send.source_device)
                self._forward(raw, 1, send.target_device)
            case ConnectToDevice() as wanted:
                self._check_source(wanted.source_device)
                self._connect(wanted, now)
            case Error(code=Code.CIRCUIT_REFUSED, circuit=bytes(circuit)):
                assert self.device_id is not None
                self._realm.circuits.refuse(circuit, self.device_id)

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
            self.state = State.HERE
            realm.here += 1
            realm.counters.connections += 1
            realm.deadlines.add(now + realm.limits.silence_seconds, self.look_for_silence)
        self.tell(self._back_heartbeat(hello.request))
        self._arrive(now)

    def _open_window(self, wanted: OpenWindow, now: float) -> None:
        assert self.device_id is not None
        windows = self._realm.windows
        if wanted.close:
            windows.close(self.device_id)
            return
        found = windows.open(self.device_id, self._host(), now)
        if isinstance(found, Refusal):
            self._refuse(found, wanted)
            return
        seconds = self._realm.limits.pairing_window_seconds
        self.tell(WindowOpened(found, seconds, wanted.request))

    def _find_window(self, wanted: FindWindow, now: float) -> None:
        assert self.device_id is not None
        found = self._realm.windows.find(wanted.number, self.device_id, self._host(), now)
        if isinstance(found, Refusal):
            self._refuse(found, wanted)
            return
        self.tell(WindowFound(wanted.number, found, wanted.request))

    def _connect(self, wanted: ConnectToDevice, now: float) -> None:
        offer = self._realm.circuits.ask(wanted.source_device, wanted, now)
        if isinstance(offer, Refusal):
            self._refuse(offer, wanted)
            return
        self.tell(offer.for_asker)
        self._realm.circuits.tell(wanted.target_device, offer.for_target)

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

    def _host(self) -> str | None:
        return None if self.observed_address is None else self.observed_address[0]

    def _arrive(self, now: float) -> None:
        assert self.device_id is not None
        older = self._realm.switchboard.arrive(self.device_id, self)
        if older is None or older is self:
            return
        self._replacements = older.replaced(now)
        if len(self._replacements) >= CONFLICT_REPLACEMENTS:
            self._realm.counters.identity_conflicts += 1
            self._tell_of_conflict()

    def _back_heartbeat(self, request: int | None) -> BackHeartbeat:
        limits = self._realm.limits
        observed = self.observed_address
        return BackHeartbeat(
            version=PROTOCOL_VERSION,
            heartbeat_seconds=limits.heartbeat_seconds,
            limits={
                "packet_bytes": limits.packet_bytes,
                "queue_bytes": limits.queue_bytes,
                "silence_seconds": limits.silence_seconds,
                "stall_seconds": limits.stall_seconds,
            },
            nonce=self._realm.random_bytes(NONCE_BYTES),
            observed_address=None if observed is None else list(observed),
            request=request,
        )

    def _forward(self, run: bytes, count: int, target: bytes) -> None:
        destination = self._realm.switchboard.route(target)
        if destination is None:
            if not is_device_id(target):
                raise RemoteProtocolError(Code.MALFORMED, "target_device: needs a device ID")
            refusal: Code | None = Code.TARGET_ABSENT
        else:
            refusal = destination.deliver(run, count, self)
        if refusal is not None:
            self._count_drop(refusal, count)
            self.report_drop(refusal, target, count)

    def _count_drop(self, code: Code, count: int) -> None:
        self._realm.counters.dropped_packets[code] += count

    # What the realm says.

    def tell(self, packet: packets.Packet) -> None:
        """Queue one of the realm's own packets for this device."""
        self._queue(packet)
        self._realm.touched.append(self)

    def _queue(self, packet: packets.Packet) -> None:
        if self.state is not State.CLOSED and not self._outbox.add_control(codec.encode(packet)):
            self.close(Code.STALLED, "it asks for more answers than it reads")

    def _tell_of_conflict(self) -> None:
        code = Code.IDENTITY_CONFLICT
        self.tell(Error(str(code), MEANINGS[code].sentence, retry_after=CONFLICT_RETRY_SECONDS))

    def _refuse(
        self,
        refusal: Refusal,
        refused: OpenWindow | FindWindow | ConnectToDevice,
    ) -> None:
        code = refusal.code
        self._realm.counters.refused_packets[code] += 1
        self.tell(
            Error(
                str(code),
                MEANINGS[code].sentence,
                about=refused.packet_id,
                retry_after=refusal.retry_after,
                request=refused.request,
            )
        )

    def _refuse_unknown(self, packet_id: int, request: object) -> None:
        code = Code.UNKNOWN_PACKET
        repeated = request if type(request) is int and 0 <= request <= packets.MAX_COUNT else None
        self.tell(Error(str(code), MEANINGS[code].sentence, about=packet_id, request=repeated))

    def _write_drops(self) -> None:
        drops, self._drops = self._drops, {}
        for (code, target), count in drops.items():
            self._queue(
                Error(
                    str(code),
                    MEANINGS[code].sentence,
                    about=Send.packet_id,
                    target_device=target or None,
                    dropped=count,
                )
            )
