"""Pausing and resuming a producer, by how much waits to be acknowledged.

Twisted's ``IPushProducer`` and ``IPullProducer`` on the application's side of a session.
"""

from __future__ import annotations

from typing import Any, Final

from abst.device.session import MAX_IN_FLIGHT_BYTES
from abst.errors import LocalProtocolError

PAUSE_BYTES: Final = 4 * MAX_IN_FLIGHT_BYTES
"""What has been handed in and not acknowledged when a producer is paused."""

RESUME_BYTES: Final = 2 * MAX_IN_FLIGHT_BYTES


class Flow:
    """One session's producer, if it has one."""

    def __init__(self) -> None:
        self._producer: Any = None
        self._is_streaming = False
        self._is_paused = False

    def register(self, producer: Any, streaming: bool, waiting_bytes: int) -> None:
        """Take a producer: a push producer if ``streaming``, else a pull producer.

        Raises:
            LocalProtocolError: there is one already.
        """
        if self._producer is not None:
            raise LocalProtocolError("the session has a producer already: unregister it first")
        self._producer = producer
        self._is_streaming = streaming
        self._is_paused = not streaming
        self.update(waiting_bytes)

    def unregister(self) -> None:
        """Let the producer go; it is neither paused nor resumed any more."""
        self._producer = None

    def stop(self) -> None:
        """Tell the producer that the session is over."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    def added(self, waiting_bytes: int) -> None:
        """Pause a push producer at once, in the middle of what it does: so much waits now."""
        if self._producer is not None and not self._is_paused and waiting_bytes >= PAUSE_BYTES:
            self._is_paused = True
            self._producer.pauseProducing()

    def update(self, waiting_bytes: int) -> None:
        """Pause or resume the producer: so much waits now."""
        self.added(waiting_bytes)
        if self._producer is not None and self._is_paused and waiting_bytes <= RESUME_BYTES:
            self._is_paused = not self._is_streaming
            self._producer.resumeProducing()
