"""A realm with one group's values: honest by itself, and whatever a test makes of it."""

from __future__ import annotations

import hashlib
from typing import Any

from abst.device.groups.keys import GroupKeys
from abst.device.groups.sealed_values import ValueWord, open_value, seal
from abst.packets import ValueChanges, ValueFound, WatchingValues
from abst.value_history import NO_HASH, next_head
from tests.device.groups.doubles import group_keys, member, raw_key

MEMBERS = [member(number) for number in (1, 2, 3)]
ROSTER: dict[bytes, bytes] = {who.device_id: raw_key(who) for who in MEMBERS}


class SmallRealm:
    """All changes of a group, from revision 1 on, and the members who make them."""

    def __init__(self, keys: GroupKeys | None = None) -> None:
        self.keys = keys or group_keys()
        self.group_id = bytes(self.keys.group_id)
        self.changes: list[list[Any]] = []
        self.heads = [NO_HASH]
        self.floor = 0
        self.milliseconds = 0
        # Of each name the revision of its last change, and whether it has a value since then.
        self.last: dict[bytes, tuple[int, bool]] = {}

    def copy(self) -> SmallRealm:
        """Return another realm with the same history so far."""
        other = SmallRealm(self.keys)
        other.changes = [list(change) for change in self.changes]
        other.heads = list(self.heads)
        other.floor, other.milliseconds = self.floor, self.milliseconds
        other.last = dict(self.last)
        return other

    @property
    def revision(self) -> int:
        """The newest change."""
        return len(self.changes)

    # What members do.

    def word(
        self,
        name: bytes,
        value: bytes | None,
        who: int = 0,
        seconds: int | None = None,
        **more: int,
    ) -> ValueWord:
        """Return what a member would say now; ``knows`` is the newest change that it knows."""
        knows = more.get("knows", self.revision)
        self.milliseconds += 1
        replaces = min(knows, self.last.get(self.keys.hidden_name(name), (0, False))[0])
        return ValueWord(
            MEMBERS[who].device_id,
            name,
            value,
            replaces,
            knows,
            self.heads[knows],
            more.get("milliseconds", self.milliseconds),
            seconds,
        )

    def seal(self, word: ValueWord, keys: GroupKeys | None = None) -> bytes:
        """Return a word as a realm gets it."""
        who = next(who for who in MEMBERS if who.device_id == word.writer)
        salt = hashlib.sha256(word.milliseconds.to_bytes(8, "big") + word.writer).digest()[:16]
        return seal(keys or self.keys, who, word, salt)

    def put(self, name: bytes, value: bytes | None, who: int = 0, **more: Any) -> bytes:
        """Have a member put, or delete, a value; return it sealed."""
        sealed = self.seal(self.word(name, value, who, **more))
        self.add(name, sealed, has_value=value is not None)
        return sealed

    def end(self, name: bytes) -> None:
        """Say that the time of a value is over."""
        self.add(name, None, has_value=False)

    def add(self, name: bytes, sealed: bytes | None, *, has_value: bool) -> None:
        """Make a change of a sealed value, or of its end."""
        hidden, revision = self.keys.hidden_name(name), self.revision + 1
        digest = NO_HASH if sealed is None else hashlib.sha256(sealed).digest()
        self.heads.append(next_head(self.heads[-1], revision, hidden, digest))
        self.changes.append([revision, hidden, digest, sealed])
        self.last[hidden] = (revision, has_value)

    # What a realm says.

    def open(self, hidden_name: bytes, sealed: bytes) -> ValueWord:
        """Open a value, as every device does."""
        return open_value(self.keys, hidden_name, sealed, ROSTER.get)

    def watching(self) -> WatchingValues:
        """Say what is newest."""
        return WatchingValues(self.group_id, self.revision, self.heads[-1])

    def told(self, first: int, last: int | None = None) -> ValueChanges:
        """Tell changes, as to a watcher."""
        last = last or first
        changes = [list(change) for change in self.changes[first - 1 : last]]
        return ValueChanges(self.group_id, last, self.heads[last], changes)

    def listed(self, since: int, size: int = 512) -> ValueChanges:
        """Answer List values."""
        found = []
        for revision, name, digest, sealed in self.changes[since:]:
            last, has_value = self.last[name]
            if revision > self.floor:
                found.append([revision, name, digest, sealed if revision == last else None])
            elif revision == last and has_value:
                found.append([revision, name, digest, sealed])
        return ValueChanges(
            self.group_id,
            self.revision,
            self.heads[-1],
            found[:size],
            floor=self.floor,
            floor_head=self.heads[self.floor],
            more=True if len(found) > size else None,
        )

    def found(self, name: bytes) -> ValueFound:
        """Answer Get value."""
        hidden = self.keys.hidden_name(name)
        revision, has_value = self.last.get(hidden, (0, False))
        if revision <= self.floor and not has_value:
            return ValueFound(self.group_id, hidden, 0)
        sealed = self.changes[revision - 1][3]
        return ValueFound(self.group_id, hidden, revision, sealed)
