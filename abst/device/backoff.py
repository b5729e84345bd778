"""How long a device waits before it tries a realm again (spec: realm.md, "Coming back"). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from abst.packets import Error

FIRST_WAIT_SECONDS: Final = 1.0
WAIT_FACTOR: Final = 1.5
MAX_WAIT_SECONDS: Final = 60.0
MAX_ASKED_WAIT_SECONDS: Final = 3600.0
STABLE_SECONDS: Final = 60.0


def next_wait_seconds(failures: int, asked_seconds: float | None, fraction: float) -> float:
    """Return how long to wait before the next try.

    Args:
        failures: tries that failed since the last stable connection, at least 1.
        asked_seconds: what the realm asked for, or None.
        fraction: a random number in [0, 1).
    """
    most = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * WAIT_FACTOR ** min(failures, 20))
    wait = fraction * most
    if asked_seconds is None:
        return wait
    return max(min(asked_seconds, MAX_ASKED_WAIT_SECONDS), 0.0) + (
        wait if failures > 1 else fraction * 0.1
    )


class Backoff:
    """How long a link waits before each try to connect.

    Args:
        random_fraction: returns a number in [0, 1), for the jitter.
    """

    def __init__(self, random_fraction: Callable[[], float]) -> None:
        self._random_fraction = random_fraction
        self._failures = 0
        self._asked_seconds: float | None = None
        self._up_since: float | None = None

    def connected(self, now: float) -> None:
        """Note that the realm has accepted this device."""
        self._asked_seconds = None
        self._up_since = now

    def refused(self, error: Error) -> None:
        """Note when the realm wants to be asked again."""
        if error.retry_after is not None and error.target_device is None:
            self._asked_seconds = float(error.retry_after)

    def disconnected(self, now: float) -> None:
        """Note that the connection is gone; a stable one makes up for what failed before."""
        if self._up_since is not None and now - self._up_since >= STABLE_SECONDS:
            self._failures = 0
        self._up_since = None

    def network_changed(self) -> None:
        """Forget what has failed: that was in another network."""
        self._failures = 0

    def next_wait_seconds(self) -> float:
        """Return how long to wait now, after another try has failed or a connection was lost."""
        self._failures += 1
        asked, self._asked_seconds = self._asked_seconds, None
        return next_wait_seconds(self._failures, asked, self._random_fraction())
