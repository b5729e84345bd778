"""What one protocol writes to, for as long as its session lives.

A protocol may be kept by its application after its session has ended, while the next session with
the same peer goes on: what it writes then is refused, and never goes into the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail

from abst.device.paths import Path
from abst.device.peers import Peer
from abst.errors import LocalProtocolError, PeerUnreachableError

if TYPE_CHECKING:
    from abst.device.connection import PeerConnection


class SessionWriter:
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

    @property
    def is_waiting(self) -> bool:
        return self._is_alive() and self._connection.is_waiting

    def waiting(self) -> list[tuple[int, int, Any, bool]]:
        return self._connection.waiting() if self._is_alive() else []

    def replace_packet(self, number: int, packet_id: int, content: Any) -> bool:
        return self._is_alive() and self._connection.replace_packet(number, packet_id, content)

    def register_producer(self, producer: Any, streaming: bool) -> None:
        if not self._is_alive():
            producer.stopProducing()
            return
        self._connection.register_producer(producer, streaming)

    def unregister_producer(self) -> None:
        if self._is_alive():
            self._connection.unregister_producer()

    def ping(self) -> Deferred[float]:
        if not self._is_alive():
            return fail(PeerUnreachableError(f"{self.peer}: the session has ended"))
        return self._connection.ping()

    def end(self) -> None:
        if self._is_alive():
            self._connection.end()

    def _is_alive(self) -> bool:
        return self._connection.is_written_by(self)
