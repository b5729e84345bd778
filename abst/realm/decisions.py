"""What was decided about devices and invitations: what of it is in force, and what is kept.

Pure. What is decided is in force at once. When the store does not take it, it is in force no more,
but for a revocation, which stays until something newer about that device is kept. Who decides what
stands in ``access``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

from abst.realm.store.interface import AccessChange, DeviceRecord, Done, InvitationRecord, Store

_Key = TypeVar("_Key")
_Record = TypeVar("_Record")


class Decisions:
    """The devices and invitations of one realm.

    Args:
        store: what lasts.
        undone: called with the devices of each change that the store has not taken, after it is
            undone.

    Attributes:
        devices: what is in force about each device.
        invitations: the invitations that are in force, by their names.
    """

    def __init__(self, store: Store, undone: Callable[[Sequence[DeviceRecord]], None]) -> None:
        self._store = store
        self._undone = undone
        self.devices = {record.device: record for record in store.devices()}
        self.invitations = {record.name: record for record in store.invitations()}
        # The same, as far as the store is known to have it.
        self._kept_devices = dict(self.devices)
        self._kept_invitations = dict(self.invitations)
        self._names: dict[bytes, str] = {}
        self._index()
        # What the store was asked to keep, and has not answered yet, in order.
        self._asked: dict[int, AccessChange] = {}
        self._numbers = count()
        # Revocations that are in force without being kept, each with its number.
        self._unkept: dict[int, AccessChange] = {}

    def decide(self, change: AccessChange, done: Done) -> None:
        """Put a change in force, and have the store keep it."""
        number = next(self._numbers)
        self._asked[number] = change
        _apply(change, self.devices, self.invitations)
        self._names.update((record.digest, record.name) for record in change.invitations)
        # The name of an invitation that is gone leads nowhere; most of them shall not be such.
        if len(self._names) > 2 * len(self.invitations):
            self._index()

        def answered(is_kept: bool) -> None:
            del self._asked[number]
            if is_kept:
                _apply(change, self._kept_devices, self._kept_invitations)
                self._settle(number, change)
            else:
                self._undo(number, change)
            done(is_kept)

        self._store.change_access(change, answered)

    def invitation_with(self, digest: bytes) -> InvitationRecord | None:
        """Return the invitation that was in force with this hash, if there is one."""
        return self.invitations.get(self._names.get(digest, ""))

    def _settle(self, number: int, change: AccessChange) -> None:
        """Forget the revocations that something kept has taken the place of."""
        for record in change.devices if self._unkept else ():
            for earlier in [it for it in self._unkept if it < number]:
                if self._unkept[earlier].devices[0].device == record.device:
                    del self._unkept[earlier]

    def _undo(self, number: int, change: AccessChange) -> None:
        """Have in force what is kept, what was asked for besides, and every revocation."""
        for record in change.devices:
            _restore(self.devices, self._kept_devices, record.device)
            if not record.is_allowed:
                self._unkept[number] = AccessChange((record,))
        for name in (*(it.name for it in change.invitations), *change.forgotten_invitations):
            _restore(self.invitations, self._kept_invitations, name)
        for _, other in sorted({**self._asked, **self._unkept}.items()):
            _apply(other, self.devices, self.invitations)
        self._index()
        self._undone(change.devices)

    def _index(self) -> None:
        self._names = {record.digest: record.name for record in self.invitations.values()}


def _apply(
    change: AccessChange,
    devices: dict[bytes, DeviceRecord],
    invitations: dict[str, InvitationRecord],
) -> None:
    devices.update((record.device, record) for record in change.devices)
    invitations.update((record.name, record) for record in change.invitations)
    for name in change.forgotten_invitations:
        invitations.pop(name, None)


def _restore(in_force: dict[_Key, _Record], kept: dict[_Key, _Record], key: _Key) -> None:
    if key in kept:
        in_force[key] = kept[key]
    else:
        in_force.pop(key, None)
