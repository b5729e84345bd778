"""The inbox: files that arrive, under names that cannot harm, and the list of what arrived.

Owns the choice of a file's name on this disk, the temporary file under which it grows, and the
index of messages and files.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from abst.agent.home import Home
from abst.agent.records import Records
from abst.errors import AbstError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

PARTIAL_SUFFIX: Final = ".abst-partial"
MAX_NAME_BYTES: Final = 200
HASH_READ_BYTES: Final = 1024 * 1024
MAX_SAME_NAMES: Final = 10_000
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What ``os.link`` fails with on file systems that have none."""

SPARE_DISK_BYTES: Final = 16 * 1024 * 1024


class StorageError(AbstError):
    """A file cannot be stored here; the text may be told to its sender."""


def plain_name(name: str) -> str:
    """Return a name for a file that somebody else has named: one folder entry, nothing special.

    Only the last part of a path is kept; control characters, leading dots and dashes go, so that
    the name neither leaves the folder nor hides in it nor reads as an option.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(letter if letter.isprintable() else "_" for letter in last)
    # A surrogate comes from a name that was not Unicode on the sender's disk.
    shown = shown.encode("utf-8", "replace").decode("utf-8").strip().lstrip(".-~ ").rstrip(". ")
    while len(shown.encode("utf-8")) > MAX_NAME_BYTES:
        stem, dot, suffix = shown.rpartition(".")
        shown = f"{stem[:-1]}{dot}{suffix}" if stem and len(suffix) < 20 else shown[:-1]
    return shown.rstrip(". ") or "unnamed"


class ArrivingFile:
    """A file on its way into the inbox: written under a temporary name, hashed as it comes.

    Args:
        folder: the inbox.
        name: what the sender calls it.
        size_bytes: how large it is said to be.
        transfer: names the transfer; what has been written of it before is kept.

    Attributes:
        written_bytes: how much of it is here.

    Raises:
        StorageError: there is no room for it, or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, size_bytes: int, transfer: bytes) -> None:
        self.size_bytes = size_bytes
        self._folder = folder
        self._name = plain_name(name)
        self._hash = hashlib.sha256()
        self._hashed_bytes = 0
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._draft = folder / f".{transfer.hex()}{PARTIAL_SUFFIX}"
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self._draft, flags, 0o600), "rb+", buffering=0)
            self.written_bytes = min(self._file.seek(0, os.SEEK_END), size_bytes)
            self._file.seek(self.written_bytes)
            missing = size_bytes - self.written_bytes
            if shutil.disk_usage(folder).free < missing + SPARE_DISK_BYTES:
                self.discard()
                raise StorageError("the receiver's disk has no room for this file")
        except OSError as error:
            raise _storage_error(error) from None

    def write(self, offset: int, data: bytes) -> bool:
        """Add a piece; what is here already is skipped. False when bytes before it are missing.

        Raises:
            StorageError: the disk is full, or more comes than was said.
        """
        if offset > self.written_bytes:
            return False
        data = data[self.written_bytes - offset :]
        if self.written_bytes + len(data) > self.size_bytes:
            raise StorageError("more bytes came than the file was said to have")
        if self._hashed_bytes == self.written_bytes:
            self._hash.update(data)
            self._hashed_bytes += len(data)
        view = memoryview(data)
        try:
            while view:
                written = self._file.write(view) or 0
                self.written_bytes += written
                view = view[written:]
        except OSError as error:
            raise _storage_error(error) from None
        return True

    def finish(self, sha256: bytes) -> Path:
        """Give the file its name, which nothing else has, and return its path.

        May take long: it waits for the disk, and reads a file again that came in several parts.

        Raises:
            StorageError: the bytes are not those that the hash says.
        """
        try:
            if self._hashed_bytes != self.written_bytes:
                self._hash = hash_file(self._file, self.written_bytes)
                self._hashed_bytes = self.written_bytes
            if self.written_bytes != self.size_bytes or self._hash.digest() != sha256:
                raise StorageError("the file did not arrive as it was sent")
            self._file.truncate(self.size_bytes)
            os.fsync(self._file.fileno())
            self._file.close()
            path = self._link()
            self._draft.unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error) from None
        return path

    def close(self) -> None:
        """Leave what has been written for later."""
        with contextlib.suppress(OSError):
            self._file.close()

    def discard(self) -> None:
        """Remove what has been written."""
        self.close()
        with contextlib.suppress(OSError):
            self._draft.unlink()

    def _link(self) -> Path:
        stem, suffix = os.path.splitext(self._name)
        for number in range(MAX_SAME_NAMES):
            name = self._name if number == 0 else f"{stem} ({number}){suffix}"
            with contextlib.suppress(FileExistsError):
                self._give_name(self._folder / name)
                return self._folder / name
        raise StorageError("too many files of that name")

    def _give_name(self, path: Path) -> None:
        """Give the draft a second name, unless something has that name already."""
        try:
            # A link, unlike a rename, never replaces a file that is there.
            os.link(self._draft, path)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # This file system has no links, so the name is taken first, and then replaced.
            path.touch(0o600, exist_ok=False)
            os.replace(self._draft, path)


def hash_file(file: BinaryIO, size_bytes: int) -> Hash:
    """Return the SHA-256 of a file's first bytes; its position is behind them afterwards.

    Raises:
        OSError: the file cannot be read, or is shorter.
    """
    found = hashlib.sha256()
    file.seek(0)
    while size_bytes:
        data = file.read(min(size_bytes, HASH_READ_BYTES))
        if not data:
            raise OSError(errno.EIO, "the file is shorter than it was")
        found.update(data)
        size_bytes -= len(data)
    return found


def _storage_error(error: OSError) -> StorageError:
    return StorageError(f"the receiver cannot store it: {error.strerror}")


class Inbox:
    """What has arrived at a device.

    Attributes:
        records: the tables behind it.
    """

    def __init__(self, home: Home, records: Records) -> None:
        self._folder = home.inbox
        self.records = records

    def clean(self, device_ids: Collection[bytes]) -> None:
        """Remove what has been left of files that nobody is sending any more.

        Args:
            device_ids: the devices that this one still knows.
        """
        self.records.keep_only(device_ids)
        wanted = {f".{transfer.hex()}{PARTIAL_SUFFIX}" for transfer in self.records.all_arriving()}
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                name = path.name
                if name.startswith(".") and name.endswith(PARTIAL_SUFFIX) and name not in wanted:
                    path.unlink()

    def open_file(self, name: str, size_bytes: int, transfer: bytes) -> ArrivingFile:
        """Return an arriving file, with what has been written of it already.

        Raises:
            StorageError: there is no room for it, or the folder cannot be written.
        """
        return ArrivingFile(self._folder, name, size_bytes, transfer)

    def add(self, item: dict[str, Any]) -> dict[str, Any]:
        """Note something that arrived, with the time; return the whole entry.

        Raises:
            DatabaseError: the disk is full.
        """
        received_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {**item, "received_at": received_at}
        self.records.add_item(entry)
        return entry

    def items(self) -> list[dict[str, Any]]:
        """Return what has arrived, oldest first."""
        return list(self.records.items())
