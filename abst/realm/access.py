"""Who may use a realm (spec: access.md): everybody, who was invited, or who is on a list.

Pure. Owns every decision about devices and invitations; how long each is in force stands in
``decisions``. It knows no connections: ``Realm`` ends what a device has that may not be here any
more.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from string import ascii_lowercase
from typing import Final, NamedTuple

from abst.errors import AbstError, Code
from abst.realm.decisions import Decisions
from abst.realm.store.interface import AccessChange, DeviceRecord, Done, InvitationRecord, Store

TOKEN_BYTES: Final = 16
NAME_LETTERS: Final = 6
MAX_NOTE_CHARACTERS: Final = 200
MAX_DEVICES: Final = 100_000
"""How many devices may be on the list for invitations to let in more."""
MAX_INVITATIONS: Final = 10_000
DAY_SECONDS: Final = 86400


class Mode(StrEnum):
    """Which devices may be here; those that were revoked never may."""

    OPEN = "open"
    INVITED = "invited"
    LISTED = "listed"


_REFUSALS: Final = {
    Mode.OPEN: None,
    Mode.INVITED: Code.NOT_INVITED,
    Mode.LISTED: Code.NOT_LISTED,
}
"""What a device is told of which nothing is known."""

_NO_DIGEST: Final = bytes(32)


class Invitation(NamedTuple):
    """An invitation that has just been made.

    Attributes:
        text: the secret that is handed out; it is kept nowhere.
        record: what is kept.
    """

    text: str
    record: InvitationRecord


class Access:
    """Who may be here.

    Args:
        mode: who may.
        store: what lasts.
        wall: returns the seconds since 1970.
        random_bytes: returns that many unpredictable bytes.

    Attributes:
        mode: who may; changed by ``set_mode``.
        version: another number whenever somebody may not be here any more who might be here.
        own_devices: the realm's own, which may always be here and are counted nowhere.
        revoked: called with each device that may not be here any more.
        came: called with each device that an invitation has put on the list, once that is kept.
        not_kept: called with each that may not be here after all, since the store has failed.
        present: returns the devices that are here, or have anything here.
    """

    def __init__(
        self,
        mode: Mode,
        store: Store,
        wall: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.mode = mode
        self.version = 0
        self.own_devices: set[bytes] = set()
        self.revoked: Callable[[bytes], None] = _ignore
        self.came: Callable[[DeviceRecord], None] = _ignore
        self.not_kept: Callable[[bytes], None] = _ignore
        self.present: Callable[[], Iterable[bytes]] = tuple
        self._wall = wall
        self._random_bytes = random_bytes
        self._decisions = Decisions(store, self._undone)
        self._devices = self._decisions.devices
        self._invitations = self._decisions.invitations
        # The devices that the store was told of to be here today.
        self._noted_on = 0
        self._noted: set[bytes] = set()

    # Decisions.

    def refusal_of(self, device_id: bytes) -> Code | None:
        """Return why a device may not be here, or None when it may."""
        if device_id in self.own_devices:
            return None
        record = self._devices.get(device_id)
        if record is None:
            return _REFUSALS[self.mode]
        return None if record.is_allowed else Code.REVOKED

    def is_admitted(self, device_id: bytes) -> bool:
        """Tell whether a device may be here."""
        return self.refusal_of(device_id) is None

    def admit(self, device_id: bytes, invitation: str | None) -> Code | None:
        """Let a device in that has said Hello, and return None; or return why it may not be here.

        Where invitations are taken, a good one puts the device on the list.
        """
        refusal = self.refusal_of(device_id)
        if refusal is None:
            self._note_seen(device_id)
        elif refusal is Code.NOT_INVITED and invitation is not None:
            refusal = self._admit_by(device_id, invitation)
        return refusal

    def set_mode(self, mode: Mode) -> None:
        """Let other devices in from now on; who is here and may not be is reported."""
        self.mode = mode
        self.version += 1
        for device_id in tuple(self.present()):
            if not self.is_admitted(device_id):
                self.revoked(device_id)

    # The list.

    def devices(self) -> list[DeviceRecord]:
        """Return every device that was decided about, the oldest decision first."""
        return sorted(self._devices.values(), key=lambda record: (record.since, record.device))

    def count_devices(self) -> tuple[int, int]:
        """Return how many devices were allowed, and how many revoked."""
        allowed = sum(record.is_allowed for record in self._devices.values())
        return allowed, len(self._devices) - allowed

    def allow(self, device_id: bytes, note: str, done: Done) -> None:
        """Put a device on the list, also one that was revoked; without a note it keeps its own.

        Raises:
            ValueError: the note is too long, or no Unicode.
        """
        before = self._devices.get(device_id) or DeviceRecord(device_id, True, 0)
        note = _checked(note) or before.note
        record = DeviceRecord(device_id, True, self._now(), before.seen, "", note)
        self._decisions.decide(AccessChange((record,)), done)

    def revoke(self, device_id: bytes, done: Done) -> None:
        """Shut a device out, at once; it stays shut out when ``done`` hears that it is not kept."""
        before = self._devices.get(device_id) or DeviceRecord(device_id, False, 0)
        record = before._replace(is_allowed=False, since=self._now())
        self.version += 1
        self._decisions.decide(AccessChange((record,)), done)
        self.revoked(device_id)

    # Invitations.

    def invitations(self) -> list[InvitationRecord]:
        """Return the invitations that are good now, the oldest first."""
        now = self._wall()
        good = [record for record in self._invitations.values() if not _is_over(record, now)]
        return sorted(good, key=lambda record: (record.made, record.name))

    def invite(self, uses: int, expires: int | None, note: str, done: Done) -> Invitation:
        """Make an invitation; nobody should be told of it before ``done`` hears that it is kept.

        Args:
            uses: how many devices it lets in; 0 is any number.
            expires: from when on it is not good any more, in seconds since 1970; None for never.
            note: the operator's words.
            done: called once it is safe, or is not.

        Raises:
            ValueError: there is no such number, or the note is too long or no Unicode.
            AbstError: there are too many.
        """
        if uses < 0:
            raise ValueError("uses: 0 for any number, or how many")
        now = self._wall()
        over = [record.name for record in self._invitations.values() if _is_over(record, now)]
        if len(self._invitations) - len(over) >= MAX_INVITATIONS:
            raise AbstError(f"there are {MAX_INVITATIONS} invitations already; withdraw some")
        text = urlsafe_b64encode(self._random_bytes(TOKEN_BYTES)).decode().rstrip("=")
        record = InvitationRecord(
            self._new_name(), _digest_of(text), uses, int(now), expires, _checked(note)
        )
        self._decisions.decide(AccessChange((), (record,), over), done)
        return Invitation(text, record)

    def withdraw(self, name: str, done: Done) -> bool:
        """Let an invitation be good no more; False when there is none of that name.

        Who has come by it stays.
        """
        if name not in self._invitations:
            return False
        self._decisions.decide(AccessChange((), (), (name,)), done)
        return True

    def _admit_by(self, device_id: bytes, text: str) -> Code | None:
        invitation = self._find(text)
        if invitation is None:
            return Code.WRONG_INVITATION
        if len(self._devices) >= MAX_DEVICES:
            return Code.REALM_FULL
        record = DeviceRecord(
            device_id, True, self._now(), self._today(), invitation.name, invitation.note
        )
        if invitation.uses_left == 0:
            change = AccessChange((record,))
        elif invitation.uses_left == 1:
            change = AccessChange((record,), (), (invitation.name,))
        else:
            left = invitation._replace(uses_left=invitation.uses_left - 1)
            change = AccessChange((record,), (left,))
        self._decisions.decide(change, lambda is_kept: self.came(record) if is_kept else None)
        # A store that answers at once may have failed already.
        return self.refusal_of(device_id)

    def _find(self, text: str) -> InvitationRecord | None:
        """Return the invitation with this secret, if it is good.

        What is looked for is a hash, so how long that takes says nothing of any secret.
        """
        digest = _digest_of(text)
        record = self._decisions.invitation_with(digest)
        is_right = hmac.compare_digest(_NO_DIGEST if record is None else record.digest, digest)
        if record is None or not is_right or _is_over(record, self._wall()):
            return None
        return record

    def _new_name(self) -> str:
        while True:
            letters = (ascii_lowercase[byte % 26] for byte in self._random_bytes(NAME_LETTERS))
            name = "".join(letters)
            if name not in self._invitations:
                return name

    # What lasts.

    def _note_seen(self, device_id: bytes) -> None:
        record = self._devices.get(device_id)
        today = self._today()
        if record is None or record.seen >= today:
            return
        # A disk that does not take it is not asked with every heartbeat.
        if self._noted_on != today:
            self._noted_on = today
            self._noted.clear()
        if device_id not in self._noted:
            self._noted.add(device_id)
            self._decisions.decide(AccessChange((record._replace(seen=today),)), _ignore)

    def _undone(self, devices: Sequence[DeviceRecord]) -> None:
        """Report who was let in by what the store has not taken."""
        self.version += 1
        for record in devices:
            if record.is_allowed and not self.is_admitted(record.device):
                self.not_kept(record.device)

    def _now(self) -> int:
        return int(self._wall())

    def _today(self) -> int:
        return self._now() // DAY_SECONDS


def _is_over(record: InvitationRecord, now: float) -> bool:
    return record.expires is not None and now >= record.expires


def _digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _checked(note: str) -> str:
    if len(note) > MAX_NOTE_CHARACTERS:
        raise ValueError(f"note: at most {MAX_NOTE_CHARACTERS} characters")
    try:
        note.encode()
    except UnicodeEncodeError:
        # The store could not keep it, nor anything else of the same moment.
        raise ValueError("note: needs to be Unicode") from None
    return note


def _ignore(_: object) -> None:
    """Take an answer that nobody waits for."""
