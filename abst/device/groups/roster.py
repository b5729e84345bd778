"""A roster: the signed entries that say who belongs to a group (spec: rosters.md).

Pure. Owns the set of entries: what may be in it, and what this device adds to it. What the set says
is in ``view``. Of two rosters that have the same entries both say the same, in whatever order the
entries came.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from abst.device.groups.entries import (
    MAX_WITHOUT,
    NOTHING,
    Add,
    Entry,
    Epoch,
    Remove,
    Setting,
    Signer,
    Statement,
    device_id_of,
    is_by_signer,
    parse_entry,
    raw_key_of,
    sign_entry,
)
from abst.device.groups.view import NAME_KEY, NO, REALM_PREFIX, YES, Member, View, view_of
from abst.device.peers import printable
from abst.errors import GroupError, RemoteProtocolError
from abst.packets import MAX_COUNT

MAX_ENTRIES: Final = 20_000


class Roster:
    """Who belongs to one group.

    Args:
        group_id: the group.
        founder: the raw public key of the device that has made it.
        entries: what ``entries`` of this roster has returned before it was stored: its signatures
            are not looked at again.

    Attributes:
        group_id: the group.
        founder: the raw public key of the device that has made it.
    """

    def __init__(self, group_id: bytes, founder: bytes, entries: Iterable[bytes] = ()) -> None:
        self.group_id = group_id
        self.founder = founder
        # In the order in which they came in: each after those that it names and its signer's add.
        self._entries: dict[bytes, Entry] = {}
        self._sorted: list[bytes] = []
        self._known_signers = {founder}
        self._newest: dict[bytes, Entry] = {}
        self._view: View | None = None
        self._digest: bytes | None = None
        self._take(entries, are_checked=True)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: bytes) -> bool:
        return hashlib.sha256(entry).digest() in self._entries

    # What it says.

    def members(self) -> Mapping[bytes, Member]:
        """Return who is in, by device ID."""
        return self._current_view().members

    def was_member(self, device_id: bytes) -> bytes | None:
        """Return the raw public key of a device that is or was in, or None."""
        return self._current_view().former.get(device_id)

    def has_added(self, identity: Signer, device_id: bytes) -> bool:
        """Tell whether it was this device that has let a member in, the last time that it came."""
        own, member = raw_key_of(identity), self.members().get(device_id)
        return member is not None and any(
            isinstance(entry.statement, Add)
            and (entry.signer, entry.statement.device) == (own, member.public_key)
            and entry.statement.generation == member.generation
            for entry in self._entries.values()
        )

    def name(self) -> str:
        """Return what the group is called, printable; empty when nobody has said so."""
        return printable(self._current_view().value(NAME_KEY) or "").strip()

    def realms(self) -> tuple[str, ...]:
        """Return the addresses of the group's realms, sorted."""
        view = self._current_view()
        keys = (key for key in view.settings if key.startswith(REALM_PREFIX))
        return tuple(sorted(key[len(REALM_PREFIX) :] for key in keys if view.value(key) == YES))

    def entries(self, since: int = 0) -> list[bytes]:
        """Return the entries that have come in after the first so many, oldest first.

        In this order another device can take them, in as many pieces as one likes.
        """
        return [entry.data for entry in islice(self._entries.values(), since, None)]

    def entries_by(self, public_key: bytes, *, after: int) -> list[Entry]:
        """Return the entries by a device whose numbers are larger than one, in their order."""
        newest = self._newest.get(public_key)
        if newest is None or newest.number <= after:
            return []
        return [
            entry
            for entry in self._entries.values()
            if entry.signer == public_key and entry.number > after
        ]

    def digest(self) -> bytes:
        """Return 32 bytes that two rosters share when they have the same entries."""
        if self._digest is None:
            self._digest = hashlib.sha256(b"".join(self._sorted)).digest()
        return self._digest

    def maker_of(self, epoch: int, public: bytes) -> bytes | None:
        """Return the raw public key of the device that says that it has made an epoch, or None.

        Args:
            epoch: the epoch's number.
            public: its raw key.
        """
        said = [
            entry
            for entry in self._current_view().epochs
            if isinstance(entry.statement, Epoch)
            and (entry.statement.epoch, entry.statement.public) == (epoch, public)
        ]
        return max(said, key=lambda entry: entry.sha256).signer if said else None

    def epoch_keys(self) -> dict[int, set[bytes]]:
        """Return of each epoch that somebody says to have made the raw keys that are named."""
        named: dict[int, set[bytes]] = defaultdict(set)
        for entry in self._current_view().epochs:
            if isinstance(entry.statement, Epoch):
                named[entry.statement.epoch].add(entry.statement.public)
        return named

    def pending_removals(self, device: bytes, epoch_keys: Sequence[bytes]) -> list[bytes]:
        """Return for which removals a device has to move the group to another epoch.

        A member has to for the devices that it has removed, and for those that somebody has
        removed who is not a member either.

        Args:
            device: the raw public key of the device that asks.
            epoch_keys: the key of each epoch, from 0 on.
        """
        view = self._current_view()
        if device_id_of(device) not in view.members:
            return []
        covered = {
            removal
            for entry in view.epochs
            if isinstance(entry.statement, Epoch)
            and entry.statement.epoch < len(epoch_keys)
            and entry.statement.public == epoch_keys[entry.statement.epoch]
            for removal in entry.statement.without
        }
        pending = []
        for removed, removals in view.removals.items():
            generation = view.generations.get(removed)
            if generation is None or device_id_of(removed) in view.members:
                continue
            final = [entry for entry in removals if _generation(entry) >= generation]
            if covered.isdisjoint(entry.sha256 for entry in final):
                mine = [
                    entry.sha256
                    for entry in final
                    if entry.signer == device or device_id_of(entry.signer) not in view.members
                ]
                pending += sorted(mine)[:1]
        return pending

    # What others say.

    def merge(self, entries: Iterable[bytes]) -> list[bytes]:
        """Take what another device has of this roster; return what of it was new and is right.

        What is no entry of this group is passed over, and so is what names an entry, or is signed
        by a device, that is neither here nor among these.
        """
        return self._take(entries, are_checked=False)

    # What this device says.

    def add(self, identity: Signer, public_key: bytes, name: str) -> bytes:
        """Let a device in, for the first time or again; return the new entry, which is in.

        Args:
            identity: this device, a member; so for all that follow.
            public_key: the other device's raw key.
            name: what it is called.

        Raises:
            GroupError: this device is no member, the other is one, or the roster is full.
        """
        view = self._current_view()
        if device_id_of(public_key) in view.members:
            raise GroupError("the device is in the group already")
        generation = view.removed_generation(public_key) + 1
        if generation > MAX_COUNT:
            raise GroupError("the device was shut out for good: give it a new identity")
        return self._say(identity, Add(public_key, name, generation))

    def rename(self, identity: Signer, name: str) -> bytes:
        """Say what this device is called; return the new entry.

        Raises:
            GroupError: this device is no member, or the roster is full.
        """
        own = self._own_member(identity)
        return self._say(identity, Add(own.public_key, name, own.generation))

    def remove(self, identity: Signer, device_id: bytes) -> bytes:
        """Remove a member; return the new entry. What is known of its entries goes on to count.

        Raises:
            GroupError: one of the two is no member, or the roster is full.
        """
        self._own_member(identity)
        member = self.members().get(device_id)
        if member is None:
            raise GroupError("the device is not in the group: see who is")
        newest = self._newest.get(member.public_key)
        last = NOTHING if newest is None else newest.sha256
        return self._say(identity, Remove(member.public_key, member.generation, last))

    def leave(self, identity: Signer) -> bytes:
        """Remove this device; return the new entry.

        Raises:
            GroupError: this device is no member, or the roster is full.
        """
        return self.remove(identity, device_id_of(raw_key_of(identity)))

    def set_name(self, identity: Signer, name: str) -> bytes:
        """Say what the group is called; return the new entry.

        Raises:
            GroupError: this device is no member, the name is too long, or the roster is full.
        """
        return self._set(identity, NAME_KEY, name)

    def set_realm(self, identity: Signer, address: str, *, is_used: bool) -> bytes:
        """Say whether the group uses a realm; return the new entry.

        Raises:
            GroupError: this device is no member, the address is too long, or the roster is full.
        """
        return self._set(identity, REALM_PREFIX + address, YES if is_used else NO)

    def note_epoch(
        self, identity: Signer, epoch: int, public: bytes, without: Iterable[bytes] = ()
    ) -> list[bytes]:
        """Say that this device has made an epoch; return the new entries.

        Args:
            identity: this device.
            epoch: the epoch's number.
            public: its raw key.
            without: the removals that were reason for it, as ``pending_removals`` has named them.

        Raises:
            GroupError: this device is no member, or the roster is full.
        """
        removals = tuple(without)
        pieces = range(0, max(len(removals), 1), MAX_WITHOUT)
        return [
            self._say(identity, Epoch(epoch, public, removals[at : at + MAX_WITHOUT]))
            for at in pieces
        ]

    # Inside.

    def _current_view(self) -> View:
        if self._view is None:
            self._view = view_of(self.founder, self._entries)
        return self._view

    def _own_member(self, identity: Signer) -> Member:
        own = self.members().get(device_id_of(raw_key_of(identity)))
        if own is None:
            raise GroupError("this device is not in the group: ask a member to add it")
        return own

    def _set(self, identity: Signer, key: str, value: str) -> bytes:
        holding = self._current_view().settings.get(key)
        replaces = NOTHING if holding is None else holding.sha256
        return self._say(identity, Setting(key, value, replaces))

    def _say(self, identity: Signer, statement: Statement) -> bytes:
        own = self._own_member(identity)
        if len(self._entries) >= MAX_ENTRIES:
            raise GroupError("the group's roster is full: make a new group")
        entry = sign_entry(
            identity,
            self.group_id,
            self.founder,
            statement,
            previous=self._newest.get(own.public_key),
            standing=own.generation,
        )
        self._put(entry)
        return entry.data

    def _take(self, entries: Iterable[bytes], *, are_checked: bool) -> list[bytes]:
        """Put in what is right, whatever its order; what names something waits for that."""
        taken: list[bytes] = []
        waiting: dict[bytes, list[Entry]] = defaultdict(list)
        for data in entries:
            if data in self:
                continue
            try:
                ready = [parse_entry(data)]
            except RemoteProtocolError:
                continue
            while ready:
                entry = ready.pop()
                if entry.sha256 in self._entries or len(self._entries) >= MAX_ENTRIES:
                    continue
                missing = self._missing(entry)
                if missing is not None:
                    waiting[missing].append(entry)
                elif entry.fits(self._entries) and (
                    are_checked or is_by_signer(entry, self.group_id, self.founder)
                ):
                    ready += reversed(self._put(entry, waiting))
                    taken.append(entry.data)
        return taken

    def _missing(self, entry: Entry) -> bytes | None:
        if entry.signer not in self._known_signers:
            return entry.signer
        return next((named for named in entry.names() if named not in self._entries), None)

    def _put(self, entry: Entry, waiting: dict[bytes, list[Entry]] | None = None) -> list[Entry]:
        """Put an entry in; return those that have waited for it."""
        self._entries[entry.sha256] = entry
        insort(self._sorted, entry.sha256)
        newest = self._newest.get(entry.signer)
        if newest is None or (entry.number, entry.sha256) > (newest.number, newest.sha256):
            self._newest[entry.signer] = entry
        self._view = self._digest = None
        awaited = [entry.sha256]
        if isinstance(entry.statement, Add) and entry.statement.device not in self._known_signers:
            self._known_signers.add(entry.statement.device)
            awaited.append(entry.statement.device)
        if not waiting:
            return []
        return [other for key in awaited for other in waiting.pop(key, ())]


def _generation(removal: Entry) -> int:
    assert isinstance(removal.statement, Remove)
    return removal.statement.generation
