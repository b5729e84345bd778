"""Time that nobody sets: what a program waits by shall not depend on the time of day.

Twisted's reactors measure time by the clock of the day (``time.time``). When that is set, by a
person or by the network, everything that waits for an hour ago is due at once, or nothing is due
for an hour: a realm would take all its devices for silent, or none.
"""

from __future__ import annotations

import time
from typing import Any


def use_steady_clock(reactor: Any) -> None:
    """Have a reactor measure time by a clock that only goes on; before anything waits by it.

    What the reactor calls seconds has no meaning as a date any more.
    """
    reactor.seconds = time.monotonic
