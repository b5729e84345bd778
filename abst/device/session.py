"""A session: application packets that arrive once and in order, whatever carries them.

Pure (spec: channel.md, "Sessions"). Owns the numbering, the acknowledgement, what is kept until it
is acknowledged, and how much may be in flight. It knows nothing of channels: its owner moves
packets, and tells it when a channel begins and when one is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from abst.errors import Code, LocalProtocolError, RemoteProtocolError

MAX_IN_FLIGHT_BYTES: Final = 256 * 1024
"""Sent and not acknowledged: a quarter of what a realm queues for one device by default."""

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""Handed in by the application and not acknowledged, in flight or not."""

MAX_WAITING_PACKETS: Final = 20_000

ACK_AFTER_BYTES: Final = 64 * 1024
ACK_AFTER_PACKETS: Final = 16
ACK_AFTER_SECONDS: Final = 0.05


class Session:
    """Both directions of one conversation between two devices' applications.

    Args:
        session_id: 16 random bytes.
        received: how many of the other side's packets have come, when it goes on after a restart.
        acknowledged: how many of this side's packets the other side has, likewise.
        packets: the encoded packets after those, likewise.

    Attributes:
        session_id: the same on both sides, once they have agreed on it.
        received: how many of the other side's packets have come.
        acknowledged: how many of this side's packets the other side has.
    """

    def __init__(
        self,
        session_id: bytes,
        received: int = 0,
        acknowledged: int = 0,
        packets: Iterable[bytes] = (),
    ) -> None:
        self.session_id = session_id
        self.received = received
        self.acknowledged = acknowledged
        self._kept: deque[bytes] = deque(packets)
        self._kept_bytes = sum(map(len, self._kept))
        self._in_flight = 0
        self._in_flight_bytes = 0
        # How many have ever gone out; after a restart nobody knows, so all of them may have.
        self._sent = self.next_number
        self._unacknowledged_bytes = 0
        self._reported = 0
        self._acknowledge_at: float | None = None

    # Sending.

    @property
    def unacknowledged(self) -> int:
        """How many packets the other side has not acknowledged."""
        return len(self._kept)

    @property
    def next_number(self) -> int:
        """The number that the next packet will have; the first one has 0."""
        return self.acknowledged + len(self._kept)

    @property
    def has_room(self) -> bool:
        """Whether another packet would be sent at once rather than wait for acknowledgements."""
        return self._kept_bytes < MAX_IN_FLIGHT_BYTES

    @property
    def has_progressed(self) -> bool:
        """Whether anything is known to have come across in it, in either direction."""
        return bool(self.received or self.acknowledged)

    def add(self, packet: bytes) -> int:
        """Keep an encoded application packet for sending; return its number.

        Raises:
            LocalProtocolError: too much is waiting already.
        """
        if len(self._kept) >= MAX_WAITING_PACKETS or (
            self._kept and self._kept_bytes + len(packet) > MAX_WAITING_BYTES
        ):
            raise LocalProtocolError(
                f"more than {MAX_WAITING_BYTES} bytes or {MAX_WAITING_PACKETS} packets wait to be "
                "acknowledged: send slower, or wait until the other side is there"
            )
        number = self.next_number
        self._kept.append(packet)
        self._kept_bytes += len(packet)
        return number

    def waiting(self) -> Iterator[tuple[int, bytes, bool]]:
        """Yield what is not acknowledged: number, packet, and whether it has ever gone out."""
        for number, packet in enumerate(self._kept, self.acknowledged):
            yield number, packet, number < self._sent

    def replace(self, number: int, packet: bytes) -> bool:
        """Put another packet in the place of one that has never gone out; False when it has."""
        place = number - self.acknowledged
        if number < self._sent or place >= len(self._kept):
            return False
        self._kept_bytes += len(packet) - len(self._kept[place])
        self._kept[place] = packet
        return True

    def packets_to_send(self) -> Iterator[bytes]:
        """Yield the packets that may go out now; each is then in flight."""
        while self._in_flight < len(self._kept):
            packet = self._kept[self._in_flight]
            if self._in_flight and self._in_flight_bytes + len(packet) > MAX_IN_FLIGHT_BYTES:
                return
            self._in_flight += 1
            self._in_flight_bytes += len(packet)
            self._sent = max(self._sent, self.acknowledged + self._in_flight)
            yield packet

    def acknowledge(self, count: int) -> int:
        """Take the other side's count of what it has received; return how many are new.

        Raises:
            RemoteProtocolError: the count goes back, or beyond what was sent.
        """
        new = count - self.acknowledged
        if not 0 <= new <= self._in_flight:
            raise RemoteProtocolError(Code.MALFORMED, "received: not between acknowledged and sent")
        self._in_flight -= new
        self._in_flight_bytes -= self._forget(new)
        return new

    def _forget(self, count: int) -> int:
        """Keep the first packets no longer; return how many bytes they had."""
        size = sum(len(self._kept.popleft()) for _ in range(count))
        self._kept_bytes -= size
        self.acknowledged += count
        return size

    # Receiving.

    def packet_received(self, size: int, now: float) -> None:
        """Count one of the other side's application packets, of ``size`` bytes."""
        self.received += 1
        self._unacknowledged_bytes += size
        enough = (
            self._unacknowledged_bytes >= ACK_AFTER_BYTES
            or self.received - self._reported >= ACK_AFTER_PACKETS
        )
        due = now if enough else now + ACK_AFTER_SECONDS
        if self._acknowledge_at is None or due < self._acknowledge_at:
            self._acknowledge_at = due

    def reported(self) -> None:
        """Note that a packet with the current ``received`` goes out."""
        self._reported = self.received
        self._unacknowledged_bytes = 0
        self._acknowledge_at = None

    def next_deadline(self) -> float | None:
        """Return when an acknowledgement is due, or None when none is."""
        return self._acknowledge_at

    # Moving from channel to channel.

    def resume(self, count: int) -> int:
        """Begin on a new channel; return how many packets its Hello newly acknowledged.

        Everything that the other side has not counted is going to be sent again.

        Raises:
            RemoteProtocolError: the count does not fit what was sent: the session is over.
        """
        new = count - self.acknowledged
        # More may have gone out, on earlier channels, than is in flight on the last one.
        if not new >= 0 or count > self._sent:
            raise RemoteProtocolError(Code.MALFORMED, "received: not between acknowledged and sent")
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._forget(new)
        self.reported()
        return new
