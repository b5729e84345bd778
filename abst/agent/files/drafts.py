"""The drafts in the inbox: which there are, whose they are, and who is filling which.

Owns their number, and what becomes of those that an earlier process has left.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from abst.agent.files.draft import (
    JOURNAL_SUFFIX,
    PARTIAL_SUFFIX,
    Draft,
    remove,
)
from abst.agent.files.offer import Offer
from abst.agent.files.packets import MAX_UNFINISHED
from abst.agent.files.storage import DamagedDraftError, StorageError

MAX_IDLE_SECONDS: Final = 30 * 24 * 3600.0
"""How long the rest of a transfer may keep one waiting."""


class Drafts:
    """The drafts of one inbox; its methods may be called in any thread.

    Args:
        folder: the inbox.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._drafts: dict[bytes, Draft] = {}

    def recover(self, device_ids: Collection[bytes]) -> list[Draft]:
        """Find what an earlier process has left; return what it was about to call stored.

        Args:
            device_ids: the devices that this one still knows; what others have sent is removed.
        """
        with contextlib.suppress(OSError):
            names = sorted(path.name for path in self._folder.iterdir())
            for name in names:
                if name.startswith(".") and name.endswith(JOURNAL_SUFFIX):
                    self._recover_one(name, device_ids)
            wanted = {f".{transfer.hex()}{PARTIAL_SUFFIX}" for transfer in self._drafts}
            for name in names:
                if name.startswith(".") and name.endswith(PARTIAL_SUFFIX) and name not in wanted:
                    remove(self._folder, name)
        return [draft for draft in list(self._drafts.values()) if draft.name.is_given]

    def _recover_one(self, journal_name: str, device_ids: Collection[bytes]) -> None:
        try:
            draft = Draft.found(self._folder, journal_name)
            if draft.stored_as:
                draft.name.finish()
            elif draft.offer.device_id not in device_ids or self._is_idle(draft):
                draft.discard()
                return
        except (DamagedDraftError, StorageError):
            remove(self._folder, journal_name)
            return
        self._drafts[draft.offer.transfer] = draft

    def _is_idle(self, draft: Draft) -> bool:
        return draft.last_change() < time.time() - MAX_IDLE_SECONDS

    def unfinished(self, device_id: bytes) -> list[bytes]:
        """Return the transfers from a device that are not over."""
        with self._lock:
            found = self._unfinished(device_id)
        return [draft.offer.transfer for draft in found[:MAX_UNFINISHED]]

    def _unfinished(self, device_id: bytes) -> list[Draft]:
        return [
            draft
            for draft in self._drafts.values()
            if draft.offer.device_id == device_id and not draft.stored_as
        ]

    def begin(self, offer: Offer, owner: object) -> Draft:
        """Return a new draft; the device's oldest gives way when it has left too many.

        Raises:
            StorageError: there is no room for it, or the device fills too many.
        """
        with self._lock:
            known = self._drafts.get(offer.transfer)
            theirs = self._unfinished(offer.device_id)
            waiting = [draft for draft in theirs if draft.owner is None]
        if known is not None and known.offer.device_id != offer.device_id:
            raise StorageError("this transfer is another device's")
        if known is not None:
            self.discard(known)
        elif len(theirs) >= MAX_UNFINISHED:
            if not waiting:
                raise StorageError("too many transfers at once")
            self.discard(waiting[0])
        draft = Draft.begin(self._folder, offer)
        draft.owner = owner
        with self._lock:
            self._drafts[offer.transfer] = draft
        return draft

    def take(self, device_id: bytes, transfer: bytes, owner: object) -> Draft | None:
        """Return a device's draft, which no other stream fills from now on; None: there is none."""
        with self._lock:
            draft = self._drafts.get(transfer)
        if draft is None or draft.offer.device_id != device_id:
            return None
        with draft.lock:
            draft.owner = owner
        return draft

    def release(self, draft: Draft, owner: object) -> None:
        """Leave a draft for later, unless another stream has taken it."""
        with draft.lock:
            if draft.owner is owner:
                draft.owner = None
                draft.suspend()

    def discard(self, draft: Draft) -> None:
        """Remove a draft, whoever fills it."""
        with draft.lock:
            draft.owner = None
            draft.discard()
        self._forget(draft)

    def discard_from(self, device_id: bytes) -> None:
        """Remove what a device has not finished."""
        for transfer in self.unfinished(device_id):
            draft = self._drafts.get(transfer)
            if draft is not None and not draft.stored_as:
                self.discard(draft)

    def settle(self, draft: Draft) -> None:
        """Forget a draft that is in the inbox and on record."""
        with draft.lock:
            draft.settle()
        self._forget(draft)

    def _forget(self, draft: Draft) -> None:
        with self._lock:
            if self._drafts.get(draft.offer.transfer) is draft:
                del self._drafts[draft.offer.transfer]
