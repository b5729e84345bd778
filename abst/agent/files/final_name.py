"""The name that a draft gets in the inbox, once all of it is here and on the disk.

Owns that it is noted before it is given, so that a crash between the two neither loses the item nor
stores it twice; and that it never takes the place of something else.
"""

from __future__ import annotations

import contextlib
import os

from abst.agent.files.foreign_names import item_name
from abst.agent.files.journal import Journal
from abst.agent.files.naming import MAX_SAME_NAMES, NAME_TAKEN, free_name, give_name, status
from abst.agent.files.offer import Offer
from abst.agent.files.open_folders import OpenFolders
from abst.agent.files.storage import StorageError, storing


class FinalName:
    """The name of one draft.

    Args:
        draft_name: the draft's own name.
        offer: what it is a draft of.
        folders: knows the inbox.
        journal: the draft's.

    Attributes:
        chosen: the name; empty before there is one.
        is_given: whether the item has it.
        sha256: the hash of the file, or of the list of what is in the folder, noted with it.
    """

    def __init__(
        self, draft_name: str, offer: Offer, folders: OpenFolders, journal: Journal
    ) -> None:
        self.chosen = ""
        self.is_given = False
        self.sha256 = b""
        self._draft_name = draft_name
        self._offer = offer
        self._folders = folders
        self._journal = journal

    def choose(self, sha256: bytes) -> None:
        """Choose a name that nothing has, and note it in place of how the item came here.

        Raises:
            OSError: it cannot be noted.
            StorageError: there are too many of that name.
        """
        self.sha256 = sha256
        self.chosen = choose_free(item_name(self._offer.name), self._folders.inbox)
        self._journal.clear()
        self._journal.note(**self._offer.note())
        self._journal.note(naming=self.chosen, sha256=sha256)
        self._journal.write()

    def give(self) -> None:
        """Give it the name that was chosen, or the next one when something has that.

        Raises:
            StorageError: that is not possible.
        """
        with storing():
            for _ in range(MAX_SAME_NAMES):
                inbox = self._folders.inbox
                try:
                    give_name(self._draft_name, self.chosen, inbox, is_folder=self._offer.is_folder)
                    os.fsync(inbox)
                    self.is_given = True
                    return
                except OSError as error:
                    if error.errno not in NAME_TAKEN:
                        raise
                self.choose(self.sha256)
                self._journal.sync()
        raise StorageError("too many files of that name")

    def finish(self) -> None:
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
                self.is_given = True
                return
            there = status(self.chosen, inbox)
            if there is not None and there.st_ino == draft.st_ino:
                os.unlink(self._draft_name, dir_fd=inbox)
                self.is_given = True
                return
            if there is not None and self._offer.is_folder:
                # The name had been taken with an empty folder, and not yet been replaced.
                with contextlib.suppress(OSError):
                    os.rmdir(self.chosen, dir_fd=inbox)
        self.give()


def choose_free(plain: str, folder: int) -> str:
    """Return a name that nothing in a folder has.

    Raises:
        StorageError: there are too many of that name.
    """
    name = free_name(plain, folder)
    if name is None:
        raise StorageError("too many files of that name")
    return name
