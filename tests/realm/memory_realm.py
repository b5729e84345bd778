"""A realm without sockets: its lines to devices are lists of bytes, and time is a number.

It does what the adapter does, in the same order: feed, flush what was touched, close what says so.
"""

from __future__ import annotations

from itertools import count

from abst import codec
from abst.device_id import DeviceID
from abst.errors import MEANINGS, Code
from abst.packets import (
    MAX_VALUE_PACKET_BYTES,
    REALM_TO_DEVICE,
    BackHeartbeat,
    Error,
    Hello,
    Packet,
    Send,
    parse,
)
from abst.realm.access import Mode
from abst.realm.circuits import Circuit, Seat
from abst.realm.circuits import Leg as CircuitLeg
from abst.realm.conversation import Conversation, State
from abst.realm.limits import Limits
from abst.realm.realm import Realm
from abst.realm.store.interface import Store
from abst.realm.store.memory import MemoryStore
from abst.realm.switchboard import MemorySwitchboard
from abst.realm.values.values import Values

ALICE = DeviceID.of_key(b"alice")
BOB = DeviceID.of_key(b"bob")
CAROL = DeviceID.of_key(b"carol")
NOBODY = DeviceID.of_key(b"nobody")

ADDRESS = ("192.0.2.7", 50123)


def send(source: bytes, target: bytes, content: bytes, request: int | None = None) -> bytes:
    """Return the bytes of a Send packet, in the canonical form unless it has a request."""
    return codec.encode(Send(source, target, content, request))


def decode(data: bytes | bytearray) -> list[Packet]:
    """Return the packets that a device was sent; raise if the bytes are anything else."""
    decoder = codec.Decoder(MAX_VALUE_PACKET_BYTES)
    found: list[Packet] = []
    view = memoryview(data)
    for begin in range(0, len(view), 1 << 19):
        decoder.receive_data(view[begin : begin + (1 << 19)])
        found += [parse(item, REALM_TO_DEVICE) for item in iter(decoder.next_map, None)]
    assert not decoder.buffered_bytes
    return found


class Line:
    """One device's connection to a realm in memory.

    Attributes:
        received: every byte that the device has read.
        writes: the pieces in which the realm wrote them.
        waiting: what was written and is not read yet.
        ended: "closed" or "aborted" once the realm has ended the connection; "lost" once it heard
            that the device has.
    """

    def __init__(self, realm: MemoryRealm, device_id: bytes | None) -> None:
        self.realm = realm
        self.conversation: Conversation = realm.core.open(ADDRESS, realm.now)
        if device_id is not None:
            self.conversation.identify(device_id)
        self.device_id = device_id
        self.conversation.carrier = self
        self.conversation.measure_progress = lambda: self.progress
        self.progress = 0
        self.reading = True
        self.received = bytearray()
        self.waiting = bytearray()
        self.writes: list[bytes] = []
        self.ended = ""
        self._taken = 0

    def send(self, *pieces: bytes | Packet) -> None:
        """Have the realm read pieces, each by a read of its own, and settle after each."""
        for piece in pieces:
            data = codec.encode(piece) if isinstance(piece, Packet) else piece
            self.conversation.receive_data(data, self.realm.now)
            self.realm.settle()

    def take(self) -> list[Packet]:
        """Return the packets read since the last time."""
        begin, self._taken = self._taken, len(self.received)
        return decode(self.received[begin:])

    def take_bytes(self) -> bytes:
        """Return the bytes read since the last time."""
        begin, self._taken = self._taken, len(self.received)
        return bytes(self.received[begin:])

    def take_errors(self) -> list[Error]:
        """Return the packets read since the last time, which are errors all."""
        found = self.take()
        assert all(isinstance(packet, Error) for packet in found), found
        return [packet for packet in found if isinstance(packet, Error)]

    def take_codes(self) -> list[str]:
        """Return the codes of the errors read since the last time; there was nothing else."""
        return [error.code for error in self.take_errors()]

    def stop_reading(self) -> None:
        """Let what is written from now on wait."""
        self.reading = False

    def read(self) -> None:
        """Read what waits, and go on reading."""
        self.reading = True
        self.received += self.waiting
        self.waiting.clear()
        if self.conversation.is_blocked:
            self.conversation.unblocked()
            self.realm.core.touched.append(self.conversation)
        self.realm.settle()

    def disconnect(self) -> None:
        """End the connection from the device's side, or confirm that the realm has."""
        self.conversation.carrier = None
        self.conversation.connection_lost()
        self.ended = self.ended or "lost"
        self.realm.settle()

    def flush(self) -> None:
        """Do as the adapter does."""
        conversation = self.conversation
        if self.ended:
            return
        if conversation.stalled:
            self.ended = "aborted"
            return
        while not conversation.is_blocked:
            data = conversation.data_to_send()
            if not data:
                break
            self.writes.append(data)
            if self.reading:
                self.received += data
            else:
                self.waiting += data
                conversation.blocked(self.realm.now)
        if conversation.state is State.CLOSED and not conversation.is_blocked:
            self.ended = "closed"


