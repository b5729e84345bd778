"""The sending end of a stream of files: a thin adapter around ``outgoing`` (spec: agent.md).

Owns that one block is read and hashed in a thread while the one before it is sent, and that only so
many items are under way without an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.agent.files.heartbeat import Heartbeat
from abst.agent.files.outgoing import Block, Item, Outgoing, Stand, drop
from abst.agent.files.packets import (
    ASK,
    DROP,
    FROM_RECEIVER,
    GOT,
    REFUSED,
    STAND,
    STORED,
    WELCOME,
    Packet,
    Splitter,
    encode,
)
from abst.agent.files.tree import TransferError
from abst.device.peers import printable
from abst.errors import RemoteProtocolError

MAX_UNANSWERED: Final = 256
"""How many items may be under way; a receiver remembers more of them after they are over."""

WRITE_BYTES: Final = 260 * 1024
"""Up to so many bytes are joined before they are written: a piece as it is read, and its head."""

InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments, not in this thread, and returns a Deferred of its result."""


class Sender(Interface):
    """Whoever wants items sent; it is told what becomes of them."""

    def unsettled(self) -> list[Item]:
        """Return the items that are still to be sent, in order."""

    def find(self, transfer: bytes) -> Item | None:
        """Return one of them."""

    def is_known(self, transfer: bytes) -> bool:
        """Tell whether a transfer is somebody's: if not, the receiver may forget it."""

    def moved(self) -> None:
        """Hear that something has come from the receiver."""

    def progressed(self, item: Item) -> None:
        """Hear that the receiver has more of an item."""

    def stored(self, item: Item, name: str, sha256: bytes) -> None:
        """Hear that the receiver has an item."""

    def failed(self, item: Item, problem: TransferError) -> None:
        """Hear that an item cannot be sent."""

    def refused_all(self, reason: str) -> None:
        """Hear that the receiver takes nothing."""


