"""The journal of a draft: notes of what has come, which survive the agent.

Owns the file: notes are MessagePack maps, one after the other, and the first that is damaged is the
end of it. Nothing here knows what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

from abst import codec
from abst.errors import RemoteProtocolError

READ_BYTES: Final = 65536


class Journal:
    """One journal.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._pending = b""

    @property
    def is_open(self) -> bool:
        """Whether it can be written."""
        return self._descriptor >= 0

    def open(self, *, is_new: bool = False) -> None:
        """Open it, to write behind what is there.

        Raises:
            OSError: that is not possible.
        """
        flags = os.O_CREAT | os.O_EXCL if is_new else os.O_APPEND
        self._open(flags)

    def open_at(self, end: int) -> None:
        """Open it, and cut off what stands behind the last note that is good.

        Raises:
            OSError: that is not possible.
        """
        self._open(os.O_APPEND)
        os.ftruncate(self._descriptor, end)

    def note(self, **values: Any) -> None:
        """Add a note, which ``write`` writes."""
        self._pending += msgpack.packb(values)

    def write(self) -> None:
        """Write the notes that were added.

        Raises:
            OSError: the disk does not take them.
        """
        if self._pending:
            pending, self._pending = self._pending, b""
            os.write(self._descriptor, pending)

    def clear(self) -> None:
        """Remove all notes.

        Raises:
            OSError: that is not possible.
        """
        self._pending = b""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)

    def drop(self) -> None:
        """Forget the notes that were added and not written."""
        self._pending = b""

    def sync(self) -> None:
        """Wait until it is on the disk.

        Raises:
            OSError: the disk does not take it.
        """
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def notes(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the notes, each with where it ends, up to the first that is damaged.

        Raises:
            OSError: it cannot be read.
        """
        decoder = codec.Decoder()
        with open(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            try:
                while data := file.read(READ_BYTES):
                    decoder.receive_data(data)
                    while (note := decoder.next_map()) is not None:
                        yield note, decoder.consumed_bytes
            except RemoteProtocolError:
                return

    def _open(self, flags: int) -> None:
        self.close()
        flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
