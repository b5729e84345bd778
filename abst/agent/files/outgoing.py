"""A file or a folder turned into the bytes of a stream (spec: agent.md, "Files").

Plain calls that wait for the disk: an adapter makes them in a thread, one after the other. Each
returns about a block; the bytes are hashed as they pass, and read once.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256 as new_hash
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abst.agent.files.packets import (
    BLOCK_BYTES,
    BYTES,
    DROP,
    ENTRY_END,
    ITEM,
    ITEM_END,
    MAX_NAME_CHARACTERS,
    MAX_REASON_CHARACTERS,
    encode,
)
from abst.agent.files.tree import Found, Survey, TransferError, sendable_name, unreadable, walk

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

READ_BYTES: Final = 256 * 1024
"""How much is read at once. Larger pieces come from the system anew each time, page by page."""

SNAPSHOTS: Final = 64
"""How many hashes of beginnings are kept: more blocks than can be on their way."""

Pieces = list[bytes]


@dataclass(frozen=True, slots=True)
class Stand:
    """Where the receiver stands.

    Attributes:
        entries: how many files and folders it has.
        offset: how many bytes of the next one.
        heads: the hash over the packets Entry of those that it has.
    """

    entries: int
    offset: int
    heads: bytes


@dataclass(slots=True, eq=False)
class Item:
    """One file or folder on its way out.

    Attributes:
        transfer: names the transfer.
        path: where it is.
        survey: how much it is; None before anybody has looked.
        is_offered: whether the other side may know of it.
        stand: where the receiver stood when the stream began.
        got_bytes: how many bytes the receiver is known to have.
        is_over: nothing more of it is to be sent.
        sha256: its hash, once all of it was read; None for a folder.
    """

    transfer: bytes
    path: Path
    survey: Survey | None = None
    is_offered: bool = False
    stand: Stand | None = None
    got_bytes: int = 0
    is_over: bool = False
    sha256: bytes | None = None
    _snapshots: deque[tuple[int, int, Hash]] = field(
        default_factory=lambda: deque(maxlen=SNAPSHOTS)
    )

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.path.name or str(self.path)

    @property
    def size_bytes(self) -> int:
        """The bytes of all files in it."""
        return 0 if self.survey is None else self.survey.size_bytes

    def hash_at(self, descriptor: int, entry: int, offset: int) -> Hash:
        """Return the hash of a file's first bytes, reading as few of them as possible.

        Args:
            descriptor: the file.
            entry: which one of the item's it is.
            offset: how many bytes.
        """
        known = [(at, found) for n, at, found in self._snapshots if n == entry and at <= offset]
        at, hashed = max(known, key=lambda pair: pair[0], default=(0, new_hash()))
        hashed = hashed.copy()
        while at < offset:
            data = os.pread(descriptor, min(BLOCK_BYTES, offset - at), at)
            if not data:
                raise TransferError("it became shorter while it was sent", self.path)
            hashed.update(data)
            at += len(data)
        return hashed

    def keep_hash(self, entry: int, offset: int, hashed: Hash) -> None:
        """Keep the hash of a file's first bytes, in case the stream breaks."""
        self._snapshots.append((entry, offset, hashed.copy()))


@dataclass(slots=True)
class Block:
    """What is to be written next.

    Attributes:
        pieces: bytes.
        failed: the items that cannot be sent, and why.
    """

    pieces: Pieces = field(default_factory=list)
    failed: list[tuple[Item, TransferError]] = field(default_factory=list)


