"""What the tests of groups have in common: members, and keys that are always the same."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from abst.device.groups.keys import GroupKeys
from abst.identity import Identity


def member(number: int) -> Identity:
    """Return a device; the same number gives the same one."""
    return Identity(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def raw_key(identity: Identity) -> bytes:
    """Return a device's raw public key."""
    return identity.private_key.public_key().public_bytes_raw()


def group_keys(epochs: int = 1, group: int = 100) -> GroupKeys:
    """Return the keys of a group with so many epochs."""
    return GroupKeys(tuple(bytes([group, epoch]) * 16 for epoch in range(epochs)))
