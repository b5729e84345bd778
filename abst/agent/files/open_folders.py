"""The folders of a draft that are being filled, from the inbox down to the innermost.

Owns the way there: it is walked from the inbox each time, and no link is followed, whatever
somebody puts in its place meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from abst.errors import Code, RemoteProtocolError

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder inside a draft, or the draft itself.

    Attributes:
        encoded: the packet that announced it.
        name: its name on this disk.
        part: its name as the sender said it.
        size_bytes: its size.
        mode: its permissions.
        modified: when its content was last changed, in nanoseconds since 1970.
    """

    encoded: bytes
    name: str
    part: str
    size_bytes: int
    mode: int
    modified: int

    @classmethod
    def of(cls, packet: dict[str, Any], encoded: bytes, name: str) -> Entry:
        """Return what a packet Entry announces."""
        part = packet["path"][-1] if packet["path"] else ""
        return cls(encoded, name, part, packet["size"], packet["mode"], packet["modified"])

    def set_attributes(self, descriptor: int, needed_mode: int) -> None:
        """Give an open file or folder its permissions and its time.

        Args:
            descriptor: the file or folder.
            needed_mode: permissions that it has in any case.

        Raises:
            OSError: that is not possible.
        """
        os.fchmod(descriptor, self.mode & 0o777 | needed_mode)
        # A time that this file system does not know is no reason to lose the file.
        with contextlib.suppress(OSError, OverflowError):
            os.utime(descriptor, ns=(self.modified, self.modified))


class OpenFolders:
    """The folders of one draft that are not complete.

    Args:
        path: the inbox.

    Attributes:
        inbox: a descriptor of the inbox, or -1 while it is closed.
    """

    def __init__(self, path: Path) -> None:
        self.inbox = -1
        self._path = path
        self._entries: list[Entry] = []
        self._innermost = -1

    def open(self) -> None:
        """Open the inbox.

        Raises:
            OSError: that is not possible.
        """
        self.close()
        self.inbox = os.open(self._path, _FLAGS)

    def close(self) -> None:
        """Keep nothing open; where they are stays known."""
        self._close_innermost()
        if self.inbox >= 0:
            os.close(self.inbox)
            self.inbox = -1

    def forget(self) -> None:
        """Begin again in the inbox."""
        self._entries.clear()
        self._close_innermost()

    def innermost(self) -> int:
        """Return a descriptor of the folder that is being filled.

        Raises:
            OSError: it is not there any more.
        """
        if self._innermost < 0:
            self._innermost = self._walk()
        return self._innermost

    def make(self, entry: Entry, *, is_new: bool) -> None:
        """Make a folder in the innermost one, and go into it.

        Raises:
            OSError: that is not possible.
        """
        try:
            os.mkdir(entry.name, 0o700, dir_fd=self.innermost())
        except FileExistsError:
            if is_new:
                raise
        self._entries.append(entry)
        self._close_innermost()

    def leave(self, parts: list[str] | None) -> None:
        """Leave the folders that are complete.

        Args:
            parts: the way to the folder in which it goes on; None leaves all.

        Raises:
            RemoteProtocolError: that folder is not open.
            OSError: one of them is not there any more.
        """
        wanted = 0 if parts is None else len(parts) + 1
        inner = [entry.part for entry in self._entries[1:wanted]]
        if parts is not None and (len(self._entries) < wanted or inner != parts):
            raise RemoteProtocolError(Code.MALFORMED, "an entry outside of the open folders")
        while len(self._entries) > wanted:
            self._entries[-1].set_attributes(self.innermost(), 0o700)
            self._entries.pop()
            self._close_innermost()

    def _walk(self) -> int:
        descriptor = os.dup(self.inbox)
        for entry in self._entries:
            try:
                inner = os.open(entry.name, _FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    def _close_innermost(self) -> None:
        if self._innermost >= 0:
            os.close(self._innermost)
            self._innermost = -1
