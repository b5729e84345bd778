"""The file of a draft that is being filled: written and hashed as its bytes come.

Owns that what is hashed is what is on the disk, also when somebody or a crash has changed that.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from abst.agent.files.open_folders import Entry
from abst.agent.files.packets import BLOCK_BYTES
from abst.agent.files.storage import DamagedDraftError, StorageError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

MAX_PIECES: Final = 1024
"""How many pieces wait to be written by one call; Linux takes no more (IOV_MAX)."""

_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OpenFile:
    """One file after the other.

    Attributes:
        entry: the file that has begun, if any.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        self.forget()

    def forget(self) -> None:
        """Know of no file any more."""
        self.entry: Entry | None = None
        self._written_bytes = 0
        self._hash: Hash = hashlib.sha256()
        self.drop()

    @property
    def written_bytes(self) -> int:
        """How many bytes of the file that has begun are here."""
        return self._written_bytes if self.entry is not None else 0

    @property
    def sha256(self) -> bytes:
        """The hash of what was written, also once the file is over."""
        return self._hash.digest()

    def begin(self, entry: Entry, folder: int, *, is_new: bool) -> None:
        """Make a file in a folder.

        Raises:
            OSError: that is not possible.
            DamagedDraftError: something else has its name.
        """
        self.entry, self._written_bytes, self._hash = entry, 0, hashlib.sha256()
        self._open(folder, os.O_CREAT | (os.O_EXCL if is_new else 0))

    def open(self, folder: int) -> None:
        """Open it again, if one has begun.

        Raises:
            OSError: that is not possible.
            DamagedDraftError: it is not what was written.
        """
        if self.entry is not None:
            self._open(folder)
            self.hash_again_when_it_differs()

    def receive(self, data: memoryview) -> None:
        """Take bytes of the file that has begun.

        Raises:
            OSError: they cannot be written.
            StorageError: there are more than was said.
        """
        assert self.entry is not None
        if self._written_bytes + self._unwritten_bytes + len(data) > self.entry.size_bytes:
            raise StorageError("more bytes came than the file was said to have")
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)
        if self._unwritten_bytes >= BLOCK_BYTES or len(self._unwritten) >= MAX_PIECES:
            self.write()

    def write(self) -> None:
        """Write what waits in memory.

        Raises:
            OSError: the disk does not take it.
        """
        pieces, at = self._unwritten, 0
        self.drop()
        while at < len(pieces):
            written = os.writev(self._descriptor, pieces[at:])
            self._written_bytes += written
            # What is written is hashed, also when the disk takes no more.
            while written:
                piece = pieces[at][:written]
                self._hash.update(piece)
                written -= len(piece)
                pieces[at] = pieces[at][len(piece) :]
                at += not pieces[at]

    def drop(self) -> None:
        """Forget what waits in memory."""
        self._unwritten: list[memoryview] = []
        self._unwritten_bytes = 0

    def end(self) -> Entry:
        """Be done with the file, and return what it is.

        Raises:
            OSError: it cannot get its permissions.
        """
        entry = self.entry
        assert entry is not None
        entry.set_attributes(self._descriptor, 0o400)
        self.close()
        self.entry = None
        return entry

    def close(self) -> None:
        """Keep nothing open; which file has begun stays known."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def hash_again_when_it_differs(self) -> None:
        """Read what is there of the file, unless it is known, and go on behind it.

        Raises:
            DamagedDraftError: it is not what was written.
            OSError: it cannot be read.
        """
        if self.entry is None:
            raise DamagedDraftError("the end of no file")
        size = os.fstat(self._descriptor).st_size
        if size > self.entry.size_bytes:
            raise DamagedDraftError("a file is larger than it can be")
        if size != self._written_bytes:
            self._hash = hashlib.sha256()
            at = 0
            while at < size:
                data = os.pread(self._descriptor, min(BLOCK_BYTES, size - at), at)
                if not data:
                    raise DamagedDraftError("a file has become shorter")
                self._hash.update(data)
                at += len(data)
            self._written_bytes = size
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def _open(self, folder: int, flags: int = 0) -> None:
        assert self.entry is not None
        name, flags = self.entry.name, flags | _FLAGS
        try:
            self._descriptor = os.open(name, flags | os.O_RDWR, 0o600, dir_fd=folder)
        except PermissionError:
            # All of it was here already, and nobody may write to it.
            self._descriptor = os.open(name, flags | os.O_RDONLY, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise DamagedDraftError("no file where one was")
