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
        owes_acknowledgement: whether something has come that the other side has not been told of.
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
        self.owes_acknowledgement = False

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
    def waiting_bytes(self) -> int:
        """How much has been handed in that is not acknowledged."""
        return self._kept_bytes

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

    @property
    def position(self) -> int:
        """The number of the packet that ``packets_to_send`` yields next."""
        return self.acknowledged + self._in_flight

    def rewind(self) -> None:
        """Send again everything that is not acknowledged: another channel carries it from now."""
        self._in_flight = 0
        self._in_flight_bytes = 0

    def acknowledge(self, count: int) -> int:
        """Take the other side's count of what it has received; return how many are new.

        A count that is lower than an earlier one came over a slower way, and is no news.

        Raises:
            RemoteProtocolError: it is more than was sent: the session is over.
        """
        if count > self._sent:
            raise RemoteProtocolError(Code.MALFORMED, "received: more than was sent")
        new = max(0, count - self.acknowledged)
        for _ in range(new):
            size = len(self._kept.popleft())
            self._kept_bytes -= size
            if self._in_flight:
                self._in_flight -= 1
                self._in_flight_bytes -= size
        self.acknowledged += new
        return new

    # Receiving.

    def take(self, number: int) -> bool:
        """Count the other side's packet with a number; False when it has come before.

        Raises:
            RemoteProtocolError: there is a hole before it.
        """
        self.owes_acknowledgement = True
        if number > self.received:
            raise RemoteProtocolError(Code.MALFORMED, "packets are missing")
        if number < self.received:
            return False
        self.received += 1
        return True

    def reported(self) -> None:
        """Note that a packet with the current ``received`` goes out."""
        self.owes_acknowledgement = False
