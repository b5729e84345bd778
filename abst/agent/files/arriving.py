"""What a stream of files says, turned into drafts; and what is answered (spec: agent.md, "Files").

Plain calls that wait for the disk: an adapter makes them in a thread, one after the other, and
gives each as much as has come.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from abst.agent.files.draft import Draft
from abst.agent.files.drafts import Drafts
from abst.agent.files.offer import Offer
from abst.agent.files.packets import (
    ALIVE,
    ASK,
    DROP,
    ENTRY,
    ENTRY_END,
    FROM_SENDER,
    GOT,
    ITEM,
    ITEM_END,
    MAX_REASON_CHARACTERS,
    MAX_UNFINISHED,
    REFUSED,
    STAND,
    Splitter,
    encode,
)
from abst.agent.files.storage import DamagedDraftError, StorageError
from abst.errors import AbstError, Code, RemoteProtocolError

MAX_SINGLE_SYNCS: Final = 4
"""With more files than these at once, waiting for the whole disk takes less time."""

NOTHING_YET: Final = sha256().digest()


@dataclass(slots=True)
class Outcome:
    """What has come of some bytes.

    Attributes:
        replies: what the sender is told.
        got: how much is here, which the sender need not hear each time.
        named: what is in the inbox now, and not on record yet.
        asked: the transfers that the sender asks for and no draft is of.
        problem: what the sender did wrong, so that nothing more can be read.
    """

    replies: bytearray = field(default_factory=bytearray)
    got: bytes = b""
    named: list[Draft] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    problem: AbstError | None = None


class Arriving:
    """One stream's files.

    Args:
        drafts: all drafts.
        device_id: the sender.
    """

    def __init__(self, drafts: Drafts, device_id: bytes) -> None:
        self._drafts = drafts
        self._device_id = device_id
        self._splitter = Splitter(FROM_SENDER)
        self._draft: Draft | None = None
        self._resumable: dict[bytes, Draft] = {}
        self._whole: list[Draft] = []
        self._got_bytes = 0

    def receive(self, chunks: list[bytes]) -> Outcome:
        """Take bytes as they came."""
        outcome = Outcome()
        try:
            # To copy once here costs less than to take each small piece through all that follows.
            for piece in self._splitter.receive_data(b"".join(chunks)):
                self._take(piece, outcome)
        except RemoteProtocolError as problem:
            self._refuse(problem, outcome)
            outcome.problem = problem
        except _ReplacedError as problem:
            self._draft = None
            outcome.problem = problem
        self._settle(outcome)
        return outcome

    def close(self) -> Outcome:
        """Leave for later what is not whole."""
        outcome = Outcome()
        if self._draft is not None:
            self._drafts.release(self._draft, self)
            self._draft = None
        for draft in self._resumable.values():
            self._drafts.release(draft, self)
        self._resumable.clear()
        return outcome

    def _take(self, piece: tuple[dict[str, Any], bytes] | memoryview, outcome: Outcome) -> None:
        try:
            if isinstance(piece, memoryview):
                self._bytes(piece)
            else:
                self._packet(*piece, outcome)
        except StorageError as problem:
            self._refuse(problem, outcome)

    def _bytes(self, piece: memoryview) -> None:
        draft = self._draft
        if draft is not None:
            with draft.lock:
                self._check_owner(draft)
                draft.receive(piece)

    def _packet(self, packet: dict[str, Any], encoded: bytes, outcome: Outcome) -> None:
        packet_id = packet["packet_id"]
        draft = self._draft
        if packet_id == ITEM:
            self._item(packet, outcome)
        elif packet_id == ASK:
            self._ask(packet["transfer"], outcome)
        elif packet_id == DROP:
            self._drop(packet["transfer"])
        elif packet_id == ALIVE or draft is None:
            pass  # What follows a refusal was on its way already.
        else:
            with draft.lock:
                self._check_owner(draft)
                self._fill(draft, packet_id, packet, encoded)

    def _fill(self, draft: Draft, packet_id: int, packet: dict[str, Any], encoded: bytes) -> None:
        if packet_id == ENTRY:
            draft.enter(packet, encoded)
        elif packet_id == ENTRY_END:
            draft.end_entry(packet["sha256"])
        elif packet_id == ITEM_END:
            draft.end(packet["sha256"])
            self._draft = None
            self._whole.append(draft)

    def _item(self, packet: dict[str, Any], outcome: Outcome) -> None:
        """Begin with an item, or go on with one."""
        if self._draft is not None:
            raise RemoteProtocolError(Code.MALFORMED, "an item inside another one")
        offer = Offer(
            *(packet["transfer"], self._device_id, packet["name"], packet["folder"]),
            *(packet["size"], packet["entries"]),
        )
        self._got_bytes = 0
        try:
            if packet["resumes"]:
                self._draft = self._resumable.pop(offer.transfer, None)
                if self._draft is None:
                    raise StorageError("what had arrived is not there any more")
                if self._draft.offer != offer:
                    raise StorageError("it has changed since it was first offered")
            else:
                self._draft = self._drafts.begin(offer, self)
        except StorageError as problem:
            if self._draft is not None:
                self._refuse(problem, outcome)
            else:
                self._say_refused(offer.transfer, problem, outcome)

    def _ask(self, transfer: bytes, outcome: Outcome) -> None:
        """Tell where a transfer stands."""
        draft = self._drafts.take(self._device_id, transfer, self)
        if draft is None:
            outcome.asked.append(transfer)
            return
        if len(self._resumable) >= MAX_UNFINISHED:
            raise RemoteProtocolError(Code.MALFORMED, "too many questions")
        with draft.lock:
            self._check_owner(draft)
            if draft.stored_as:
                self._name([draft], outcome)
                return
            try:
                draft.resume()
            except DamagedDraftError:
                self._drafts.discard(draft)
                outcome.replies += stand(transfer)
                return
            except StorageError as problem:
                self._drafts.discard(draft)
                self._say_refused(transfer, problem, outcome)
                return
            outcome.replies += stand(transfer, draft.entries, draft.offset, draft.heads)
        self._resumable[transfer] = draft

    def _drop(self, transfer: bytes) -> None:
        """Remove what the sender does not want to send any more."""
        draft = self._drafts.take(self._device_id, transfer, self)
        if draft is self._draft:
            self._draft = None
        self._resumable.pop(transfer, None)
        if draft is not None and not draft.stored_as:
            self._drafts.discard(draft)

    def _settle(self, outcome: Outcome) -> None:
        """Write what waits in memory, and give whole items their names."""
        whole, self._whole = self._whole, []
        self._name(whole, outcome)
        draft = self._draft
        if draft is None:
            return
        try:
            with draft.lock:
                self._check_owner(draft)
                draft.flush()
                got = draft.got_bytes
        except StorageError as problem:
            self._refuse(problem, outcome)
            return
        except _ReplacedError as problem:
            self._draft = None
            outcome.problem = problem
            return
        if got != self._got_bytes:
            self._got_bytes = got
            outcome.got = encode(GOT, transfer=draft.offer.transfer, size=got)

    def _name(self, whole: list[Draft], outcome: Outcome) -> None:
        """Wait until items are on the disk, and give them their names."""
        syncs_all = len(whole) > MAX_SINGLE_SYNCS or any(d.offer.is_folder for d in whole)
        if syncs_all:
            os.sync()
        for draft in whole:
            try:
                with draft.lock:
                    if not draft.name.is_given:
                        if not syncs_all:
                            draft.sync()
                        draft.name.give()
            except StorageError as problem:
                self._drafts.discard(draft)
                self._say_refused(draft.offer.transfer, problem, outcome)
            else:
                outcome.named.append(draft)

    def _check_owner(self, draft: Draft) -> None:
        if draft.owner is not self:
            raise _ReplacedError("another stream goes on with this transfer")

    def _refuse(self, problem: AbstError, outcome: Outcome) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            self._drafts.discard(draft)
            self._say_refused(draft.offer.transfer, problem, outcome)

    def _say_refused(self, transfer: bytes, problem: AbstError, outcome: Outcome) -> None:
        outcome.replies += refusal(transfer, problem)


class _ReplacedError(AbstError):
    """Another stream of the same device has taken what this one was filling."""


def stand(transfer: bytes, entries: int = 0, offset: int = 0, heads: bytes = NOTHING_YET) -> bytes:
    """Return a packet Stand."""
    return encode(STAND, transfer=transfer, entries=entries, offset=offset, sha256=heads)


def refusal(transfer: bytes, problem: AbstError) -> bytes:
    """Return a packet Refused."""
    return encode(REFUSED, transfer=transfer, reason=str(problem)[:MAX_REASON_CHARACTERS])
