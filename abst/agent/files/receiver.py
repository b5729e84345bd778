"""The receiving end of a stream of files: a thin adapter around ``arriving`` (spec: agent.md).

Owns that the reactor never waits for a disk, that what waits in memory is bounded, and that what
is stored goes on record before the sender hears of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.agent.files.arriving import Arriving, Outcome, refusal, stand
from abst.agent.files.draft import Draft
from abst.agent.files.drafts import Drafts
from abst.agent.files.heartbeat import Heartbeat
from abst.agent.files.packets import STORED, TRANSFER_ID_BYTES, WELCOME, encode
from abst.agent.files.storage import StorageError
from abst.agent.records import Records
from abst.errors import AbstError

MAX_STREAMS: Final = 64
MAX_STREAMS_FROM_ONE: Final = 16
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
"""How many bytes may wait for a thread before the stream is paused."""

BATCH_BYTES: Final = 1024 * 1024
GATHER_SECONDS: Final = 0.02
"""How long fewer bytes than these wait for more: to wake a thread for each piece costs too much."""

TELL_SECONDS: Final = 0.1
"""How often the sender hears how much is here: as often as a person can read it."""

ALL_TRANSFERS: Final = bytes(TRANSFER_ID_BYTES)
"""In a packet Refused: everything that this stream could carry."""

InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments, not in this thread, and returns a Deferred of its result."""


class FileReceiver(Protocol):
    """One stream.

    Args:
        factory: what all streams share.
        device_id: the sender.
    """

    log = Logger(namespace="abst.agent")

    def __init__(self, factory: FileReceiverFactory, device_id: bytes) -> None:
        self._shared = factory
        self.device_id = device_id
        self._core = Arriving(factory.drafts, device_id)
        self._heartbeat = Heartbeat(factory.clock, self._say, self._silent)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._gathering: Any = None
        self._told_at = -TELL_SECONDS
        self._is_working = False
        self._is_paused = False
        self._is_connected = False

    def connectionMade(self) -> None:
        """Tell the sender which of its transfers are not over."""
        assert self.transport is not None
        self._is_connected = True
        self._heartbeat.start()
        unfinished = self._shared.drafts.unfinished(self.device_id)
        self._say(encode(WELCOME, unfinished=unfinished))
        if not self._shared.admit(self):
            problem = StorageError("too many transfers at once: try again in a while")
            self._say(refusal(ALL_TRANSFERS, problem))
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Keep bytes for the thread, and pause the stream when there are many."""
        assert self.transport is not None
        self._heartbeat.heard()
        if self not in self._shared.streams:
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= MAX_WAITING_BYTES and not self._is_paused:
            self._is_paused = True
            self._heartbeat.listens = False
            self.transport.pauseProducing()  # type: ignore[attr-defined]
        self._work_or_gather()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Write what has come, and leave for later what is not whole."""
        self._is_connected = False
        self._heartbeat.stop()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._work()

    def _work_or_gather(self) -> None:
        """Wait for more, unless that is enough or no more will come."""
        if self._waiting_bytes >= BATCH_BYTES or not self._is_connected:
            self._work()
        elif self._waiting and self._gathering is None:
            self._gathering = self._shared.clock.callLater(GATHER_SECONDS, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._work()

    def _work(self) -> None:
        """Give the thread what has come, unless it is busy."""
        if self._is_working or self not in self._shared.streams:
            return
        if self._waiting:
            chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
            working = self._shared.in_thread(self._core.receive, chunks)
        elif not self._is_connected:
            working = self._shared.in_thread(self._core.close)
            working.addBoth(self._closed)
            self._is_working = True
            return
        else:
            return
        self._is_working = True
        working.addCallbacks(self._took, self._failed)

    def _took(self, outcome: Outcome) -> None:
        self._is_working = False
        self._say(bytes(outcome.replies))
        now = self._shared.clock.seconds()
        if outcome.got and now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self._say(outcome.got)
        try:
            self._record(outcome)
        except AbstError as problem:
            # It stays as it is, and is put on record when the sender asks again.
            self.log.error("what has arrived cannot be recorded: {why}", why=str(problem))
            self._abort()
        if outcome.problem is not None:
            self.log.warn("a stream of files ends: {why}", why=str(outcome.problem))
            self._waiting.clear()
            if self._is_connected:
                self.transport.loseConnection()  # type: ignore[union-attr]
        if self._is_paused and self._is_connected:
            self._is_paused = False
            self._heartbeat.listens = True
            self.transport.resumeProducing()  # type: ignore[union-attr]
        self._work_or_gather()

    def _failed(self, failure: Failure) -> None:
        self._is_working = False
        self.log.failure("files cannot be stored", failure)
        self._waiting.clear()
        self._abort()
        self._work()

    def _record(self, outcome: Outcome) -> None:
        """Put on record what is in the inbox, then tell the sender."""
        records, known = self._shared.records, []
        for draft in outcome.named:
            if records.arrived(self.device_id, draft.offer.transfer) is None:
                self._shared.stored(self.device_id, draft)
            known.append((draft.offer.transfer, draft.stored_as, draft.sha256))
        records.commit()
        for draft in outcome.named:
            self._shared.drafts.settle(draft)
        for transfer in outcome.asked:
            if (arrived := records.arrived(self.device_id, transfer)) is not None:
                known.append((transfer, arrived.name, arrived.sha256))
            else:
                self._say(stand(transfer))
        for transfer, name, sha256 in known:
            self._say(encode(STORED, transfer=transfer, name=name, sha256=sha256))

    def _say(self, data: bytes) -> None:
        if self._is_connected and data:
            self._heartbeat.said()
            self.transport.write(data)  # type: ignore[union-attr]

    def _silent(self) -> None:
        self.log.info("a stream of files has fallen silent")
        self._abort()

    def _abort(self) -> None:
        if self._is_connected:
            self.transport.abortConnection()  # type: ignore[union-attr]

    def _closed(self, _: object) -> None:
        self._shared.streams.discard(self)
        self._shared.closed(self.device_id)


class FileReceiverFactory(Factory):
    """What the receiving ends share.

    Args:
        clock: the reactor.
        drafts: the drafts in the inbox.
        records: what has arrived.
        stored: puts an item into the list of what has arrived.
        in_thread: runs what may wait long for the disk.
        forgets: tells whether this agent knows a device no more.

    Attributes:
        streams: the streams that are open, or not yet done with the disk.
    """

    noisy = False

    def __init__(
        self,
        clock: Any,
        drafts: Drafts,
        records: Records,
        stored: Callable[[bytes, Draft], None],
        in_thread: InThread,
        forgets: Callable[[bytes], bool] = lambda device_id: False,
    ) -> None:
        self.clock = clock
        self.drafts = drafts
        self.records = records
        self.stored = stored
        self.in_thread = in_thread
        self.streams: set[FileReceiver] = set()
        self._forgets = forgets

    def buildProtocol(self, addr: IAddress | None) -> FileReceiver:
        """Return the receiving end of a new stream."""
        return FileReceiver(self, bytes(addr.device_id))  # type: ignore[union-attr]

    def admit(self, stream: FileReceiver) -> bool:
        """Take a stream among those that are open; False when there are too many."""
        theirs = sum(other.device_id == stream.device_id for other in self.streams)
        if len(self.streams) >= MAX_STREAMS or theirs >= MAX_STREAMS_FROM_ONE:
            return False
        self.streams.add(stream)
        return True

    def closed(self, device_id: bytes) -> None:
        """Remove what a device has left behind that this one knows no more."""
        if self._forgets(device_id):
            self.in_thread(self.drafts.discard_from, device_id)
