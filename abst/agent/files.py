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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.agent.inbox import ArrivingFile, Inbox, StorageError, hash_file
from abst.agent.packets import (
    FILE_ANSWER,
    FILE_CANCEL,
    FILE_END,
    FILE_OFFER,
    FILE_PIECE,
    FILE_RESULT,
    FILE_REWIND,
    MAX_FILE_NAME_CHARACTERS,
    MAX_PIECE_BYTES,
    MAX_REASON_CHARACTERS,
    TRANSFER_ID_BYTES,
)
from abst.agent.records import Arriving, Sending
from abst.device import DeviceProtocol
from abst.device.peers import printable
from abst.errors import AbstError

PIECES_UNDERWAY: Final = 8
MAX_ARRIVING_FILES: Final = 16

Progress = Callable[[int, int], None]
"""Called with the bytes that are acknowledged, and the file's size."""


InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments, not in this thread, and returns a Deferred of its result."""


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
        in_thread: runs what may wait long for the disk.
        random_bytes: returns that many unpredictable bytes.
    """

    log = Logger(namespace="abst.agent")

    def __init__(
        self,
        protocol: DeviceProtocol,
        inbox: Inbox,
        arrived: Callable[[Path, int, bytes], None],
        in_thread: InThread,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._protocol = protocol
        self._device_id = bytes(protocol.peer.device_id)
        self._inbox = inbox
        self._records = inbox.records
        self._arrived = arrived
        self._in_thread = in_thread
        self._random_bytes = random_bytes
        self._arriving: dict[bytes, ArrivingFile] = {}
        self._finishing: set[bytes] = set()
        self._replies: dict[tuple[bytes, int], Deferred[dict[str, Any]]] = {}
        self._rewinds: dict[bytes, int] = {}

    def resume(self) -> None:
        """Go on, after a restart, with what was on its way before."""
        for arriving in self._records.arriving(self._device_id):
            self._open(arriving)
            if arriving.sha256 is not None and arriving.transfer in self._arriving:
                self._finish(arriving.transfer, arriving.sha256)
        for sending in self._records.sending(self._device_id):
            going = ensureDeferred(self._transfer(sending, lambda sent, size: None))
            going.addErrback(self._not_resumed)

    def _not_resumed(self, failure: Failure) -> None:
        failure.trap(AbstError)
        self.log.warn("a file is given up: {why}", why=failure.getErrorMessage())

    # Sending.

    async def send(self, path: Path, progress: Progress = lambda sent, size: None) -> SentFile:
        """Send a file; goes on after breaks, and after restarts of either agent.

        Raises:
            TransferError: the file cannot be read, or the other side cannot store it.
            SessionEndedError: the session ended before the other side had it.
        """
        transfer = self._random_bytes(TRANSFER_ID_BYTES)
        try:
            with _open_regular(path) as file:
                found = os.fstat(file.fileno())
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}") from None
        sending = Sending(transfer, path, found.st_size, found.st_mtime_ns)
        self._records.begin_sending(self._device_id, sending)
        return await self._transfer(sending, progress)

    async def _transfer(self, sending: Sending, progress: Progress) -> SentFile:
        transfer, path, size = sending.transfer, sending.path, sending.size_bytes
        answered = self._expect(transfer, FILE_ANSWER)
        stored = self._expect(transfer, FILE_RESULT)
        try:
            with _open_regular(path) as file:
                _check_unchanged(file, sending)
                name = path.name.encode("utf-8", "replace").decode("utf-8")
                offer = {
                    "transfer": transfer,
                    "name": name[:MAX_FILE_NAME_CHARACTERS],
                    "size": size,
                }
                # The answer tells more than an acknowledgement, and comes sooner.
                self._protocol.sendPacket(FILE_OFFER, offer).addErrback(_ignore)
                answer = await answered
                if not answer["accepted"]:
                    raise TransferError(printable(answer["reason"]))
                self._rewinds[transfer] = min(answer["offset"], size)
                digest = await self._send_pieces(sending, file, progress, stored)
            result = await stored
        except BaseException as problem:
            if isinstance(problem, GeneratorExit):
                raise
            answered.addErrback(_ignore)
            stored.addErrback(_ignore)
            self._cancel(transfer)
            if isinstance(problem, OSError):
                raise TransferError(f"{path}: {problem.strerror}") from None
            raise
        self._forget(transfer)
        if not result["stored"]:
            raise TransferError(printable(result["reason"]))
        progress(size, size)
        return SentFile(size, digest, printable(result["name"]))

    async def _send_pieces(
        self, sending: Sending, file: Any, progress: Progress, stored: Deferred[Any]
    ) -> bytes:
        """Send a file's bytes and its hash, from wherever the other side wants them."""
        transfer, size = sending.transfer, sending.size_bytes
        underway: deque[tuple[int, Deferred[None]]] = deque()
        hashed = hashlib.sha256()
        sent = acknowledged = 0
        is_whole = False
        try:
            while not stored.called:
                if transfer in self._rewinds:
                    # What is underway still takes room, so a new start waits for it.
                    while underway:
                        await underway.popleft()[1]
                    acknowledged = sent = min(self._rewinds.pop(transfer), size)
                    hashed = await self._in_thread(hash_file, file, sent)
                    continue
                data = file.read(min(MAX_PIECE_BYTES, size - sent))
                if data:
                    hashed.update(data)
                    piece = {"transfer": transfer, "offset": sent, "data": data}
                    sent += len(data)
                    underway.append((len(data), self._protocol.sendPacket(FILE_PIECE, piece)))
                elif sent != size:
                    raise TransferError("the file became shorter while it was sent")
                else:
                    is_whole = True
                    end = {"transfer": transfer, "sha256": hashed.digest()}
                    underway.append((0, self._protocol.sendPacket(FILE_END, end)))
                    await self._stored_or_rewound(transfer, stored)
                    continue
                if len(underway) >= PIECES_UNDERWAY:
                    length, oldest = underway.popleft()
                    await oldest
                    acknowledged += length
                    progress(acknowledged, size)
        finally:
            _ignore_all(underway)
        if not is_whole:
            # Its result was on its way over a restart: the new offer may have opened it again.
            self._cancel(transfer)
        return hashed.digest()

    async def _stored_or_rewound(self, transfer: bytes, stored: Deferred[Any]) -> None:
        """Wait until the other side has stored the file, or wants some of it again."""
        if transfer in self._rewinds or stored.called:
            return
        try:
            await self._expect(transfer, FILE_REWIND)
        finally:
            self._replies.pop((transfer, FILE_REWIND), None)

    def _expect(self, transfer: bytes, packet_id: int) -> Deferred[dict[str, Any]]:
        reply: Deferred[dict[str, Any]] = Deferred()
        self._replies[transfer, packet_id] = reply
        return reply

    def _forget(self, transfer: bytes) -> None:
        self._rewinds.pop(transfer, None)
        self._records.end_sending(transfer)
        for packet_id in (FILE_ANSWER, FILE_RESULT, FILE_REWIND):
            self._replies.pop((transfer, packet_id), None)

    def _cancel(self, transfer: bytes) -> None:
        self._forget(transfer)
        try:
            cancel = {"transfer": transfer, "reason": "the sender gave up"}
            self._protocol.sendPacket(FILE_CANCEL, cancel).addErrback(_ignore)
        except AbstError:
            # The session has ended, and the other side's transfers with it.
            self._records.commit()

    # Receiving.

    def packet_received(self, packet_id: int, content: dict[str, Any]) -> None:
        """Take one of the packets of files; it has been checked for its form."""
        transfer = content["transfer"]
        match packet_id:
            case _ if packet_id == FILE_OFFER:
                self._offered(transfer, content["name"], content["size"])
            case _ if transfer in self._finishing and packet_id in (FILE_PIECE, FILE_CANCEL):
                pass  # All of it is here, and another thread has it.
            case _ if packet_id == FILE_PIECE and transfer in self._arriving:
                self._piece(transfer, content["offset"], content["data"])
            case _ if packet_id == FILE_END and transfer in self._arriving:
                self._ended(transfer, content["sha256"])
            case _ if packet_id == FILE_CANCEL and transfer in self._arriving:
                self._drop(transfer)
            case _ if packet_id in (FILE_ANSWER, FILE_RESULT, FILE_REWIND):
                if packet_id == FILE_REWIND and (transfer, FILE_RESULT) in self._replies:
                    self._rewinds[transfer] = content["offset"]
                self._reply(transfer, packet_id, content)
                if packet_id == FILE_RESULT:
                    self._reply(transfer, FILE_REWIND, content)  # None will come any more.

    def _reply(self, transfer: bytes, packet_id: int, content: dict[str, Any]) -> None:
        reply = self._replies.get((transfer, packet_id))
        if reply is not None and not reply.called:
            reply.callback(content)

    def ended(self, problem: AbstError) -> None:
        """Drop every transfer, because the session is over."""
        for transfer in list(self._arriving):
            if transfer not in self._finishing:
                self._drop(transfer)
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.called:
                reply.errback(problem)

    def _offered(self, transfer: bytes, name: str, size: int) -> None:
        try:
            if transfer not in self._arriving:
                if len(self._arriving) >= MAX_ARRIVING_FILES:
                    raise StorageError("too many files at once")
                arriving = Arriving(transfer, name, size)
                self._arriving[transfer] = self._inbox.open_file(name, size, transfer)
                self._records.begin_arriving(self._device_id, arriving)
            elif self._arriving[transfer].size_bytes != size:
                raise StorageError("the file has changed since it was first offered")
        except StorageError as problem:
            self._say(FILE_ANSWER, transfer, accepted=False, offset=0, reason=_short(problem))
        else:
            offset = self._arriving[transfer].written_bytes
            self._say(FILE_ANSWER, transfer, accepted=True, offset=offset, reason="")

    def _open(self, arriving: Arriving) -> None:
        transfer = arriving.transfer
        try:
            self._arriving[transfer] = self._inbox.open_file(
                arriving.name, arriving.size_bytes, transfer
            )
        except StorageError as problem:
            self._refuse(transfer, problem)

    def _piece(self, transfer: bytes, offset: int, data: bytes) -> None:
        file = self._arriving[transfer]
        try:
            if not file.write(offset, data):
                self._rewind(transfer, file)
        except StorageError as problem:
            self._refuse(transfer, problem)

    def _rewind(self, transfer: bytes, file: ArrivingFile) -> None:
        self._say(FILE_REWIND, transfer, offset=file.written_bytes)

    def _ended(self, transfer: bytes, sha256: bytes) -> None:
        file = self._arriving[transfer]
        if transfer in self._finishing:
            return
        if file.written_bytes < file.size_bytes:
            self._rewind(transfer, file)
            return
        known = next(a for a in self._records.arriving(self._device_id) if a.transfer == transfer)
        self._records.begin_arriving(self._device_id, replace(known, sha256=sha256))
        self._finish(transfer, sha256)

    def _finish(self, transfer: bytes, sha256: bytes) -> None:
        """Store the file, in a thread: a disk can take long."""
        self._finishing.add(transfer)
        file = self._arriving[transfer]
        finished = self._in_thread(file.finish, sha256)
        finished.addBoth(self._finished, transfer, file.size_bytes, sha256)

    def _finished(
        self, result: Path | Failure, transfer: bytes, size_bytes: int, sha256: bytes
    ) -> None:
        self._finishing.discard(transfer)
        if isinstance(result, Failure):
            problem = result.value
            if not isinstance(problem, StorageError):
                self.log.failure("a file cannot be stored", result)
                problem = StorageError("the receiver cannot store it")
            self._refuse(transfer, problem)
            return
        self._arriving.pop(transfer, None)
        self._records.end_arriving(transfer)
        self._arrived(result, size_bytes, sha256)
        self._say(FILE_RESULT, transfer, stored=True, name=result.name, reason="")

    def _refuse(self, transfer: bytes, problem: StorageError) -> None:
        self._drop(transfer)
        self._say(FILE_RESULT, transfer, stored=False, name="", reason=_short(problem))

    def _drop(self, transfer: bytes) -> None:
        file = self._arriving.pop(transfer, None)
        self._records.end_arriving(transfer)
        if file is not None:
            file.discard()

    def _say(self, packet_id: int, transfer: bytes, **values: Any) -> None:
        try:
            said = self._protocol.sendPacket(packet_id, {"transfer": transfer, **values})
            said.addErrback(_ignore)
        except AbstError:
            # The session has ended: its commits are over, and nobody else's may come for long.
            self._records.commit()


def _ignore(failure: Failure) -> None:
    """Take a failure that somebody else is told of."""


def _ignore_all(underway: deque[tuple[int, Deferred[None]]]) -> None:
    """Forget what is under way: whoever sends is told elsewhere how it went."""
    while underway:
        underway.popleft()[1].addErrback(_ignore)


def _short(problem: AbstError) -> str:
    return str(problem)[:MAX_REASON_CHARACTERS]


def _check_unchanged(file: Any, sending: Sending) -> None:
    found = os.fstat(file.fileno())
    if (found.st_size, found.st_mtime_ns) != (sending.size_bytes, sending.modified_nanoseconds):
        raise TransferError(f"{sending.path}: it has changed since it was first offered")


def _open_regular(path: Path) -> Any:
    """Open a file for reading; a pipe or a device, which may never end, is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TransferError(f"{path}: not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)
