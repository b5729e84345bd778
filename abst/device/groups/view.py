"""Who is in a group: what the entries of a roster say together (spec: rosters.md).

Pure, a function of the set of entries: neither the order in which they came nor any clock plays a
part. It needs a set in which every entry comes after those that it names.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from abst.device.groups.entries import (
    NOTHING,
    Add,
    Entry,
    Epoch,
    Remove,
    Setting,
    device_id_of,
)
from abst.device.peers import printable
from abst.device_id import DeviceID

NAME_KEY: Final = "name"
REALM_PREFIX: Final = "realm "
YES: Final = "yes"
NO: Final = "no"

Standing = tuple[bytes, int]
"""A device's raw public key, and a generation."""


@dataclass(frozen=True, slots=True)
class Member:
    """A device of a group.

    Attributes:
        device_id: its ID.
        public_key: its raw Ed25519 key, 32 bytes.
        name: what it is called, printable; may be empty.
        generation: how many times it has come.
    """

    device_id: DeviceID
    public_key: bytes
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class View:
    """What a roster says.

    Attributes:
        members: who is in, by device ID.
        former: the raw public keys of all who are or were in, by device ID.
        generations: the largest generation with which each was in, by raw public key.
        removals: the entries that remove a device, by its raw public key.
        settings: the entries that hold, by the key that they set.
        epochs: the entries about epochs that count.
    """

    members: dict[bytes, Member]
    former: dict[bytes, bytes]
    generations: dict[bytes, int]
    removals: dict[bytes, list[Entry]]
    settings: dict[str, Entry]
    epochs: list[Entry]

    def removed_generation(self, public_key: bytes) -> int:
        """Return the last generation of a device that was removed, 0 for none."""
        found = (entry.statement for entry in self.removals.get(public_key, ()))
        return max((item.generation for item in found if isinstance(item, Remove)), default=0)

    def value(self, key: str) -> str | None:
        """Return what a key is set to, or None."""
        entry = self.settings.get(key)
        return entry.statement.value if entry and isinstance(entry.statement, Setting) else None


def view_of(founder: bytes, entries: Mapping[bytes, Entry]) -> View:
    """Return what entries say.

    Args:
        founder: the raw public key of the device that has made the group.
        entries: by SHA-256, each after those that it names.
    """
    removals: dict[bytes, list[Entry]] = defaultdict(list)
    for entry in entries.values():
        if isinstance(entry.statement, Remove):
            removals[entry.statement.device].append(entry)
    cuts = {device: _Cut(found, entries) for device, found in removals.items()}
    spared = [
        entry
        for entry in entries.values()
        if (cut := cuts.get(entry.signer)) is None or cut.spares(entry)
    ]
    standings, adds = _follow(founder, spared)
    counting = [entry for entry in spared if (entry.signer, entry.standing) in standings]
    generations: dict[bytes, int] = {}
    for device, generation in standings:
        generations[device] = max(generation, generations.get(device, 0))
    view = View(
        members={},
        former={device_id_of(device): device for device in generations},
        generations=generations,
        removals=dict(removals),
        settings=_settings(entries.values(), counting),
        epochs=[entry for entry in counting if isinstance(entry.statement, Epoch)],
    )
    for device, generation in generations.items():
        if generation > view.removed_generation(device):
            device_id = device_id_of(device)
            name = _name(device, adds.get((device, generation), []))
            view.members[device_id] = Member(device_id, device, name, generation)
    return view


class _Cut:
    """What of a removed device's entries counts: what each of its removals leaves.

    The entries of a device are a tree by ``previous``, of an honest device a chain. What a removal
    leaves is a way from the root, so what several leave is how far their ways are the same.
    """

    def __init__(self, removals: list[Entry], entries: Mapping[bytes, Entry]) -> None:
        found = [entry.statement for entry in removals if isinstance(entry.statement, Remove)]
        # Every entry that was walked over, and how far its way is that of the first removal.
        self._shared: dict[bytes, int] = {}
        self._way: set[bytes] = set()
        limit = None
        limits: dict[int, int] = {}
        for removal in sorted(found, key=lambda removal: -removal.generation):
            shared = self._walk(removal.last, entries, is_first=limit is None)
            limit = shared if limit is None else min(limit, shared)
            limits[removal.generation] = limit
        self._generations = sorted(limits)
        self._limits = [limits[generation] for generation in self._generations]

    def spares(self, entry: Entry) -> bool:
        """Tell whether an entry by the removed device counts."""
        index = bisect_left(self._generations, entry.standing)
        if index == len(self._generations):
            return True
        return entry.sha256 in self._way and entry.number <= self._limits[index]

    def _walk(self, last: bytes, entries: Mapping[bytes, Entry], *, is_first: bool) -> int:
        walked = []
        while last != NOTHING and last not in self._shared:
            walked.append(entries[last])
            last = walked[-1].previous
        shared = self._shared.get(last, 0)
        for entry in walked:
            self._shared[entry.sha256] = entry.number if is_first else shared
        if is_first:
            self._way.update(entry.sha256 for entry in walked)
            return walked[0].number if walked else 0
        return shared


def _follow(
    founder: bytes, spared: Iterable[Entry]
) -> tuple[set[Standing], dict[Standing, list[Entry]]]:
    """Return who was ever in with which generation, and the entries that say so."""
    by_signer: dict[Standing, list[Entry]] = defaultdict(list)
    for entry in spared:
        if isinstance(entry.statement, Add):
            by_signer[entry.signer, entry.standing].append(entry)
    standings = {(founder, 1)}
    waiting = [(founder, 1)]
    adds: dict[Standing, list[Entry]] = defaultdict(list)
    while waiting:
        for entry in by_signer.get(waiting.pop(), ()):
            assert isinstance(entry.statement, Add)
            added = (entry.statement.device, entry.statement.generation)
            adds[added].append(entry)
            if added not in standings:
                standings.add(added)
                waiting.append(added)
    return standings, adds


def _name(device: bytes, adds: list[Entry]) -> str:
    """Return what a member is called: its own word goes before what others call it."""

    def weight(entry: Entry) -> tuple[bool, int, bytes]:
        is_own = entry.signer == device
        return is_own, entry.number if is_own else 0, entry.sha256

    if not adds:
        return ""
    statement = max(adds, key=weight).statement
    assert isinstance(statement, Add)
    return printable(statement.name).strip()


def _settings(entries: Iterable[Entry], counting: Iterable[Entry]) -> dict[str, Entry]:
    """Return which entry holds of each key: the one that has the most others behind it."""
    depths: dict[bytes, int] = {}
    for entry in entries:
        if isinstance(entry.statement, Setting):
            depths[entry.sha256] = 1 + depths.get(entry.statement.replaces, 0)
    found: dict[str, Entry] = {}
    for entry in counting:
        if isinstance(entry.statement, Setting):
            best = found.get(entry.statement.key)
            if best is None or (depths[entry.sha256], entry.sha256) > (
                depths[best.sha256],
                best.sha256,
            ):
                found[entry.statement.key] = entry
    return found
