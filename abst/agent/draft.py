"""One file or folder on its way into the inbox: written under a temporary name, hashed as it comes.

Owns the draft, ``.TRANSFER.abst-partial`` in the inbox, and its journal beside it, which says what
has come so far. The two survive the agent: after a restart they are read again once, and what does
not fit is begun anew. The draft gets its own name when all of it is here and on the disk, and never
takes the place of something else. Every path is walked from the inbox, and no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack

from abst import codec
from abst.agent.file_packets import BLOCK_BYTES
from abst.agent.inbox import StorageError, plain_name
from abst.errors import AbstError, Code, RemoteProtocolError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

PARTIAL_SUFFIX: Final = ".abst-partial"
JOURNAL_SUFFIX: Final = ".abst-journal"
SPARE_DISK_BYTES: Final = 16 * 1024 * 1024
MAX_SAME_NAMES: Final = 1000
READ_BYTES: Final = 65536

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""What ``os.link`` fails with on file systems that have none."""

_NAME_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class DamagedDraftError(AbstError):
    """What a journal says of a draft is not so: the transfer has to begin anew."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a sender says of an item before it comes.

    Attributes:
        transfer: names the transfer.
        device_id: the sender.
        name: what the sender calls it.
        is_folder: whether it is a folder.
        size_bytes: the bytes of all files in it.
        entries: how many files and folders, itself included.
    """

    transfer: bytes
    device_id: bytes
    name: str
    is_folder: bool
    size_bytes: int
    entries: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file or a folder inside the draft, or the draft itself."""

    encoded: bytes
    name: str
    part: str
    size_bytes: int
    mode: int
    modified: int


class Draft:
    """An item on its way in. Whoever uses it holds ``lock``: threads take turns.

    Args:
        folder: the inbox.
        offer: what is coming.

    Attributes:
        offer: what is coming.
        lock: held by the thread that uses it.
        owner: the stream that fills it, if any.
        is_read: False while nobody has looked at what an earlier process has left.
        entries: how many files and folders are complete.
        got_bytes: how many bytes of files are here.
        stored_as: the name it has, or is about to get, in the inbox.
        is_named: whether it has that name.
        sha256: the hash of the file, or of the list of what is in the folder, once it is whole.
    """

    def __init__(self, folder: Path, offer: Offer) -> None:
        self.offer = offer
        self.lock = threading.RLock()
        self.owner: object | None = None
        self.is_read = True
        self.stored_as = ""
        self.is_named = False
        self.sha256 = b""
        self._folder = folder
        name = offer.transfer.hex()
        self._draft_name = f".{name}{PARTIAL_SUFFIX}"
        self._journal_name = f".{name}{JOURNAL_SUFFIX}"
        self._inbox = self._journal = self._parent = self._file = -1
        self._pending = b""
        self._forget()

    def _forget(self) -> None:
        self.entries = 0
        self.got_bytes = 0
        self._heads = hashlib.sha256()
        self._folders: list[_Entry] = []
        self._entry: _Entry | None = None
        self._offset = 0
        self._hash: Hash = hashlib.sha256()
        self._unwritten: list[memoryview] = []
        self._unwritten_bytes = 0

    @property
    def offset(self) -> int:
        """How many bytes of the entry after the complete ones are here."""
        return self._offset if self._entry is not None else 0

    @property
    def heads(self) -> bytes:
        """The hash over the packets Entry of what is complete."""
        return self._heads.digest()

    # Beginning, leaving and coming back.

    @classmethod
    def begin(cls, folder: Path, offer: Offer) -> Draft:
        """Return a new draft; what an older one of that transfer has left is removed.

        Raises:
            StorageError: there is no room for it, or the inbox cannot be written.
        """
        draft = cls(folder, offer)
        with storing(), draft._discarded_on_failure():
            folder.mkdir(mode=0o700, exist_ok=True)
            draft._open_inbox()
            room = os.fstatvfs(draft._inbox)
            if room.f_bavail * room.f_frsize < offer.size_bytes + SPARE_DISK_BYTES:
                raise StorageError("the receiver's disk has no room for it")
            draft._remove()
            draft._open_journal(os.O_CREAT | os.O_EXCL)
            draft._pending = draft._head()
            draft._write_journal()
        return draft

    @classmethod
    def found(cls, folder: Path, journal_name: str) -> Draft:
        """Return the draft of which an earlier process has left a journal.

        Raises:
            DamagedDraftError: the journal is of no use.
        """
        notes = _notes(folder / journal_name)
        try:
            head, _ = next(notes, ({}, 0))
            second, _ = next(notes, ({}, 0))
            draft = cls(
                folder,
                Offer(
                    *(head["transfer"], head["device_id"], head["item"], head["folder"]),
                    *(head["size"], head["entries"]),
                ),
            )
            if "naming" in second:
                draft.stored_as, draft.sha256 = second["naming"], second["sha256"]
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedDraftError(f"{journal_name}: {error}") from None
        if draft._journal_name != journal_name:
            raise DamagedDraftError(f"{journal_name}: of another transfer")
        draft.is_read = False
        return draft

    def resume(self) -> None:
        """Open again what is on the disk, and read it when nobody has done so yet.

        Raises:
            DamagedDraftError: it is not as the journal says.
            StorageError: the inbox cannot be read.
        """
        try:
            if self._inbox < 0:
                self._open_inbox()
            if not self.is_read:
                self._read_again()
            elif self._journal < 0:
                self._open_journal(os.O_APPEND)
                if self._entry is not None:
                    self._open_file(self._entry.name)
                    self._hash_again_when_it_differs()
        except (DamagedDraftError, FileNotFoundError, NotADirectoryError) as error:
            self.discard()
            raise DamagedDraftError(str(error)) from None
        except OSError as error:
            self.suspend()
            raise storage_error(error) from None

    def suspend(self) -> None:
        """Leave it for later: nothing stays open."""
        with contextlib.suppress(OSError, StorageError):
            self._write_unwritten()
            self._write_journal()
        self._unwritten.clear()
        self._unwritten_bytes = 0
        for descriptor in (self._file, self._parent, self._journal, self._inbox):
            _close(descriptor)
        self._file = self._parent = self._journal = self._inbox = -1

    def discard(self) -> None:
        """Remove it, with its journal."""
        self._pending = b""
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self.suspend()
        with contextlib.suppress(OSError):
            self._open_inbox()
            self._remove()
        self.suspend()
        self._forget()

    # What comes.

    def enter(self, packet: dict[str, Any], encoded: bytes) -> None:
        """Begin with the next file or folder, or go on with the one that has begun.

        Raises:
            RemoteProtocolError: it cannot come here.
            StorageError: it cannot be written, or there is more than was said.
        """
        if self._entry is not None:
            if encoded != self._entry.encoded:
                raise StorageError("it has changed since it was first offered")
            return
        path, is_folder = packet["path"], packet["folder"]
        if not self.entries:
            if path or is_folder != self.offer.is_folder:
                raise RemoteProtocolError(Code.MALFORMED, "the first entry is the item itself")
        elif not path or not self.offer.is_folder:
            raise RemoteProtocolError(Code.MALFORMED, "an entry that is no part of the item")
        if self.entries >= self.offer.entries:
            raise StorageError("more files came than were said to come")
        if is_folder and packet["size"]:
            raise RemoteProtocolError(Code.MALFORMED, "a folder itself has no size")
        if self.got_bytes + packet["size"] > self.offer.size_bytes:
            raise StorageError("more bytes came than it was said to have")
        with storing():
            if path:
                self._leave_folders(path[:-1])
            name = self._free_name(plain_name(path[-1])) if path else self._draft_name
            # The journal knows of it before it is there, so what is there is always known.
            self._pending += _packed(entry=encoded, name=name)
            self._write_journal()
            self._make(_entry(packet, encoded, name), is_folder=is_folder, is_new=True)

    def receive(self, data: memoryview) -> None:
        """Take bytes of the file that has begun.

        Raises:
            RemoteProtocolError: none has begun.
            StorageError: they cannot be written, or there are more than was said.
        """
        if self._entry is None:
            raise RemoteProtocolError(Code.MALFORMED, "bytes of no file")
        if self._offset + self._unwritten_bytes + len(data) > self._entry.size_bytes:
            raise StorageError("more bytes came than the file was said to have")
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)
        if self._unwritten_bytes >= BLOCK_BYTES:
            self._write_unwritten()

    def end_entry(self, sha256: bytes) -> None:
        """Be done with a file.

        Raises:
            RemoteProtocolError: none has begun.
            StorageError: it is not what was sent.
        """
        if self._entry is None:
            raise RemoteProtocolError(Code.MALFORMED, "the end of no file")
        self._write_unwritten()
        if self._offset != self._entry.size_bytes or self._hash.digest() != sha256:
            raise StorageError("a file did not arrive as it was sent")
        with storing():
            # With the next note: to read the file again after a crash is no harm.
            self._pending += _packed(end=sha256)
            self._close_file()

    def end(self, sha256: bytes) -> None:
        """Be done with all of it.

        Raises:
            StorageError: it is not what was sent.
        """
        if self._entry is not None or self.entries != self.offer.entries:
            raise StorageError("fewer files came than were said to come")
        if self.got_bytes != self.offer.size_bytes:
            raise StorageError("fewer bytes came than it was said to have")
        if not self.offer.is_folder:
            self.sha256 = self._hash.digest()
        else:
            self.sha256 = self.heads
        if self.sha256 != sha256:
            raise StorageError("it did not arrive as it was sent")
        with storing():
            self._leave_folders(None)
            self._choose_name(plain_name(self.offer.name))

    def flush(self) -> None:
        """Write what waits in memory.

        Raises:
            StorageError: it cannot be written.
        """
        self._write_unwritten()
        with storing():
            self._write_journal()

    # Its name.

    def sync(self) -> None:
        """Wait until a file and its journal are on the disk.

        Raises:
            StorageError: the disk does not take them.
        """
        with storing():
            os.fsync(self._journal)
            descriptor = os.open(self._draft_name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._inbox)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def give_name(self) -> None:
        """Give it the name that was chosen, or the next one when something has that.

        Raises:
            StorageError: that is not possible.
        """
        with storing():
            if self._inbox < 0:
                self._open_inbox()
            for _ in range(MAX_SAME_NAMES):
                try:
                    self._rename(self.stored_as)
                    os.fsync(self._inbox)
                    self.is_named = True
                    return
                except OSError as error:
                    if error.errno not in _NAME_TAKEN:
                        raise
                self._choose_name(plain_name(self.offer.name))
                os.fsync(self._journal)
        raise StorageError("too many files of that name")

    def finish_naming(self) -> None:
        """Do again what an earlier process was about when it ended: give it its name.

        Raises:
            StorageError: that is not possible.
        """
        with storing():
            self._open_inbox()
            _close(self._journal)
            self._open_journal(os.O_APPEND)
            draft = _status(self._draft_name, self._inbox)
            if draft is None:
                self.is_named = True
                return
            there = _status(self.stored_as, self._inbox)
            if there is not None and there.st_ino == draft.st_ino:
                os.unlink(self._draft_name, dir_fd=self._inbox)
                self.is_named = True
                return
            if there is not None and self.offer.is_folder:
                # The name had been taken with an empty folder, and not yet been replaced.
                with contextlib.suppress(OSError):
                    os.rmdir(self.stored_as, dir_fd=self._inbox)
        self.give_name()

    def last_change(self) -> float:
        """Return when something was last written, in seconds since 1970."""
        changes = [0.0]
        for name in (self._draft_name, self._journal_name):
            with contextlib.suppress(OSError):
                changes.append((self._folder / name).lstat().st_mtime)
        return max(changes)

    def settle(self) -> None:
        """Forget how it came here: it is on record now that it is stored."""
        self.suspend()
        with contextlib.suppress(OSError):
            (self._folder / self._journal_name).unlink()

    @property
    def path(self) -> Path:
        """Where it stands in the inbox, once it has its name."""
        return self._folder / self.stored_as

    def _choose_name(self, plain: str) -> None:
        """Choose a name that nothing has, and note it in place of how it came here."""
        self.stored_as = self._free_name(plain, self._inbox)
        note = self._head() + _packed(naming=self.stored_as, sha256=self.sha256)
        self._pending = b""
        os.lseek(self._journal, 0, os.SEEK_SET)
        os.ftruncate(self._journal, 0)
        os.write(self._journal, note)

    def _rename(self, name: str) -> None:
        inbox = self._inbox
        if self.offer.is_folder:
            # A rename replaces no folder but an empty one, and that one is ours: made just now.
            os.mkdir(name, 0o700, dir_fd=inbox)
            os.rename(self._draft_name, name, src_dir_fd=inbox, dst_dir_fd=inbox)
            return
        try:
            # A link, unlike a rename, never replaces a file that is there.
            os.link(
                *(self._draft_name, name),
                src_dir_fd=inbox,
                dst_dir_fd=inbox,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # This file system has no links, so the name is taken first, and then replaced.
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=inbox))
            os.replace(self._draft_name, name, src_dir_fd=inbox, dst_dir_fd=inbox)
        else:
            os.unlink(self._draft_name, dir_fd=inbox)

    def _free_name(self, plain: str, folder: int | None = None) -> str:
        if folder is None:
            folder = self._parent_folder()
        stem, suffix = os.path.splitext(plain)
        for number in range(MAX_SAME_NAMES):
            name = f"{stem} ({number}){suffix}" if number else plain
            if _status(name, folder) is None:
                return name
        raise StorageError("too many files of that name")

    # Files and folders on the disk.

    def _make(self, entry: _Entry, *, is_folder: bool, is_new: bool) -> None:
        """Make a file or a folder in the open folder, and go into it."""
        if not is_folder:
            self._entry, self._offset, self._hash = entry, 0, hashlib.sha256()
            self._open_file(entry.name, os.O_CREAT | (os.O_EXCL if is_new else 0))
            return
        try:
            os.mkdir(entry.name, 0o700, dir_fd=self._parent_folder())
        except FileExistsError:
            if is_new:
                raise
        self._heads.update(entry.encoded)
        self.entries += 1
        self._folders.append(entry)
        self._close_parent()

    def _parent_folder(self) -> int:
        """Return a descriptor of the folder that is being filled."""
        if self._parent < 0:
            self._parent = self._open_folder(len(self._folders))
        return self._parent

    def _open_folder(self, depth: int) -> int:
        """Walk to one of the folders that are open, without a link."""
        descriptor = os.dup(self._inbox)
        for folder in self._folders[:depth]:
            try:
                inner = os.open(folder.name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    def _leave_folders(self, parts: list[str] | None) -> None:
        """Leave the folders that are complete; ``parts`` lead to the one in which it goes on."""
        wanted = 0 if parts is None else len(parts) + 1
        inner = [folder.part for folder in self._folders[1:wanted]]
        if parts is not None and (len(self._folders) < wanted or inner != parts):
            raise RemoteProtocolError(Code.MALFORMED, "an entry outside of the open folders")
        while len(self._folders) > wanted:
            descriptor = self._open_folder(len(self._folders))
            try:
                folder = self._folders.pop()
                _set_attributes(descriptor, folder.mode & 0o777 | 0o700, folder.modified)
            finally:
                os.close(descriptor)
            self._close_parent()

    def _open_file(self, name: str, flags: int = 0) -> None:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        folder = self._parent_folder()
        try:
            self._file = os.open(name, flags | os.O_RDWR, 0o600, dir_fd=folder)
        except PermissionError:
            # All of it was here already, and nobody may write to it.
            self._file = os.open(name, flags | os.O_RDONLY, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise DamagedDraftError("no file where one was")

    def _close_file(self) -> None:
        entry = self._entry
        assert entry is not None
        _set_attributes(self._file, entry.mode & 0o777 | 0o400, entry.modified)
        os.close(self._file)
        self._file = -1
        self._heads.update(entry.encoded)
        self.entries += 1
        self._entry = None

    def _write_unwritten(self) -> None:
        if not self._unwritten:
            return
        data = self._unwritten[0] if len(self._unwritten) == 1 else b"".join(self._unwritten)
        self._unwritten.clear()
        self._unwritten_bytes = 0
        with storing():
            view = memoryview(data)
            while view:
                written = os.write(self._file, view)
                # What is written is hashed, also when the disk takes no more.
                self._hash.update(view[:written])
                self._offset += written
                self.got_bytes += written
                view = view[written:]

    def _close_parent(self) -> None:
        _close(self._parent)
        self._parent = -1

    def _open_inbox(self) -> None:
        _close(self._inbox)
        self._inbox = os.open(self._folder, _FOLDER_FLAGS)

    # The journal.

    def _open_journal(self, flags: int) -> None:
        flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        self._journal = os.open(self._journal_name, flags, 0o600, dir_fd=self._inbox)

    def _head(self) -> bytes:
        offer = self.offer
        return _packed(
            transfer=offer.transfer,
            device_id=offer.device_id,
            item=offer.name,
            folder=offer.is_folder,
            size=offer.size_bytes,
            entries=offer.entries,
        )

    def _write_journal(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, b""
            os.write(self._journal, pending)

    def _read_again(self) -> None:
        """Look whether what is on the disk is what the journal says, and go on from there.

        Raises:
            DamagedDraftError: it is not.
        """
        self._forget()
        notes = _notes(self._folder / self._journal_name)
        end = 0
        for number, (note, note_end) in enumerate(notes):
            if number:
                self._play(note)
            end = note_end
        self._open_journal(0)
        os.ftruncate(self._journal, end)
        os.lseek(self._journal, end, os.SEEK_SET)
        if self._entry is not None:
            self._hash_again_when_it_differs()
        self.is_read = True

    def _play(self, note: dict[str, Any]) -> None:
        """Do what a note says once more, where nothing has to be written."""
        match note:
            case {"entry": bytes(encoded), "name": str(name)}:
                packet = codec.decode(encoded)
                path, is_folder = packet["path"], packet["folder"]
                if path:
                    self._leave_folders(path[:-1])
                self._make(_entry(packet, encoded, name), is_folder=is_folder, is_new=False)
            case {"end": bytes(sha256)}:
                self._hash_again_when_it_differs()
                if self._entry is None or self._hash.digest() != sha256:
                    raise DamagedDraftError("a file has changed")
                self._close_file()
            case _:
                raise DamagedDraftError("a note that nobody writes")

    def _hash_again_when_it_differs(self) -> None:
        """Read what is there of the open file, unless it is known."""
        if self._entry is None:
            raise DamagedDraftError("the end of no file")
        size = os.fstat(self._file).st_size
        if size > self._entry.size_bytes:
            raise DamagedDraftError("a file is larger than it can be")
        if size != self._offset:
            self.got_bytes += size - self._offset
            self._hash = hashlib.sha256()
            at = 0
            while at < size:
                data = os.pread(self._file, min(BLOCK_BYTES, size - at), at)
                if not data:
                    raise DamagedDraftError("a file has become shorter")
                self._hash.update(data)
                at += len(data)
            self._offset = size
        os.lseek(self._file, size, os.SEEK_SET)

    # The end of it.

    def _remove(self) -> None:
        remove(self._folder, self._draft_name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._journal_name, dir_fd=self._inbox)

    @contextlib.contextmanager
    def _discarded_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.discard()
            raise


def remove(folder: Path, name: str) -> None:
    """Remove a file or a folder from the inbox, when it is there; no link is followed."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Turn what a disk says into words for the sender."""
    try:
        yield
    except OSError as error:
        raise storage_error(error) from None


def storage_error(error: OSError) -> StorageError:
    """Return a failure of this disk in words for the sender."""
    return StorageError(f"the receiver cannot store it: {error.strerror}")


def _packed(**values: Any) -> bytes:
    packed: bytes = msgpack.packb(values)
    return packed


def _notes(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the notes of a journal, each with where it ends, up to the first that is damaged."""
    decoder = codec.Decoder()
    try:
        with open(path, "rb") as file:
            while data := file.read(READ_BYTES):
                decoder.receive_data(data)
                while (note := decoder.next_map()) is not None:
                    yield note, decoder.consumed_bytes
    except RemoteProtocolError:
        return
    except OSError as error:
        raise DamagedDraftError(str(error.strerror)) from None


def _entry(packet: dict[str, Any], encoded: bytes, name: str) -> _Entry:
    part = packet["path"][-1] if packet["path"] else ""
    return _Entry(encoded, name, part, packet["size"], packet["mode"], packet["modified"])


def _set_attributes(descriptor: int, mode: int, modified: int) -> None:
    os.fchmod(descriptor, mode)
    # A time that this file system does not know is no reason to lose the file.
    with contextlib.suppress(OSError, OverflowError):
        os.utime(descriptor, ns=(modified, modified))


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