class MemoryRealm:
    """A realm, the time, and the lines of the devices that are connected."""

    def __init__(
        self,
        limits: Limits | None = None,
        store: Store | None = None,
        mode: Mode = Mode.OPEN,
    ) -> None:
        self.now = 1000.0
        self.switchboard = MemorySwitchboard()
        nonces = count()
        limits, store = limits or Limits(), store or MemoryStore()
        self.core = Realm(
            limits,
            random_bytes=lambda size: next(nonces).to_bytes(size, "big"),
            random_fraction=lambda: 0.5,
            switchboard=self.switchboard,
            store=store,
            wall=lambda: self.now,
            mode=mode,
        )
        self.core.values = Values(store, limits, self.core.counters, wall=lambda: self.now)

    def connect(self, device_id: bytes | None) -> Line:
        """Return a line whose handshake is done and which has said nothing."""
        return Line(self, device_id)

    def join(self, device_id: bytes) -> Line:
        """Return the line of a device that has said Hello and has read the answer."""
        line = self.connect(device_id)
        line.send(Hello(device_id))
        (answer,) = line.take()
        assert isinstance(answer, BackHeartbeat), answer
        return line

    def join_again(self, line: Line) -> Line:
        """Return a newer line of the same device, and confirm the end of the older one."""
        assert line.device_id is not None
        newer = self.connect(line.device_id)
        newer.send(Hello(line.device_id))
        line.disconnect()
        return newer

    def settle(self) -> None:
        """Flush what was touched until nothing is."""
        touched = self.core.touched
        while touched:
            batch = touched[:]
            touched.clear()
            for conversation in batch:
                if isinstance(conversation.carrier, Line):
                    conversation.carrier.flush()

    def advance(self, seconds: float) -> None:
        """Let time go by, with a look whenever the realm has asked for one."""
        end = self.now + seconds
        while True:
            due = self.core.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.core.handle_deadline(self.now)
            self.settle()
        self.now = end

    def dropped(self, code: Code) -> int:
        """Return how many packets were dropped for that reason."""
        return self.core.counters.dropped_packets[code]

    def refused(self, code: Code) -> int:
        """Return how many connections were closed for that reason."""
        return self.core.counters.refused_connections[code]


class MemoryLeg:
    """A plain leg without a socket.

    Attributes:
        seat: what its token was good for, or None.
        said: what the realm has told it, in bytes.
        was_reset: whether the realm has cut it off.
        joined_with: the other leg, once there is one.
    """

    def __init__(self, realm: MemoryRealm, token: bytes, device: bytes | None = None) -> None:
        self.realm = realm
        self.token = token
        self.device = device
        self.seat: Seat | None = None
        self.said = b""
        self.was_reset = False
        self.joined_with: MemoryLeg | None = None

    def come(self) -> bool:
        """Bring the token; return whether it was good."""
        self.seat = self.realm.core.circuits.claim(self.token, self.device, self.realm.now)
        if self.seat is not None:
            self.seat.take(self, self.realm.now)
        self.realm.settle()
        return self.seat is not None

    def refuse(self, code: Code) -> None:
        """Hear why nothing comes of it."""
        assert not self.said, "it was told twice"
        self.said = codec.encode(Error(str(code), MEANINGS[code].sentence))

    def reset(self) -> None:
        """Be cut off."""
        self.was_reset = True

    def meet(self, other: CircuitLeg, circuit: Circuit) -> None:
        """Be joined."""
        assert isinstance(other, MemoryLeg)
        self.joined_with, other.joined_with = other, self

    @property
    def code(self) -> str:
        """The code that it was told, or nothing."""
        if not self.said:
            return ""
        (error,) = decode(self.said)
        assert isinstance(error, Error)
        return error.code
