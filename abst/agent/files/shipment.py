"""Items on their way to one peer, over one stream after the other until all are settled.

Owns what happens between two streams: how long to wait, what ends it, and what is on record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from abst.agent.files.outgoing import Item
from abst.agent.files.packets import SERVICE
from abst.agent.files.sender import FileSender, InThread
from abst.agent.files.tree import TransferError, survey
from abst.agent.records import Records
from abst.device.peers import printable
from abst.device_id import DeviceID
from abst.errors import AbstError, Code, NotTrustedError, StreamError

FIRST_WAIT_SECONDS: Final = 0.5
MAX_WAIT_SECONDS: Final = 60.0
WAIT_FACTOR: Final = 2.0
DEAF_SHARE: Final = 0.25
"""The part of a wait in which not even a sign of the peer ends it, so that it stays a wait."""

_FINAL_CODES: Final = frozenset({Code.NO_SERVICE, Code.NOT_ADMITTED, Code.WRONG_PAIRING})
"""What waiting does not change."""


class Streams(Protocol):
    """What opens streams; ``Device.streams``."""

    def connect(
        self, device_id: DeviceID, service: str, factory: IProtocolFactory
    ) -> Deferred[Any]:
        """Return a Deferred of the protocol of a new stream."""


class Observer:
    """Hears how a shipment goes; to be overridden."""

    def progressed(self, item: Item) -> None:
        """The receiver has more of an item."""

    def stored(self, item: Item, name: str, sha256: bytes) -> None:
        """The receiver has an item, under a name of its own choice."""

    def failed(self, item: Item, problem: TransferError) -> None:
        """An item cannot be sent."""


class Shipment:
    """Some items for one peer.

    Args:
        clock: the reactor.
        device_id: the peer.
        items: what is to be sent; it is on record.
        streams: opens streams.
        records: what is on its way.
        in_thread: runs what may wait long for the disk.
        answers: returns a Deferred that fires once the peer has answered anything.
        observer: hears how it goes.

    Attributes:
        device_id: the peer.
        finished: fires when every item is settled; never, when the agent stops before that.
        stream: the stream that is open now, if any.
        is_away: whether the last stream has broken, or could not be opened.
        problem: why it could not be opened, when that is known.
        is_surveyed: whether everything has been counted.
        total_bytes: the bytes of everything that has been counted.
        first_name: what the first item is called.
        moves: how often anything has come from the peer.
    """

    def __init__(
        self,
        clock: Any,
        device_id: DeviceID,
        items: list[Item],
        streams: Streams,
        records: Records,
        in_thread: InThread,
        answers: Callable[[DeviceID], Deferred[None]],
        observer: Observer,
    ) -> None:
        self.finished: Deferred[None] = Deferred(lambda _: self.cancel())
        self.stream: FileSender | None = None
        self.is_away = False
        self.problem: AbstError | None = None
        self.is_surveyed = False
        self.total_bytes = 0
        self.first_name = items[0].name if items else ""
        self.moves = 0
        self._clock = clock
        self.device_id = device_id
        self._items = {item.transfer: item for item in items}
        self._streams = streams
        self._records = records
        self._in_thread = in_thread
        self._answers = answers
        self._observer = observer
        self._settled_bytes = 0
        self._running: Deferred[None] | None = None
        self._is_stopped = False

    @property
    def sent_bytes(self) -> int:
        """How many bytes the receiver has, of everything; what was refused counts too."""
        return self._settled_bytes + sum(item.got_bytes for item in self._items.values())

    def start(self) -> None:
        """Begin."""
        self._running = ensureDeferred(self._run())
        self._running.addCallbacks(self._has_run, self._not_run)

    def stop(self) -> None:
        """Leave everything as it is: the agent stops, and goes on after its next start."""
        self._is_stopped = True
        if self._running is not None:
            self._running.cancel()

    def cancel(self) -> None:
        """Give up what is not stored yet."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self.stream is not None:
            self.stream.give_up("the sender gave up")
        for item in self.unsettled():
            self._forget(item)
        self._records.commit()
        if self._running is not None:
            self._running.cancel()

    def give_up(self, problem: AbstError) -> None:
        """Fail: the two devices do not talk to each other any more."""
        if self._is_stopped:
            return
        if self.stream is not None:
            self.stream.give_up("the sender gave up")
        self._fail_all(problem)
        self._is_stopped = True
        if self._running is not None:
            self._running.cancel()
        self._finish()

    # What a stream asks and tells.

    def unsettled(self) -> list[Item]:
        """Return the items that are still to be sent, in order."""
        return list(self._items.values())

    def find(self, transfer: bytes) -> Item | None:
        """Return one of them."""
        return self._items.get(transfer)

    def is_known(self, transfer: bytes) -> bool:
        """Tell whether a transfer is on its way out of this device."""
        return self._records.is_sending(transfer)

    def moved(self) -> None:
        """Note that the peer is there."""
        self.moves += 1

    def progressed(self, item: Item) -> None:
        """Pass on that the receiver has more of an item."""
        self._observer.progressed(item)

    def stored(self, item: Item, name: str, sha256: bytes) -> None:
        """Be done with an item."""
        self._forget(item)
        self._observer.stored(item, printable(name), sha256)

    def failed(self, item: Item, problem: TransferError) -> None:
        """Be done with an item that cannot be sent."""
        self._forget(item)
        self._observer.failed(item, problem)

    def refused_all(self, reason: str) -> None:
        """Be done with everything."""
        for item in self.unsettled():
            self.failed(item, TransferError(printable(reason)))

    def _forget(self, item: Item) -> None:
        item.is_over = True
        if self._items.pop(item.transfer, None) is not None:
            self._settled_bytes += item.size_bytes
        self._records.end_sending(item.transfer)

    # Between streams.

    async def _run(self) -> None:
        for item in self.unsettled():
            await self._survey(item)
        self.is_surveyed = True
        wait_seconds = FIRST_WAIT_SECONDS
        while self._items and not self._is_stopped:
            moves = self.moves
            await self._one_stream()
            if not self._items:
                return
            self.is_away = True
            if self.moves != moves:
                wait_seconds = FIRST_WAIT_SECONDS
            await self._wait(wait_seconds)
            wait_seconds = min(wait_seconds * WAIT_FACTOR, MAX_WAIT_SECONDS)

    async def _survey(self, item: Item) -> None:
        if item.survey is None:
            try:
                item.survey = await self._in_thread(survey, item.path)
            except TransferError as problem:
                self.failed(item, problem)
                return
        self.total_bytes += item.size_bytes

    async def _one_stream(self) -> None:
        """Send over one stream, as long as it lasts."""
        opening = _Opening(lambda: FileSender(self._clock, self, self._in_thread))
        try:
            stream = await self._streams.connect(self.device_id, SERVICE, opening)
        except NotTrustedError as problem:
            self._fail_all(problem)
        except StreamError as problem:
            self.problem = problem
            if problem.code in _FINAL_CODES:
                self._fail_all(problem)
        except AbstError as problem:
            self.problem = problem
        else:
            self.stream, self.problem, self.is_away = stream, None, False
            try:
                await stream.over
            finally:
                self.stream = None
            self._records.commit()

    def _fail_all(self, problem: AbstError) -> None:
        for item in self.unsettled():
            self._forget(item)
            self._observer.failed(item, TransferError(str(problem)))

    async def _wait(self, seconds: float) -> None:
        """Wait, but not longer than the peer is away."""
        answered = self._answers(self.device_id)
        await deferLater(self._clock, seconds * DEAF_SHARE, lambda: None)
        late = deferLater(self._clock, seconds * (1 - DEAF_SHARE), lambda: None)
        try:
            await DeferredList([answered, late], fireOnOneCallback=True, consumeErrors=True)
        finally:
            late.cancel()
            answered.cancel()

    def _finish(self) -> None:
        self._records.commit()
        if not self.finished.called:
            self.finished.callback(None)

    def _has_run(self, _: None) -> None:
        if not self._is_stopped:
            self._finish()

    def _not_run(self, failure: Failure) -> None:
        if failure.check(CancelledError) and self._is_stopped:
            return
        if not self.finished.called:
            self.finished.errback(failure)


class _Opening(Factory):
    """Builds the sending end of one stream."""

    noisy = False

    def __init__(self, build: Callable[[], FileSender]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> FileSender:
        """Return it."""
        return self._build()
