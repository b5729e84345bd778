"""How late the reactor calls what it has promised to call: whatever keeps it busy, shows here."""

from __future__ import annotations

from typing import Any, Final

from abst.realm.timings import Timings

LOOK_SECONDS: Final = 0.5


class LagMeter:
    """Asks the reactor to be called again and again, and notes how late it is called.

    Args:
        reactor: the reactor.
        timings: where that is noted.
    """

    def __init__(self, reactor: Any, timings: Timings) -> None:
        self._reactor = reactor
        self._timings = timings
        self._call: Any = None

    def start(self) -> None:
        """Begin."""
        due = self._reactor.seconds() + LOOK_SECONDS
        self._call = self._reactor.callLater(LOOK_SECONDS, self._look, due)

    def stop(self) -> None:
        """Be called no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self, due: float) -> None:
        self._timings.add(self._reactor.seconds() - due)
        self.start()
