"""The inbox: files that arrive, under names that cannot harm, and the list of what arrived.

Owns the choice of a file's name on this disk, the temporary file under which it grows, and the
index of messages and files.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from abst.agent.home import Home
from abst.errors import AbstError

PARTIAL_SUFFIX: Final = ".abst-partial"
MAX_NAME_BYTES: Final = 200
MAX_INDEX_BYTES: Final = 1024 * 1024
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

    Attributes:
        size_bytes: how large it was said to be.
    """

    def __init__(self, folder: Path, name: str, size_bytes: int, transfer: bytes) -> None:
        self.size_bytes = size_bytes
        self._folder = folder
        self._name = plain_name(name)
        self._hash = hashlib.sha256()
        self._written = 0
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if shutil.disk_usage(folder).free < size_bytes + SPARE_DISK_BYTES:
                raise StorageError("the receiver's disk has no room for this file")
            self._draft = folder / f".{transfer.hex()}{PARTIAL_SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._draft, flags, 0o600), "wb", buffering=0)
        except OSError as error:
            raise _storage_error(error) from None

    def write(self, data: bytes) -> None:
        """Add the next piece.

        Raises:
            StorageError: the disk is full, or more comes than was said.
        """
        self._written += len(data)
        if self._written > self.size_bytes:
            raise StorageError("more bytes came than the file was said to have")
        self._hash.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            raise _storage_error(error) from None

    def finish(self, sha256: bytes) -> Path:
        """Give the file its name, which nothing else has, and return its path.

        Raises:
            StorageError: the bytes are not those that the hash says.
        """
        if self._written != self.size_bytes or self._hash.digest() != sha256:
            raise StorageError("the file did not arrive as it was sent")
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            path = self._link()
            self._draft.unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error) from None
        return path

    def discard(self) -> None:
        """Remove what has been written."""
        with contextlib.suppress(OSError):
            self._file.close()
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


def _storage_error(error: OSError) -> StorageError:
    return StorageError(f"the receiver cannot store it: {error.strerror}")


class Inbox:
    """What has arrived at a device."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.inbox
        self._index = home.inbox_index

    def clean(self) -> None:
        """Remove what an agent that was killed has left half written."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name.startswith(".") and path.name.endswith(PARTIAL_SUFFIX):
                    path.unlink()

    def begin_file(self, name: str, size_bytes: int, transfer: bytes) -> ArrivingFile:
        """Return a new arriving file.

        Raises:
            StorageError: there is no room for it, or the folder cannot be written.
        """
        return ArrivingFile(self._folder, name, size_bytes, transfer)

    def add(self, item: dict[str, Any]) -> dict[str, Any]:
        """Note something that arrived, with the time; return the whole entry.

        Raises:
            StorageError: the disk is full.
        """
        received_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {**item, "received_at": received_at}
        line = json.dumps(entry).encode() + b"\n"
        try:
            self._shorten()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            with os.fdopen(os.open(self._index, flags, 0o600), "r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                    # A crash has cut the last line short; it must not spoil this one.
                    line = b"\n" + line
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _storage_error(error) from None
        return entry

    def items(self) -> list[dict[str, Any]]:
        """Return what has arrived, oldest first."""
        found: list[dict[str, Any]] = []
        for path in (self._older(), self._index):
            with contextlib.suppress(OSError), path.open("rb") as file:
                for line in file:
                    # A line cut short by a crash is no item.
                    with contextlib.suppress(ValueError, RecursionError):
                        item = json.loads(line)
                        if isinstance(item, dict):
                            found.append(item)
        return found

    def _shorten(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._index.stat().st_size > MAX_INDEX_BYTES:
                os.replace(self._index, self._older())

    def _older(self) -> Path:
        return self._index.with_suffix(".1.jsonl")
