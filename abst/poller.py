"""Many descriptors behind one: what a reactor's turn costs is paid once for all that are ready.

A reactor calls each ready descriptor through its logging context, which costs more than relaying a
small packet does. A ``Poller`` is one descriptor to the reactor, an epoll inside the reactor's own,
and calls its descriptors itself. When all that were ready have been called, it calls
``after_turn`` once, so that small writes for one target can be joined. When they are too many for
one turn, they share it by what they have read, and whoever reads little is called first. Where
epoll is missing, ``descriptor_set`` returns the reactor itself.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.shares import Shares

EVENTS_PER_TURN: Final = 256
"""How many ready descriptors are called before the rest of the program has its turn."""

TURN_BYTES: Final = 262_144
"""After how much has been read no other one is called before it is looked who else is ready."""

TURN_SECONDS: Final = 0.01
"""The same in time, for those who cause more work than that: not less, since a machine that does
other things too would cut turns off that are short."""

HEAD_START_BYTES: Final = 16384
"""How much less than others somebody has read to be called before all of them."""

LEAST_TURN_BYTES: Final = 512
"""As how much a turn counts in which less was read: it costs system calls all the same."""


class Pace(Protocol):
    """Who knows whether descriptors wait for each other."""

    is_busy: bool


class _Unhurried:
    """Stands for a reactor that does not tell."""

    is_busy = False


_UNHURRIED: Final = _Unhurried()


def descriptor_set(reactor: Any, after_turn: Callable[[], None]) -> Any:
    """Return what descriptors are added to: a ``Poller``, or the reactor where that cannot be."""
    if hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor):
        return Poller(reactor, after_turn)
    return reactor


def pace_of(descriptors: Any) -> Pace:
    """Return what tells whether descriptors wait for each other in a set of them."""
    return descriptors if isinstance(descriptors, Poller) else _UNHURRIED


@implementer(IReadDescriptor)
class Poller:
    """A set of descriptors with the reactor's own method names.

    A descriptor that reads much should have ``turn_bytes``, how much its last ``doRead`` has read,
    and read less at once while ``is_busy``.

    Args:
        reactor: the reactor.
        after_turn: called when those that were ready have been called.
        seconds: a clock.

    Attributes:
        polling: whether the descriptors that are ready are being called just now.
        is_busy: whether more is there to be read than one turn has time for.
    """

    log = Logger(namespace="abst.poller")

    def __init__(
        self,
        reactor: Any,
        after_turn: Callable[[], None],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._after_turn = after_turn
        self._epoll: select.epoll | None = None
        self._masks: dict[int, int] = {}
        self._descriptors: dict[int, Any] = {}
        self._seconds = seconds
        self._shares: Shares[int] = Shares(HEAD_START_BYTES)
        self.polling = False
        self.is_busy = False
        self.callLater = reactor.callLater

    # As descriptors see it.

    def addReader(self, descriptor: Any) -> None:
        """Call the descriptor's ``doRead`` whenever it can be read."""
        self._change(descriptor, add=select.EPOLLIN)

    def addWriter(self, descriptor: Any) -> None:
        """Call the descriptor's ``doWrite`` whenever it can be written."""
        self._change(descriptor, add=select.EPOLLOUT)

    def removeReader(self, descriptor: Any) -> None:
        """Stop calling ``doRead``."""
        self._change(descriptor, remove=select.EPOLLIN)

    def removeWriter(self, descriptor: Any) -> None:
        """Stop calling ``doWrite``."""
        self._change(descriptor, remove=select.EPOLLOUT)

    # As the reactor sees it.

    def fileno(self) -> int:
        """Return the inner epoll's number, or -1 while it is empty."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        """Return the prefix for the reactor's log lines."""
        return "Poller"

    def connectionLost(self, reason: Failure) -> None:
        """Hear that the reactor has given this descriptor up; an epoll does not break."""

    def doRead(self) -> None:
        """Call the descriptors that are ready, as far as there is time, then ``after_turn``.

        Nothing that they raise gets out: the reactor would give up this one descriptor, and with it
        every connection.
        """
        assert self._epoll is not None
        ready = self._epoll.poll(0, EVENTS_PER_TURN)
        is_busy = self.is_busy
        if is_busy:
            start_of = self._shares.start_of
            ready.sort(key=lambda number_and_event: start_of(number_and_event[0]))
        seconds = self._seconds
        end = seconds() + TURN_SECONDS
        bytes_left = TURN_BYTES
        left = len(ready)
        self.polling = True
        for number, event in ready:
            read_bytes = self._call(number, event)
            if is_busy:
                self._shares.take(number, self._shares.start_of(number), read_bytes)
            left -= 1
            bytes_left -= read_bytes
            if left and (bytes_left <= 0 or seconds() >= end):
                # They stay ready, and the next turn finds them.
                break
        self.polling = False
        self.is_busy = left > 0
        if is_busy and not left:
            self._shares.clear()
        try:
            self._after_turn()
        except Exception:
            self.log.failure("what follows a turn failed")
        self._close_if_empty()

    # Inside.

    def _call(self, number: int, event: int) -> int:
        """Call a descriptor; return how much it has read, or as how much that counts."""
        descriptors = self._descriptors
        descriptor = descriptors.get(number)
        if descriptor is None:
            return 0
        read_bytes = 0
        try:
            if event & ~select.EPOLLOUT:
                descriptor.doRead()
                read_bytes = getattr(descriptor, "turn_bytes", 0)
            if event & select.EPOLLOUT and number in descriptors:
                descriptor.doWrite()
        except Exception:
            self._failed(descriptor)
        return read_bytes if read_bytes > LEAST_TURN_BYTES else LEAST_TURN_BYTES

    def _change(self, descriptor: Any, add: int = 0, remove: int = 0) -> None:
        number = descriptor.fileno()
        if number < 0:
            number = next((n for n, d in self._descriptors.items() if d is descriptor), -1)
        elif self._descriptors.get(number, descriptor) is not descriptor:
            # Somebody closed a socket without a word, and its number has been given out again.
            self._forget(number)
        before = self._masks.get(number, 0)
        mask = (before | add) & ~remove
        if mask == before:
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            self._reactor.addReader(self)
        if not before:
            self._epoll.register(number, mask)
            self._descriptors[number] = descriptor
            self._masks[number] = mask
        elif mask:
            self._epoll.modify(number, mask)
            self._masks[number] = mask
        else:
            self._forget(number)

    def _forget(self, number: int) -> None:
        assert self._epoll is not None
        del self._masks[number]
        del self._descriptors[number]
        try:
            self._epoll.unregister(number)
        except OSError:
            pass  # The socket was closed before, which has unregistered it.
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if self._epoll is not None and not self._masks and not self.polling:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None

    def _failed(self, descriptor: Any) -> None:
        failure = Failure()
        self.log.failure("a connection failed and is closed", failure)
        try:
            descriptor.connectionLost(failure)
        except Exception:
            self.log.failure("closing it failed too")
        for number in [n for n, d in self._descriptors.items() if d is descriptor]:
            self._forget(number)