class Outgoing:
    """The items of one stream, one after the other."""

    def __init__(self) -> None:
        self._queue: deque[Item] = deque()
        self._current: tuple[Item, Iterator[Pieces]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether everything has been read."""
        return not self._queue and self._current is None

    def add(self, item: Item) -> None:
        """Send an item after the others."""
        self._queue.append(item)

    def read(self) -> Block:
        """Return about a block of bytes, and fewer only when there is nothing more."""
        block, size = Block(), 0
        while size < BLOCK_BYTES:
            if self._current is None:
                if not self._queue:
                    break
                item = self._queue.popleft()
                self._current = item, _packets(item)
            item, packets = self._current
            pieces: Pieces | None = None
            try:
                pieces = None if item.is_over else next(packets, None)
            except TransferError as problem:
                block.failed.append((item, problem))
            except OSError as error:
                block.failed.append((item, unreadable(error, item.path)))
            if pieces is None:
                self._current = None
                packets.close()  # type: ignore[attr-defined]
                continue
            block.pieces += pieces
            size += sum(map(len, pieces))
        for item, why in block.failed:
            block.pieces.append(drop(item, why.reason))
        return block


def drop(item: Item, reason: str) -> bytes:
    """Return the packet that gives an item up."""
    return encode(DROP, transfer=item.transfer, reason=reason[:MAX_REASON_CHARACTERS])


def _packets(item: Item) -> Iterator[Pieces]:
    """Yield everything that is said of an item; what stands together goes out together."""
    survey, stand = item.survey, item.stand
    assert survey is not None
    resumes = stand is not None and (stand.entries > 0 or stand.offset > 0)
    offer = encode(
        ITEM,
        transfer=item.transfer,
        name=sendable_name(item.name)[:MAX_NAME_CHARACTERS],
        folder=survey.is_folder,
        size=survey.size_bytes,
        entries=survey.entries,
        resumes=resumes,
    )
    if stand is None or not resumes:
        stand = Stand(0, 0, b"")
    heads = new_hash()
    entries = size_bytes = 0
    is_begun = False
    for found in walk(item.path):
        packet = found.packet()
        size_bytes += found.size_bytes
        if entries == stand.entries and not is_begun:
            if entries and heads.digest() != stand.heads:
                break
            is_begun = True
            yield [offer]
        if is_begun:
            offset = stand.offset if entries == stand.entries else 0
            if size_bytes > survey.size_bytes or entries >= survey.entries:
                raise TransferError("it changed while it was sent", item.path)
            yield from _entry(item, found, packet, entries, offset)
        heads.update(packet)
        entries += 1
    if not is_begun and entries == stand.entries and heads.digest() == stand.heads:
        is_begun = True
        yield [offer]
    if not is_begun:
        raise TransferError("it has changed since it was first offered", item.path)
    if (entries, size_bytes) != (survey.entries, survey.size_bytes):
        raise TransferError("it changed while it was sent", item.path)
    if not survey.is_folder and item.sha256 is None:
        # All of it had arrived before, so nobody has read it in this run.
        item.sha256 = _whole_hash(item)
    whole = heads.digest() if survey.is_folder else item.sha256
    yield [encode(ITEM_END, sha256=whole)]


def _entry(item: Item, found: Found, packet: bytes, number: int, offset: int) -> Iterator[Pieces]:
    if found.is_folder:
        yield [packet]
        return
    descriptor = found.open()
    try:
        hashed = item.hash_at(descriptor, number, offset)
        size = found.size_bytes
        pieces = [packet]
        while offset < size:
            data = os.pread(descriptor, min(READ_BYTES, size - offset), offset)
            if not data:
                raise TransferError("it became shorter while it was sent", found.path)
            hashed.update(data)
            offset += len(data)
            if not offset % BLOCK_BYTES:
                item.keep_hash(number, offset, hashed)
            pieces += (encode(BYTES, length=len(data)), data)
            if offset < size:
                yield pieces
                pieces = []
        found.check_unchanged(descriptor)
    finally:
        os.close(descriptor)
    digest = hashed.digest()
    if not found.parts:
        item.sha256 = digest
    yield [*pieces, encode(ENTRY_END, sha256=digest)]


def _whole_hash(item: Item) -> bytes:
    with open(item.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
