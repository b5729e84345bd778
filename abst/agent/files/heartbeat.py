"""Whether the other end of a stream is still there: who has nothing to say says so now and then.

Owns one timer. It counts its own turns, not the time, so that a process which was suspended
listens first, and does not blame the other side for its own sleep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import LoopingCall

from abst.agent.files.packets import ALIVE, encode

ALIVE_SECONDS: Final = 5.0
MAX_SILENT_TURNS: Final = 8
"""How often nothing may have come: 40 seconds."""

_ALIVE: Final = encode(ALIVE)


class Heartbeat:
    """One end's watch.

    Args:
        clock: the reactor.
        say: sends bytes.
        silent: called once when nothing has come for too long.

    Attributes:
        listens: False while this end does not read, so that silence means nothing.
    """

    def __init__(
        self, clock: Any, say: Callable[[bytes], None], silent: Callable[[], None]
    ) -> None:
        self.listens = True
        self._say = say
        self._silent = silent
        self._silent_turns = 0
        self._has_said = False
        self._turning = LoopingCall(self._turn)
        self._turning.clock = clock

    def start(self) -> None:
        """Begin to watch."""
        self._turning.start(ALIVE_SECONDS, now=False)

    def stop(self) -> None:
        """Watch no more."""
        if self._turning.running:
            self._turning.stop()

    def heard(self) -> None:
        """Note that something has come."""
        self._silent_turns = 0

    def said(self) -> None:
        """Note that something has been said."""
        self._has_said = True

    def _turn(self) -> None:
        if not self._has_said:
            self._say(_ALIVE)
        self._has_said = False
        if self.listens:
            self._silent_turns += 1
        if self._silent_turns >= MAX_SILENT_TURNS:
            self.stop()
            self._silent()
