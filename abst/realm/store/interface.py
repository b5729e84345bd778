"""What a realm keeps over restarts: a narrow interface, behind which any engine can stand.

Pure. A store is a log: it decides nothing, knows no packets and no clocks, and takes what it is
given. What is asked for is done in that order, and answered in that order, after everything that
came before is safe. When anything fails, everything about the same group that was asked for and is
not answered yet fails with it: whoever asked has built one thing on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

Done = Callable[[bool], None]
"""Called with True once it is safe, with False when it is not and never will be."""

Forgotten = Callable[[Sequence[bytes] | None], None]

MAX_REVISION: Final = 2**42 - 1
"""Of a group's changes."""

CHANGE_BYTES: Final = 160
"""What a change that is kept takes on the disk, beside its sealed value."""


class GroupRecord(NamedTuple):
    """A peer group as the realm knows it.

    Attributes:
        group: its ID.
        epoch: the number of its present epoch.
        key: the raw public key of that epoch.
        maker: the device ID of the device that has made it.
        used: the day, since 1970, on which a device was last known to have joined it.
    """

    group: bytes
    epoch: int
    key: bytes
    maker: bytes
    used: int = 0


class Change(NamedTuple):
    """A change of a group's values (spec: values.md, "Changes").

    Attributes:
        revision: its number.
        name: what the realm sees of the name.
        digest: SHA-256 of the sealed value, zero bytes when the value's time was over.
        head: the hash of the history after it.
        sealed: the sealed value; None when there is none, or it need not be kept any more.
        deleted: whether the sealed value says that the name was deleted.
        due: when the value's time is over, in milliseconds since 1970; None for never.
    """

    revision: int
    name: bytes
    digest: bytes
    head: bytes
    sealed: bytes | None
    deleted: bool = False
    due: int | None = None


class Outline(NamedTuple):
    """What of a change has to be in memory: the same, with a size in place of the bytes."""

    revision: int
    name: bytes
    size: int | None
    deleted: bool
    due: int | None


class History(NamedTuple):
    """What is kept of a group's changes.

    Attributes:
        head: the hash after the newest change, zero bytes when there is none.
        floor: the revision up to which changes are forgotten, but for the last of each name.
        outlines: in rising order of revisions; the last is the newest change.
    """

    head: bytes
    floor: int
    outlines: Sequence[Outline]


class Addition(NamedTuple):
    """New changes of one group, and what may go with that; all of it is done, or nothing.

    Attributes:
        group: the group's ID.
        changes: in order, from the revision after the newest one on.
        stored_bytes: how much is kept of the group afterwards (see ``CHANGE_BYTES``).
        emptied: revisions whose sealed values need not be kept any more.
        forgotten: changes that need not be kept any more, as pairs of first and last revision.
        floor: the new floor, or None when it stays; its change is still there.
    """

    group: bytes
    changes: Sequence[Change]
    stored_bytes: int
    emptied: Sequence[int] = ()
    forgotten: Sequence[tuple[int, int]] = ()
    floor: int | None = None


class Page(NamedTuple):
    """Changes as they are kept, with what is forgotten at that time.

    Attributes:
        changes: in rising order of revisions. What a later change has replaced may have its sealed
            value still.
        floor: the revision up to which changes are forgotten, but for the last of each name.
        floor_head: the hash of the history up to there.
    """

    changes: Sequence[Change]
    floor: int
    floor_head: bytes


class DeviceRecord(NamedTuple):
    """A device that the operator, or an invitation, has decided about (spec: access.md).

    Attributes:
        device: its ID.
        is_allowed: whether it may be here; False: it was revoked.
        since: when that was decided, in seconds since 1970.
        seen: the day, since 1970, on which it was last here; 0 when it never was.
        invitation: the name of the invitation that it came by, "" for none.
        note: the operator's words.
    """

    device: bytes
    is_allowed: bool
    since: int
    seen: int = 0
    invitation: str = ""
    note: str = ""


class InvitationRecord(NamedTuple):
    """An invitation that may still be used (spec: access.md).

    Attributes:
        name: what the operator knows it by, which is no secret.
        digest: SHA-256 of what is handed out; nothing else of it is kept.
        uses_left: how many devices it may still let in; 0 is any number.
        made: when, in seconds since 1970.
        expires: from when on it is not good any more, in seconds since 1970; None for never.
        note: the operator's words.
    """

    name: str
    digest: bytes
    uses_left: int
    made: int
    expires: int | None = None
    note: str = ""


class AccessChange(NamedTuple):
    """A change of who may be here; all of it is done, or nothing.

    Attributes:
        devices: put in place of what was known of the same devices.
        invitations: put in place of those with the same names.
        forgotten_invitations: the names of those that are not good any more.
    """

    devices: Sequence[DeviceRecord] = ()
    invitations: Sequence[InvitationRecord] = ()
    forgotten_invitations: Sequence[str] = ()


class Volumes(NamedTuple):
    """How much has been sent in a month.

    Attributes:
        month: the month, as 12 x year + month - 1.
        in_all: bytes of all devices together.
        by_device: bytes of each.
    """

    month: int
    in_all: int
    by_device: Mapping[bytes, int]


class Store(Protocol):
    """What a realm keeps.

    Attributes:
        told: called after the answers to a batch of requests, when they come later than the
            requests; whoever uses the store sets it, to write what it has queued meanwhile.
    """

    told: Callable[[], None]

    def groups(self) -> Iterable[GroupRecord]:
        """Return every group, as it was when the store was opened."""

    def stored_bytes(self) -> Mapping[bytes, int]:
        """Return how much is kept of each group's values, as it was when the store was opened."""

    def put_group(self, record: GroupRecord, done: Done) -> None:
        """Keep a group, or its newer epoch."""

    def note_use(self, group: bytes, day: int) -> None:
        """Keep a group's newest day of use, if that can be; nobody waits for it."""

    def forget_groups(self, groups: Sequence[bytes], done: Forgotten) -> None:
        """Forget those groups that have never had a value; give these, or None when it failed."""

    def devices(self) -> Iterable[DeviceRecord]:
        """Return every device that was decided about, as it was when the store was opened."""

    def invitations(self) -> Iterable[InvitationRecord]:
        """Return every invitation, as it was when the store was opened."""

    def change_access(self, change: AccessChange, done: Done) -> None:
        """Change who may be here. What fails, fails with every later change not yet answered."""

    def volumes(self) -> Volumes:
        """Return how much had been sent in a month when the store was opened."""

    def put_volumes(self, volumes: Volumes, done: Done) -> None:
        """Keep how much has been sent: by the devices named, and in all.

        What is known of other devices stays when it is of the same month.
        """

    def load(self, group: bytes, done: Callable[[History | None], None]) -> None:
        """Give the history of a group, an empty one when nothing is kept; None: it failed."""

    def add(self, addition: Addition, done: Done) -> None:
        """Keep changes."""

    def read(
        self, group: bytes, first: int, last: int, done: Callable[[Page | None], None]
    ) -> None:
        """Give the changes from one revision to another; None: it failed."""

    def follow(self, group: bytes, done: Done) -> None:
        """Do nothing, in order: answer once everything about a group that came before is safe."""