@implementer(IPushProducer)
class FileSender(Protocol):
    """One stream.

    Args:
        clock: the reactor.
        sender: whoever wants items sent.
        in_thread: runs what may wait long for the disk.

    Attributes:
        over: fires when the stream has ended, however that was.
    """

    log = Logger(namespace="abst.agent")

    def __init__(self, clock: Any, sender: Sender, in_thread: InThread) -> None:
        self.over: Deferred[None] = Deferred()
        self._sender = sender
        self._in_thread = in_thread
        self._splitter = Splitter(FROM_RECEIVER)
        self._heartbeat = Heartbeat(clock, self._say, self._silent)
        self._outgoing = Outgoing()
        self._unsent: deque[Item] = deque()
        self._asked: deque[Item] = deque()
        self._underway: set[bytes] = set()
        self._block: Block | None = None
        self._is_reading = False
        self._is_paused = False
        self._is_connected = False
        self._is_closing = False

    def connectionMade(self) -> None:
        """Begin."""
        self._is_connected = True
        self._heartbeat.start()
        self._unsent.extend(self._sender.unsettled())
        for item in self._unsent:
            item.stand = None
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]
        self._pump()

    def dataReceived(self, data: bytes) -> None:
        """Take the receiver's answers."""
        self._heartbeat.heard()
        try:
            for piece in self._splitter.receive_data(data):
                assert isinstance(piece, tuple)
                self._packet(piece[0])
        except RemoteProtocolError as problem:
            self.log.warn("a stream of files ends: {why}", why=str(problem))
            self._abort()
            return
        self._sender.moved()
        self._pump()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell whoever has opened it."""
        self._is_connected = False
        self._block = None
        self._heartbeat.stop()
        self.over.callback(None)

    def pauseProducing(self) -> None:
        """Write no more for now."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Write again."""
        self._is_paused = False
        self._pump()

    def stopProducing(self) -> None:
        """The connection is gone; ``connectionLost`` follows."""

    def give_up(self, reason: str) -> None:
        """Take back everything that is not stored, and close."""
        if not self._is_connected or self._is_closing:
            return
        self._block = None
        for item in self._sender.unsettled():
            item.is_over = True
            if item.transfer in self._underway:
                self._say(drop(item, reason))
        self._close()

    def _packet(self, packet: Packet) -> None:
        packet_id = packet["packet_id"]
        if packet_id == WELCOME:
            for transfer in packet["unfinished"]:
                if not self._sender.is_known(transfer):
                    self._say(encode(DROP, transfer=transfer, reason=""))
            return
        if packet_id == REFUSED and not any(packet["transfer"]):
            self._sender.refused_all(packet["reason"])
            self._unsent.clear()
            self._asked.clear()
            self._underway.clear()
            return
        item = self._sender.find(packet["transfer"]) if "transfer" in packet else None
        if item is None:
            return
        if packet_id == STAND:
            item.stand = Stand(packet["entries"], packet["offset"], packet["sha256"])
        elif packet_id == GOT:
            item.got_bytes = min(packet["size"], item.size_bytes)
            self._sender.progressed(item)
        elif packet_id == STORED:
            self._settle(item)
            if item.sha256 in (None, packet["sha256"]) or (item.survey and item.survey.is_folder):
                self._sender.stored(item, packet["name"], packet["sha256"])
            else:
                problem = TransferError("the other side has stored something else", item.path)
                self._sender.failed(item, problem)
        elif packet_id == REFUSED:
            self._settle(item)
            self._sender.failed(item, TransferError(printable(packet["reason"])))

    def _settle(self, item: Item) -> None:
        item.is_over = True
        self._underway.discard(item.transfer)

    def _pump(self) -> None:
        """Write what has been read, and read on."""
        if not self._is_connected or self._is_closing:
            return
        if self._block is not None and not self._is_paused:
            block, self._block = self._block, None
            self._write(block)
        self._line_up()
        if self._is_reading or self._block is not None:
            return
        if not self._outgoing.is_empty:
            self._is_reading = True
            self._in_thread(self._outgoing.read).addCallbacks(self._read, self._not_read)
        elif not self._unsent and not self._asked and not self._underway:
            self._close()

    def _line_up(self) -> None:
        """Send the next items, after asking for those that the receiver may know already."""
        while self._unsent and len(self._underway) < MAX_UNANSWERED:
            item = self._unsent.popleft()
            if item.is_over:
                continue
            self._underway.add(item.transfer)
            if item.is_offered:
                self._say(encode(ASK, transfer=item.transfer))
            item.is_offered, was_offered = True, item.is_offered
            if was_offered or self._asked:
                self._asked.append(item)
                if not was_offered:
                    item.stand = Stand(0, 0, b"")
            else:
                self._outgoing.add(item)
        while self._asked and (self._asked[0].stand is not None or self._asked[0].is_over):
            item = self._asked.popleft()
            if not item.is_over:
                self._outgoing.add(item)

    def _read(self, block: Block) -> None:
        self._is_reading = False
        for item, problem in block.failed:
            if not item.is_over:
                self._settle(item)
                self._sender.failed(item, problem)
        if self._is_connected:
            self._block = block
            self._pump()

    def _not_read(self, failure: Failure) -> None:
        self._is_reading = False
        self.log.failure("files cannot be read", failure)
        self._abort()

    def _write(self, block: Block) -> None:
        """Write a block, in pieces that are neither small nor large."""
        waiting: list[bytes] = []
        waiting_bytes = 0
        for piece in block.pieces:
            if waiting_bytes + len(piece) > WRITE_BYTES and waiting:
                self._say(b"".join(waiting))
                waiting, waiting_bytes = [], 0
            waiting.append(piece)
            waiting_bytes += len(piece)
        self._say(b"".join(waiting))

    def _say(self, data: bytes) -> None:
        if self._is_connected and not self._is_closing:
            self._heartbeat.said()
            self.transport.write(data)  # type: ignore[union-attr]

    def _silent(self) -> None:
        self.log.info("a stream of files has fallen silent")
        self._abort()

    def _abort(self) -> None:
        if self._is_connected:
            self.transport.abortConnection()  # type: ignore[union-attr]

    def _close(self) -> None:
        self._is_closing = True
        self.transport.unregisterProducer()  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]
