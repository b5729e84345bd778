"""One file or folder on its way into the inbox: written under a temporary name, hashed as it comes.

Owns the draft, ``.TRANSFER.abst-partial`` in the inbox, and its journal beside it, which says what
has come so far. The two survive the agent: after a restart they are read again once, and what does
not fit is begun anew. The draft gets its own name when all of it is here and on the disk, and never
takes the place of something else. Every path is walked from the inbox, and no link is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from abst import codec
from abst.agent.file_packets import BLOCK_BYTES
from abst.agent.foreign_names import inner_name, item_name
from abst.agent.inbox import StorageError
from abst.agent.journal import Journal
from abst.agent.naming import MAX_SAME_NAMES, NAME_TAKEN, free_name, give_name, status
from abst.agent.open_folders import Entry, OpenFolders
from abst.errors import AbstError, Code, RemoteProtocolError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

PARTIAL_SUFFIX: Final = ".abst-partial"
JOURNAL_SUFFIX: Final = ".abst-journal"
SPARE_DISK_BYTES: Final = 16 * 1024 * 1024
MAX_PIECES: Final = 1024
"""How many pieces wait to be written by one call; Linux takes no more (IOV_MAX)."""


class DamagedDraftError(AbstError):
    """What a journal says of a draft is not so: the transfer has to begin anew."""


_DAMAGES: Final = (
    *(DamagedDraftError, RemoteProtocolError, KeyError, TypeError),
    *(FileNotFoundError, NotADirectoryError),
)
"""What comes of reading a draft that is not as its journal says."""


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
        self._journal = Journal(folder / self._journal_name)
        self._folders = OpenFolders(folder)
        self._file = -1
        self._forget()

    def _forget(self) -> None:
        self.entries = 0
        self.got_bytes = 0
        self._heads = hashlib.sha256()
        self._folders.forget()
        self._entry: Entry | None = None
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
            draft._folders.open()
            room = os.fstatvfs(draft._folders.inbox)
            if room.f_bavail * room.f_frsize < offer.size_bytes + SPARE_DISK_BYTES:
                raise StorageError("the receiver's disk has no room for it")
            draft._remove()
            draft._journal.open(is_new=True)
            draft._note_offer()
            draft._journal.write()
        return draft

    @classmethod
    def found(cls, folder: Path, journal_name: str) -> Draft:
        """Return the draft of which an earlier process has left a journal.

        Raises:
            DamagedDraftError: the journal is of no use.
        """
        notes = Journal(folder / journal_name).notes()
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
        except (OSError, KeyError, TypeError, AttributeError) as error:
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
            if self._folders.inbox < 0:
                self._folders.open()
            if not self.is_read:
                self._read_again()
            elif not self._journal.is_open:
                self._journal.open()
                if self._entry is not None:
                    self._open_file(self._entry.name)
                    self._hash_again_when_it_differs()
        except _DAMAGES as error:
            self.discard()
            raise DamagedDraftError(str(error)) from None
        except OSError as error:
            self.suspend()
            raise storage_error(error) from None

    def suspend(self) -> None:
        """Leave it for later: nothing stays open."""
        with contextlib.suppress(OSError, StorageError):
            self._write_unwritten()
            self._journal.write()
        self._unwritten.clear()
        self._unwritten_bytes = 0
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._journal.close()
        self._folders.close()

    def discard(self) -> None:
        """Remove it, with its journal."""
        self._journal.drop()
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self.suspend()
        with contextlib.suppress(OSError):
            self._remove()
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
                self._folders.leave(path[:-1])
            name = self._draft_name
            if path:
                name = _chosen(inner_name(path[-1]), self._folders.innermost())
            # The journal knows of it before it is there, so what is there is always known.
            self._journal.note(entry=encoded, name=name)
            self._journal.write()
            self._make(Entry.of(packet, encoded, name), is_folder=is_folder, is_new=True)

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
        if self._unwritten_bytes >= BLOCK_BYTES or len(self._unwritten) >= MAX_PIECES:
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
            self._journal.note(end=sha256)
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
            self._folders.leave(None)
            self._choose_name()

    def flush(self) -> None:
        """Write what waits in memory.

        Raises:
            StorageError: it cannot be written.
        """
        self._write_unwritten()
        with storing():
            self._journal.write()

    # Its name.

    def sync(self) -> None:
        """Wait until a file and its journal are on the disk.

        Raises:
            StorageError: the disk does not take them.
        """
        with storing():
            self._journal.sync()
            flags = os.O_RDONLY | os.O_NOFOLLOW
            descriptor = os.open(self._draft_name, flags, dir_fd=self._folders.inbox)
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
            for _ in range(MAX_SAME_NAMES):
                inbox = self._folders.inbox
                try:
                    give_name(
                        self._draft_name, self.stored_as, inbox, is_folder=self.offer.is_folder
                    )
                    os.fsync(inbox)
                    self.is_named = True
                    return
                except OSError as error:
                    if error.errno not in NAME_TAKEN:
                        raise
                self._choose_name()
                self._journal.sync()
        raise StorageError("too many files of that name")

    def finish_naming(self) -> None:
        """Do again what an earlier process was about when it ended: give it its name.

        Raises:
            StorageError: that is not possible.
        """
        with storing():
            self._folders.open()
            self._journal.open()
            inbox = self._folders.inbox
            draft = status(self._draft_name, inbox)
            if draft is None:
                self.is_named = True
                return
            there = status(self.stored_as, inbox)
            if there is not None and there.st_ino == draft.st_ino:
                os.unlink(self._draft_name, dir_fd=inbox)
                self.is_named = True
                return
            if there is not None and self.offer.is_folder:
                # The name had been taken with an empty folder, and not yet been replaced.
                with contextlib.suppress(OSError):
                    os.rmdir(self.stored_as, dir_fd=inbox)
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

    def _choose_name(self) -> None:
        """Choose a name that nothing has, and note it in place of how it came here."""
        self.stored_as = _chosen(item_name(self.offer.name), self._folders.inbox)
        self._journal.clear()
        self._note_offer()
        self._journal.note(naming=self.stored_as, sha256=self.sha256)
        self._journal.write()

    # Files and folders on the disk.

    def _make(self, entry: Entry, *, is_folder: bool, is_new: bool) -> None:
        """Make a file or a folder in the open folder, and go into it."""
        if not is_folder:
            self._entry, self._offset, self._hash = entry, 0, hashlib.sha256()
            self._open_file(entry.name, os.O_CREAT | (os.O_EXCL if is_new else 0))
            return
        self._folders.make(entry, is_new=is_new)
        self._heads.update(entry.encoded)
        self.entries += 1

    def _open_file(self, name: str, flags: int = 0) -> None:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        folder = self._folders.innermost()
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
        entry.set_attributes(self._file, 0o400)
        os.close(self._file)
        self._file = -1
        self._heads.update(entry.encoded)
        self.entries += 1
        self._entry = None

    def _write_unwritten(self) -> None:
        if not self._unwritten:
            return
        pieces, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        at = 0
        with storing():
            while at < len(pieces):
                written = os.writev(self._file, pieces[at:])
                self._offset += written
                self.got_bytes += written
                # What is written is hashed, also when the disk takes no more.
                while written:
                    piece = pieces[at][:written]
                    self._hash.update(piece)
                    written -= len(piece)
                    pieces[at] = pieces[at][len(piece) :]
                    at += not pieces[at]

    # The journal.

    def _note_offer(self) -> None:
        offer = self.offer
        self._journal.note(
            transfer=offer.transfer,
            device_id=offer.device_id,
            item=offer.name,
            folder=offer.is_folder,
            size=offer.size_bytes,
            entries=offer.entries,
        )

    def _read_again(self) -> None:
        """Look whether what is on the disk is what the journal says, and go on from there.

        Raises:
            DamagedDraftError: it is not.
        """
        self._forget()
        end = 0
        for number, (note, note_end) in enumerate(self._journal.notes()):
            if number:
                self._play(note)
            end = note_end
        self._journal.open_at(end)
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
                    self._folders.leave(path[:-1])
                self._make(Entry.of(packet, encoded, name), is_folder=is_folder, is_new=False)
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
        remove(self._folder, self._journal_name)

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


def _chosen(plain: str, folder: int) -> str:
    """Return a name that nothing in a folder has.

    Raises:
        StorageError: there are too many of that name.
    """
    name = free_name(plain, folder)
    if name is None:
        raise StorageError("too many files of that name")
    return name
