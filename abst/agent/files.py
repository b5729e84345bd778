"""Files between agents: offered, answered, sent in pieces, checked by hash (spec: agent.md).

Owns one side's transfers in one session. A sender has a bounded number of pieces on their way, so
its memory stays flat and the receiver's acknowledgements set the pace.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.agent.inbox import ArrivingFile, Inbox, StorageError
from abst.agent.packets import (
    FILE_ANSWER,
    FILE_CANCEL,
    FILE_END,
    FILE_OFFER,
    FILE_PIECE,
    FILE_RESULT,
    MAX_FILE_NAME_CHARACTERS,
    MAX_PIECE_BYTES,
    MAX_REASON_CHARACTERS,
    TRANSFER_ID_BYTES,
)
from abst.device import DeviceProtocol
from abst.device.peers import printable
from abst.errors import AbstError

PIECES_UNDERWAY: Final = 8
MAX_ARRIVING_FILES: Final = 16

Progress = Callable[[int, int], None]
"""Called with the bytes that are acknowledged, and the file's size."""


class TransferError(AbstError):
    """A file did not get across; the text says why."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that the other side has stored.

    Attributes:
        size_bytes: its size.
        sha256: its hash, 32 bytes; both sides have checked it.
        stored_as: its name in the other side's inbox.
    """

    size_bytes: int
    sha256: bytes
    stored_as: str


