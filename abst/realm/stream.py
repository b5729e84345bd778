"""The stream that a device sends, cut into packets (spec: realm.md, packets.md).

Pure. Owns the hot path: packets for another device, or for a peer group, are found and their heads
compared without being decoded, in runs as long as they come. Nothing is decoded before it is whole.
What a packet may do stands in ``conversation``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from abst import codec
from abst.errors import Code, RemoteProtocolError
from abst.framing import Frame
from abst.packets import MAX_VALUE_PACKET_BYTES, VALUE_PACKET_IDS
from abst.realm.circuits import Seat
from abst.realm.client import ValueRequest
from abst.realm.limits import Limits
from abst.realm.values.canonical import read_requests

# The canonical heads of the packets that are relayed: a map of four, packet_id, then the three keys
# in order. What follows the second one's key is who shall get it.
_SEND: Final = b"\x84\xa9packet_id\x02\xadsource_device\xc4\x10"
_SEND_TO: Final = b"\xadtarget_device\xc4\x10"
_MESSAGE: Final = b"\x84\xa9packet_id\x06\xadsource_device\xc4\x10"
_MESSAGE_TO: Final = b"\xaapeer_group\xc4\x10"
_ID_BYTES: Final = 16
_CONTENT_KEY: Final = b"\xa7content"
_CONTENT_BYTES: Final = _ID_BYTES + len(_CONTENT_KEY)
_BIN8, _BIN16, _BIN32 = 0xC4, 0xC5, 0xC6

# How a packet begins whose id can be told before it is decoded: a byte for the map, and this.
_PACKET_ID_KEY: Final = b"\xa9packet_id"
_ID_AT: Final = 1 + len(_PACKET_ID_KEY)


class State(enum.Enum):
    """Where a conversation stands."""

    AWAITING_HELLO = "awaiting Hello"
    HERE = "here"
    CLOSED = "closed"


class Taker(Protocol):
    """A conversation as its stream sees it.

    Attributes:
        state: where it stands, which a packet may change.
        limits: those that count for its packets.
        seat: what the connection is for since it has turned into a circuit's leg, or None.
        early: what came on it behind the packet that said so.
    """

    state: State
    limits: Limits
    seat: Seat | None
    early: bytes

    def forward(self, run: bytes, count: int, target: bytes) -> None:
        """Take a run of packets from this device to another one."""

    def publish(self, run: bytes, count: int, group: bytes) -> None:
        """Take a run of messages from this device to a peer group."""

    def handle_requests(self, asked: Sequence[ValueRequest], size: int, now: float) -> None:
        """Take requests about values that have come together, in so many bytes."""

    def handle(self, packet: dict[object, object], raw: bytes, now: float) -> None:
        """Take a packet of any other kind or form, with the bytes that it was decoded from."""


class PacketStream:
    """What one device sends.

    Args:
        taker: who takes its packets.
    """

    __slots__ = ("_frame", "_message_head", "_missing_bytes", "_partial", "_send_head", "_taker")

    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        # The beginning of a packet that has not come whole, and what is known of its end: how many
        # bytes are missing, or, when it is not in the canonical form, its frame.
        self._partial = bytearray()
        self._missing_bytes = 0
        self._frame: Frame | None = None
        self._send_head = b""
        self._message_head = b""

    def identify(self, device_id: bytes) -> None:
        """Take the device ID that the connection's certificate has proved."""
        self._send_head = _SEND + device_id + _SEND_TO
        self._message_head = _MESSAGE + device_id + _MESSAGE_TO

    def clear(self) -> None:
        """Forget what has come in part."""
        self._partial.clear()
        self._frame = None

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes as they came, and hand on the packets that are whole.

        Raises:
            RemoteProtocolError: what comes next is no packet; what was right before is handed on.
        """
        if self._partial:
            self._partial += data
            if not self._is_whole(len(data)):
                return
            data = bytes(self._partial)
            self._partial.clear()
            self._frame = None
        taker = self._taker
        position = 0
        size = len(data)
        while position < size and taker.state is not State.CLOSED:
            if taker.state is not State.HERE:
                position = self._decode(data, position, now)
            elif data.startswith(self._send_head, position):
                head_bytes = len(self._send_head)
                position = self._relay(data, position, now, head_bytes, taker.forward)
            elif data.startswith(self._message_head, position):
                head_bytes = len(self._message_head)
                position = self._relay(data, position, now, head_bytes, taker.publish)
            else:
                asked, end = read_requests(data, position)
                if asked:
                    taker.handle_requests(asked, end - position, now)
                else:
                    end = self._decode(data, position, now)
                position = end

    def _is_whole(self, added_bytes: int) -> bool:
        """Tell whether the bytes just added complete the packet that has been waiting for them."""
        if self._frame is not None:
            return self._frame.find_end(self._partial) is not None
        self._missing_bytes -= added_bytes
        return self._missing_bytes <= 0

    def _relay(  # noqa: C901
        self,
        data: bytes,
        begin: int,
        now: float,
        head_bytes: int,
        forward: Callable[[bytes, int, bytes], None],
    ) -> int:
        """Forward the run of packets for one target that begins here; return where it ends.

        The head has been compared already, so the packets' id and source are right. Only the
        canonical encoding is understood here; what differs from it goes through the decoder.
        """
        size = len(data)
        length_at = head_bytes + _CONTENT_BYTES
        lengths_at = begin + length_at
        if lengths_at + 5 > size:
            # Too close to the end to read a length of any kind.
            return self._decode_or_wait(data, begin, lengths_at + 2 - size, now)
        if not data.startswith(_CONTENT_KEY, begin + head_bytes + _ID_BYTES):
            return self._decode(data, begin, now)
        prefix = data[begin:lengths_at]
        position = begin
        count = 0
        missing = 0
        problem: RemoteProtocolError | None = None
        while True:
            at = position + length_at
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
            if length > self._taker.limits.packet_bytes:
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
            target = prefix[head_bytes : head_bytes + _ID_BYTES]
            forward(data[begin:position], count, target)
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
        most = self._most_bytes(data, position)
        frame = Frame(most, codec.MAX_MAP_ITEMS, codec.MAX_ARRAY_ITEMS, codec.MAX_DEPTH)
        end = frame.find_end(data, position)
        if end is None:
            self._partial += data[position:]
            if len(data) - position > _ID_AT:
                self._frame = frame
            else:
                # It cannot be told yet how large the packet may be: measure it anew.
                self._missing_bytes = 1
            return len(data)
        raw = data[position:end]
        self._taker.handle(codec.decode(raw), raw, now)
        if self._taker.seat is not None:
            self._taker.early = data[end:]
        return end

    def _most_bytes(self, data: bytes, position: int) -> int:
        """Return how large the packet may be that begins here."""
        limits = self._taker.limits
        if self._taker.state is not State.HERE:
            return limits.hello_packet_bytes
        most = limits.packet_bytes
        id_at = position + _ID_AT
        if data.startswith(_PACKET_ID_KEY, position + 1) and id_at < len(data):
            most = max(most, MAX_VALUE_PACKET_BYTES) if data[id_at] in VALUE_PACKET_IDS else most
        return most

    def _too_large(self) -> RemoteProtocolError:
        most = self._taker.limits.packet_bytes
        return RemoteProtocolError(Code.TOO_LARGE, f"a packet has at most {most} bytes")
