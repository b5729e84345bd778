"""What the tests of server connections share: the three carriers, and clients in threads.

A carrier is what a connection's TLS runs on. Which one a server takes follows from its reactor, so
each is a reactor here, and one behaviour is tested over all of them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial.unittest import TestCase

if TYPE_CHECKING:
    Behaviour = TestCase
else:
    # What subclasses mix with TestCase. A TestCase itself would be run with nothing to carry it.
    Behaviour = object

PATIENCE_SECONDS = 20.0


def running_reactor() -> Any:
    """Return the reactor in which trial runs the tests."""
    from twisted.internet import reactor

    return reactor


class PlainReactor:
    """The reactor, without saying that it has descriptors: sockets are read without a poller."""

    def __getattr__(self, name: str) -> Any:
        return getattr(running_reactor(), name)


class TimeOnlyReactor:
    """The reactor without descriptors: connections take Twisted's TLS."""

    def __init__(self) -> None:
        self.seconds = running_reactor().seconds
        self.callLater = running_reactor().callLater


def in_thread(test: Callable[[Any], None]) -> Callable[[Any], Deferred[None]]:
    """Run a test that blocks in a thread, while the reactor serves what it talks to."""

    @functools.wraps(test)
    def run(self: Any) -> Deferred[None]:
        return deferToThread(test, self)

    return run


def in_reactor(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call something in the reactor's thread, from a test in a thread, and return its result."""
    return blockingCallFromThread(running_reactor(), call, *arguments)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait in a thread until something holds that only looking can tell."""
    end = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not in_reactor(condition):
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        pause.wait(0.005)