class FileTransfers:
    """The files on their way in one session, in both directions.

    Args:
        protocol: the session.
        inbox: where arriving files go.
        arrived: called with path, size and hash of each file that has been stored.
        random_bytes: returns that many unpredictable bytes.
    """

    def __init__(
        self,
        protocol: DeviceProtocol,
        inbox: Inbox,
        arrived: Callable[[Path, int, bytes], None],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._protocol = protocol
        self._inbox = inbox
        self._arrived = arrived
        self._random_bytes = random_bytes
        self._arriving: dict[bytes, ArrivingFile] = {}
        self._replies: dict[tuple[bytes, int], Deferred[dict[str, Any]]] = {}

    # Sending.

    async def send(self, path: Path, progress: Progress = lambda sent, size: None) -> SentFile:
        """Send a file.

        Raises:
            TransferError: the file cannot be read, or the other side cannot store it.
            SessionEndedError: the session ended before the other side had it.
        """
        try:
            with _open_regular(path) as file:
                return await self._send_file(path, file, progress)
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}") from None

    async def _send_file(self, path: Path, file: Any, progress: Progress) -> SentFile:
        transfer = self._random_bytes(TRANSFER_ID_BYTES)
        size = os.fstat(file.fileno()).st_size
        name = path.name.encode("utf-8", "replace").decode("utf-8")[:MAX_FILE_NAME_CHARACTERS]
        answered = self._expect(transfer, FILE_ANSWER)
        stored = self._expect(transfer, FILE_RESULT)
        try:
            # What follows waits for no acknowledgement: the session keeps the order, and the
            # other side's answers tell more.
            offer = {"transfer": transfer, "name": name, "size": size}
            self._protocol.sendPacket(FILE_OFFER, offer).addErrback(_ignore)
            answer = await answered
            if not answer["accepted"]:
                raise TransferError(printable(answer["reason"]))
            digest = await self._send_pieces(transfer, file, size, progress, stored)
            result = await stored
        except BaseException:
            self._say(FILE_CANCEL, {"transfer": transfer, "reason": "the sender gave up"})
            raise
        finally:
            for packet_id, reply in ((FILE_ANSWER, answered), (FILE_RESULT, stored)):
                self._replies.pop((transfer, packet_id), None)
                reply.addErrback(_ignore)
        if not result["stored"]:
            raise TransferError(printable(result["reason"]))
        progress(size, size)
        return SentFile(size, digest, printable(result["name"]))

    async def _send_pieces(
        self, transfer: bytes, file: Any, size: int, progress: Progress, stored: Deferred[Any]
    ) -> bytes:
        """Send a file's bytes and its hash, unless the other side refuses it on the way."""
        underway: deque[tuple[int, Deferred[None]]] = deque()
        hashed = hashlib.sha256()
        sent = acknowledged = 0
        try:
            while not stored.called and (data := file.read(min(MAX_PIECE_BYTES, size - sent))):
                hashed.update(data)
                sent += len(data)
                piece = {"transfer": transfer, "data": data}
                underway.append((len(data), self._protocol.sendPacket(FILE_PIECE, piece)))
                if len(underway) >= PIECES_UNDERWAY:
                    length, oldest = underway.popleft()
                    await oldest
                    acknowledged += length
                    progress(acknowledged, size)
        finally:
            for _, waiting in underway:
                waiting.addErrback(_ignore)
        if not stored.called:
            if sent != size:
                raise TransferError("the file became shorter while it was sent")
            end = {"transfer": transfer, "sha256": hashed.digest()}
            self._protocol.sendPacket(FILE_END, end).addErrback(_ignore)
        return hashed.digest()

    def _expect(self, transfer: bytes, packet_id: int) -> Deferred[dict[str, Any]]:
        reply: Deferred[dict[str, Any]] = Deferred()
        self._replies[transfer, packet_id] = reply
        return reply

    def _say(self, packet_id: int, content: dict[str, Any]) -> None:
        """Send a packet whose fate is of no matter: the session may be over, or its queue full."""
        try:
            self._protocol.sendPacket(packet_id, content).addErrback(_ignore)
        except AbstError:
            pass

    # Receiving.

    def packet_received(self, packet_id: int, content: dict[str, Any]) -> None:
        """Take one of the packets of files; it has been checked for its form."""
        transfer = content["transfer"]
        match packet_id:
            case _ if packet_id == FILE_OFFER:
                self._offered(transfer, content["name"], content["size"])
            case _ if packet_id == FILE_PIECE and transfer in self._arriving:
                self._store(transfer, lambda file: file.write(content["data"]))
            case _ if packet_id == FILE_END and transfer in self._arriving:
                self._store(transfer, lambda file: self._finish(transfer, file, content["sha256"]))
            case _ if packet_id == FILE_CANCEL and transfer in self._arriving:
                self._arriving.pop(transfer).discard()
            case _ if packet_id in (FILE_ANSWER, FILE_RESULT):
                reply = self._replies.get((transfer, packet_id))
                if reply is not None and not reply.called:
                    reply.callback(content)

    def ended(self, problem: AbstError) -> None:
        """Drop every transfer, because the session is over."""
        for file in self._arriving.values():
            file.discard()
        self._arriving.clear()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.called:
                reply.errback(problem)

    def _offered(self, transfer: bytes, name: str, size: int) -> None:
        try:
            if transfer in self._arriving or len(self._arriving) >= MAX_ARRIVING_FILES:
                raise StorageError("too many files at once")
            self._arriving[transfer] = self._inbox.begin_file(name, size, transfer)
        except StorageError as problem:
            self._answer(transfer, accepted=False, reason=str(problem))
        else:
            self._answer(transfer, accepted=True, reason="")

    def _store(self, transfer: bytes, step: Callable[[ArrivingFile], Any]) -> None:
        try:
            step(self._arriving[transfer])
        except StorageError as problem:
            self._arriving.pop(transfer).discard()
            self._result(transfer, stored=False, name="", reason=str(problem))

    def _finish(self, transfer: bytes, file: ArrivingFile, sha256: bytes) -> None:
        path = file.finish(sha256)
        del self._arriving[transfer]
        self._arrived(path, file.size_bytes, sha256)
        self._result(transfer, stored=True, name=path.name, reason="")

    def _answer(self, transfer: bytes, *, accepted: bool, reason: str) -> None:
        content = {"transfer": transfer, "accepted": accepted, "reason": _short(reason)}
        self._say(FILE_ANSWER, content)

    def _result(self, transfer: bytes, *, stored: bool, name: str, reason: str) -> None:
        content = {"transfer": transfer, "stored": stored, "name": name, "reason": _short(reason)}
        self._say(FILE_RESULT, content)


def _ignore(failure: Failure) -> None:
    """Take a failure that somebody else is told of."""


def _short(reason: str) -> str:
    return reason[:MAX_REASON_CHARACTERS]


def _open_regular(path: Path) -> Any:
    """Open a file for reading; a pipe or a device, which may never end, is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TransferError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)
