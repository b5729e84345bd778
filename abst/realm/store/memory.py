"""A store that is gone with its process: for tests, and for realms that keep nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from abst.packets import HASH_BYTES
from abst.realm.store.interface import (
    AccessChange,
    Addition,
    Change,
    DeviceRecord,
    Done,
    Forgotten,
    GroupRecord,
    History,
    InvitationRecord,
    Outline,
    Page,
    Volumes,
)


@dataclass(slots=True)
class _Kept:
    """The changes of one group, by revision."""

    changes: dict[int, Change] = field(default_factory=dict)
    stored_bytes: int = 0
    floor: int = 0
    floor_head: bytes = bytes(HASH_BYTES)


class MemoryStore:
    """A ``Store`` that answers at once.

    Attributes:
        told: never called.
    """

    def __init__(self) -> None:
        self.told: Callable[[], None] = lambda: None
        self._groups: dict[bytes, GroupRecord] = {}
        self._kept: dict[bytes, _Kept] = {}
        self._devices: dict[bytes, DeviceRecord] = {}
        self._invitations: dict[str, InvitationRecord] = {}
        self._volumes = Volumes(0, 0, {})

    def groups(self) -> Iterable[GroupRecord]:
        """Return every group."""
        return list(self._groups.values())

    def stored_bytes(self) -> Mapping[bytes, int]:
        """Return how much is kept of each group's values."""
        return {group: kept.stored_bytes for group, kept in self._kept.items()}

    def put_group(self, record: GroupRecord, done: Done) -> None:
        """Keep a group, or its newer epoch."""
        self._groups[record.group] = record
        done(True)

    def note_use(self, group: bytes, day: int) -> None:
        """Keep a group's newest day of use."""
        self._groups[group] = self._groups[group]._replace(used=day)

    def forget_groups(self, groups: Sequence[bytes], done: Forgotten) -> None:
        """Forget those groups that have never had a value."""
        forgotten = [group for group in groups if group not in self._kept]
        for group in forgotten:
            del self._groups[group]
        done(forgotten)

    def devices(self) -> Iterable[DeviceRecord]:
        """Return every device that was decided about."""
        return list(self._devices.values())

    def invitations(self) -> Iterable[InvitationRecord]:
        """Return every invitation."""
        return list(self._invitations.values())

    def change_access(self, change: AccessChange, done: Done) -> None:
        """Change who may be here."""
        self._devices.update((record.device, record) for record in change.devices)
        self._invitations.update((record.name, record) for record in change.invitations)
        for name in change.forgotten_invitations:
            self._invitations.pop(name, None)
        done(True)

    def volumes(self) -> Volumes:
        """Return how much has been sent in a month."""
        return self._volumes

    def put_volumes(self, volumes: Volumes, done: Done) -> None:
        """Keep how much has been sent."""
        before = self._volumes.by_device if self._volumes.month == volumes.month else {}
        self._volumes = volumes._replace(by_device={**before, **volumes.by_device})
        done(True)

    def load(self, group: bytes, done: Callable[[History | None], None]) -> None:
        """Give the history of a group."""
        kept = self._kept.get(group) or _Kept()
        changes = [kept.changes[revision] for revision in sorted(kept.changes)]
        head = changes[-1].head if changes else bytes(HASH_BYTES)
        done(History(head, kept.floor, [_outline(change) for change in changes]))

    def add(self, addition: Addition, done: Done) -> None:
        """Keep changes."""
        kept = self._kept.setdefault(addition.group, _Kept())
        kept.changes.update((change.revision, change) for change in addition.changes)
        kept.stored_bytes = addition.stored_bytes
        for revision in addition.emptied:
            kept.changes[revision] = kept.changes[revision]._replace(sealed=None)
        if addition.floor is not None:
            kept.floor = addition.floor
            kept.floor_head = kept.changes[addition.floor].head
        for first, last in addition.forgotten:
            for revision in [item for item in kept.changes if first <= item <= last]:
                del kept.changes[revision]
        done(True)

    def read(
        self, group: bytes, first: int, last: int, done: Callable[[Page | None], None]
    ) -> None:
        """Give the changes from one revision to another."""
        kept = self._kept.get(group) or _Kept()
        found = [
            kept.changes[revision] for revision in sorted(kept.changes) if first <= revision <= last
        ]
        done(Page(found, kept.floor, kept.floor_head))

    def follow(self, group: bytes, done: Done) -> None:
        """Answer at once: everything is as safe as it will ever be."""
        done(True)


def _outline(change: Change) -> Outline:
    size = None if change.sealed is None else len(change.sealed)
    return Outline(change.revision, change.name, size, change.deleted, change.due)
