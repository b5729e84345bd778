"""One file or folder on its way into the inbox: written under a temporary name, as it comes.

Owns the draft, ``.TRANSFER.abst-partial`` in the inbox, and its journal beside it, which says what
has come so far. The two survive the agent: after a restart they are read again once, and what does
not fit is begun anew. Every path is walked from the inbox, and no link is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from abst import codec
from abst.agent.files.final_name import FinalName, choose_free
from abst.agent.files.foreign_names import inner_name
from abst.agent.files.journal import Journal
from abst.agent.files.offer import Offer
from abst.agent.files.open_file import OpenFile
from abst.agent.files.open_folders import Entry, OpenFolders
from abst.agent.files.storage import DamagedDraftError, StorageError, storage_error, storing
from abst.errors import Code, RemoteProtocolError

PARTIAL_SUFFIX: Final = ".abst-partial"
JOURNAL_SUFFIX: Final = ".abst-journal"
SPARE_DISK_BYTES: Final = 16 * 1024 * 1024

_DAMAGES: Final = (
    *(DamagedDraftError, RemoteProtocolError, KeyError, TypeError),
    *(FileNotFoundError, NotADirectoryError),
)
"""What comes of reading a draft that is not as its journal says."""


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
        name: the name that it gets in the inbox.
    """

    def __init__(self, folder: Path, offer: Offer) -> None:
        self.offer = offer
        self.lock = threading.RLock()
        self.owner: object | None = None
        self.is_read = True
        self._folder = folder
        name = offer.transfer.hex()
        self._draft_name = f".{name}{PARTIAL_SUFFIX}"
        self._journal_name = f".{name}{JOURNAL_SUFFIX}"
        self._journal = Journal(folder / self._journal_name)
        self._folders = OpenFolders(folder)
        self._file = OpenFile()
        self.name = FinalName(self._draft_name, offer, self._folders, self._journal)
        self._forget()

    def _forget(self) -> None:
        self.entries = 0
        self._complete_bytes = 0
        self._heads = hashlib.sha256()
        self._folders.forget()
        self._file.forget()

    @property
    def got_bytes(self) -> int:
        """How many bytes of files are here."""
        return self._complete_bytes + self._file.written_bytes

    @property
    def offset(self) -> int:
        """How many bytes of the entry after the complete ones are here."""
        return self._file.written_bytes

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
            draft._journal.note(**offer.note())
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
            draft = cls(folder, Offer.of_note(head))
            if "naming" in second:
                draft.name.chosen, draft.name.sha256 = second["naming"], second["sha256"]
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
                self._file.open(self._folders.innermost())
        except _DAMAGES as error:
            self.discard()
            raise DamagedDraftError(str(error)) from None
        except OSError as error:
            self.suspend()
            raise storage_error(error) from None

    def suspend(self) -> None:
        """Leave it for later: nothing stays open."""
        with contextlib.suppress(OSError, StorageError):
            self._file.write()
            self._journal.write()
        self._file.drop()
        self._file.close()
        self._journal.close()
        self._folders.close()

    def discard(self) -> None:
        """Remove it, with its journal."""
        self._journal.drop()
        self._file.drop()
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
        if self._file.entry is not None:
            if encoded != self._file.entry.encoded:
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
                name = choose_free(inner_name(path[-1]), self._folders.innermost())
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
        if self._file.entry is None:
            raise RemoteProtocolError(Code.MALFORMED, "bytes of no file")
        with storing():
            self._file.receive(data)

    def end_entry(self, sha256: bytes) -> None:
        """Be done with a file.

        Raises:
            RemoteProtocolError: none has begun.
            StorageError: it is not what was sent.
        """
        if self._file.entry is None:
            raise RemoteProtocolError(Code.MALFORMED, "the end of no file")
        with storing():
            self._file.write()
            size_bytes = self._file.written_bytes
            if size_bytes != self._file.entry.size_bytes or self._file.sha256 != sha256:
                raise StorageError("a file did not arrive as it was sent")
            # With the next note: to read the file again after a crash is no harm.
            self._journal.note(end=sha256)
            self._end_file()

    def end(self, sha256: bytes) -> None:
        """Be done with all of it.

        Raises:
            StorageError: it is not what was sent.
        """
        if self._file.entry is not None or self.entries != self.offer.entries:
            raise StorageError("fewer files came than were said to come")
        if self.got_bytes != self.offer.size_bytes:
            raise StorageError("fewer bytes came than it was said to have")
        if sha256 != (self.heads if self.offer.is_folder else self._file.sha256):
            raise StorageError("it did not arrive as it was sent")
        with storing():
            self._folders.leave(None)
            self.name.choose(sha256)

    def flush(self) -> None:
        """Write what waits in memory.

        Raises:
            StorageError: it cannot be written.
        """
        with storing():
            self._file.write()
            self._journal.write()

    # When all of it is here.

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

    @property
    def stored_as(self) -> str:
        """The name it has, or is about to get, in the inbox; empty before it is whole."""
        return self.name.chosen

    @property
    def sha256(self) -> bytes:
        """The hash of the file, or of the list of what is in the folder, once it is whole."""
        return self.name.sha256

    @property
    def path(self) -> Path:
        """Where it stands in the inbox, once it has its name."""
        return self._folder / self.stored_as

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

    # Files and folders on the disk.

    def _make(self, entry: Entry, *, is_folder: bool, is_new: bool) -> None:
        """Make a file or a folder in the open folder, and go into it."""
        if is_folder:
            self._folders.make(entry, is_new=is_new)
            self._complete(entry)
        else:
            self._file.begin(entry, self._folders.innermost(), is_new=is_new)

    def _end_file(self) -> None:
        size_bytes, entry = self._file.written_bytes, self._file.end()
        self._complete_bytes += size_bytes
        self._complete(entry)

    def _complete(self, entry: Entry) -> None:
        self._heads.update(entry.encoded)
        self.entries += 1

    # The journal.

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
        if self._file.entry is not None:
            self._file.hash_again_when_it_differs()
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
                self._file.hash_again_when_it_differs()
                if self._file.entry is None or self._file.sha256 != sha256:
                    raise DamagedDraftError("a file has changed")
                self._end_file()
            case _:
                raise DamagedDraftError("a note that nobody writes")

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
