"""What is sent of a file or a folder: found lazily, in an order that is always the same.

Owns the walk: each folder before what is in it, names in the order of their bytes. Nothing is
followed inside a folder, and what is neither a file nor a folder is passed over and told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from abst.agent.files.packets import (
    ENTRY,
    MAX_ENTRIES,
    MAX_NANOSECONDS,
    MAX_PATH_BYTES,
    MAX_PATH_PARTS,
    MAX_SIZE_BYTES,
    MODE_BITS,
    encode,
)
from abst.errors import AbstError

MAX_NAMED_SKIPPED: Final = 100
"""How many of those that are passed over are named; all are counted."""


class TransferError(AbstError):
    """A file or a folder did not get across.

    Attributes:
        reason: why, without its path.
    """

    def __init__(self, reason: str, path: str | Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Found:
    """A file or a folder as the walk has found it.

    Attributes:
        path: where it is.
        parts: its place below what is sent, as the other side is told; empty for that itself.
        status: what the disk says of it.
    """

    path: str
    parts: tuple[str, ...]
    status: os.stat_result

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def size_bytes(self) -> int:
        """Its size; a folder itself has none."""
        return 0 if self.is_folder else self.status.st_size

    def packet(self) -> bytes:
        """Return the packet Entry for it, which is the same as long as it has not changed."""
        modified = self.status.st_mtime_ns
        return encode(
            ENTRY,
            path=list(self.parts),
            folder=self.is_folder,
            size=self.size_bytes,
            mode=self.status.st_mode & MODE_BITS,
            modified=max(-MAX_NANOSECONDS, min(modified, MAX_NANOSECONDS)),
        )

    def open(self) -> int:
        """Return a descriptor for reading it.

        Raises:
            TransferError: it is no longer what was found.
            OSError: it cannot be read.
        """
        # Only what the person has named may be a link.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if self.parts else 0)
        descriptor = os.open(self.path, flags)
        try:
            self.check_unchanged(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check_unchanged(self, descriptor: int) -> None:
        """See whether an open file is still what was found.

        Raises:
            TransferError: it is not.
        """
        if _identity(os.fstat(descriptor)) != _identity(self.status):
            raise TransferError("it changed while it was sent", self.path)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (
        *(status.st_dev, status.st_ino, status.st_mode),
        *(status.st_size, status.st_mtime_ns),
    )


@dataclass(slots=True)
class Skipped:
    """What was passed over.

    Attributes:
        count: how many there were.
        paths: the first of them.
    """

    count: int = 0
    paths: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.paths) < MAX_NAMED_SKIPPED:
            self.paths.append(path)


@dataclass(frozen=True, slots=True)
class Survey:
    """How much there is to be sent.

    Attributes:
        is_folder: whether it is a folder.
        size_bytes: the bytes of all files in it.
        entries: how many files and folders, itself included.
        files: how many files.
        skipped: what is not sent.
    """

    is_folder: bool
    size_bytes: int
    entries: int
    files: int
    skipped: Skipped


def walk(path: Path, skip: Callable[[str], None] = lambda path: None) -> Iterator[Found]:
    """Yield a file, or a folder and everything in it.

    Args:
        path: what is sent; it may be a symbolic link, and what is in it may not.
        skip: called with the path of each that is passed over.

    Raises:
        TransferError: it cannot be sent.
        OSError: it cannot be read.
    """
    top = Found(str(path), (), os.stat(path))
    if not top.is_folder and not stat.S_ISREG(top.status.st_mode):
        raise TransferError("neither a file nor a folder", path)
    yield top
    if not top.is_folder:
        return
    waiting = [_sorted_names(top)]
    folders = [top]
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            folders.pop()
            continue
        folder = folders[-1]
        place = os.path.join(folder.path, name)
        status = os.lstat(place)
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            skip(place)
            continue
        found = Found(place, (*folder.parts, sendable_name(name)), status)
        if len(found.parts) > MAX_PATH_PARTS or _path_bytes(found.parts) > MAX_PATH_BYTES:
            raise TransferError(
                f"deeper than {MAX_PATH_PARTS} folders, or its path too long", place
            )
        yield found
        if found.is_folder:
            waiting.append(_sorted_names(found))
            folders.append(found)


def survey(path: Path) -> Survey:
    """Count what is to be sent.

    Raises:
        TransferError: it cannot be sent.
    """
    skipped = Skipped()
    is_folder = False
    size_bytes = entries = files = 0
    try:
        for found in walk(path, skipped.add):
            is_folder = is_folder or found.is_folder
            size_bytes += found.size_bytes
            files += not found.is_folder
            entries += 1
    except OSError as error:
        raise unreadable(error, path) from None
    if size_bytes > MAX_SIZE_BYTES or entries > MAX_ENTRIES:
        raise TransferError("more than one transfer can carry", path)
    return Survey(is_folder, size_bytes, entries, files, skipped)


def sendable_name(name: str) -> str:
    """Return a name of this disk as the other side is told it: a name need not be Unicode."""
    return name.encode("utf-8", "replace").decode("utf-8")


def unreadable(error: OSError, path: str | Path) -> TransferError:
    """Return a failure of this disk as one of a transfer."""
    return TransferError(error.strerror or "cannot be read", error.filename or path)


def _sorted_names(folder: Found) -> Iterator[str]:
    return iter(sorted(os.listdir(folder.path), key=os.fsencode))


def _path_bytes(parts: tuple[str, ...]) -> int:
    return sum(len(part.encode("utf-8")) + 1 for part in parts)
