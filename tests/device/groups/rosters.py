"""Devices, and entries of rosters that no honest device would sign."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from abst.device.groups.entries import LABEL, NOTHING, raw_key_of
from abst.device.groups.roster import Roster
from abst.identity import Identity

DEVICES: Final = [
    Identity(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in range(1, 13)
]
KEYS: Final = [raw_key_of(device) for device in DEVICES]
GROUP: Final = bytes(DEVICES[11].device_id)


def new_roster(members: int = 1) -> Roster:
    """Return a roster of device 0, which has added so many others, less itself."""
    roster = Roster(GROUP, KEYS[0])
    for number in range(1, members):
        roster.add(DEVICES[0], KEYS[number], f"device {number}")
    return roster


def copy_of(roster: Roster) -> Roster:
    """Return a roster that another device has got all of."""
    copy = Roster(roster.group_id, roster.founder)
    copy.merge(roster.entries())
    return copy


def numbers_in(roster: Roster) -> set[int]:
    """Return which of the devices are members."""
    return {KEYS.index(member.public_key) for member in roster.members().values()}


class Forger:
    """One device that signs whatever it likes.

    Args:
        device: its number.
        history: its entries so far, with the number of each.
    """

    def __init__(self, device: int, history: list[tuple[bytes, int]] | None = None) -> None:
        self.device = device
        self.history = [(NOTHING, 0), *(history or [])]

    def sign(self, kind: str, /, *, after: int = -1, **keys: Any) -> bytes:
        """Return an entry, by default after the last one; ``after`` chooses another one."""
        previous, number = self.history[after]
        written = {
            "signer": KEYS[self.device],
            "previous": previous,
            "number": number + 1,
            "standing": 1,
            "kind": kind,
            **keys,
        }
        packed = msgpack.packb(written)
        entry = DEVICES[self.device].private_key.sign(LABEL + GROUP + KEYS[0] + packed) + packed
        self.history.append((hashlib.sha256(entry).digest(), written["number"]))
        return entry
