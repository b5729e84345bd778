"""The keys of a peer group, of all its epochs (spec: groups.md, "Keys", "Proofs").

Pure. Owns what is derived from the seeds, and what a device signs with them for a realm. Refuses
seeds that do not go on where those at hand end. No key is ever shown.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from abst.device_id import DeviceID
from abst.errors import GroupError, MissingEpochError
from abst.group_proofs import group_id_of, move_text, proof_text
from abst.packets.limits import MAX_EPOCHS, MAX_NAME_BYTES, SEED_BYTES

DERIVED_KEY_BYTES: Final = 32

_MESSAGES: Final = b"ABST group messages 1"
_VALUES: Final = b"ABST group values 1"
_NAMES: Final = b"ABST group names 1"


class Signer(Protocol):
    """A device that says something: its ``Identity``."""

    @property
    def device_id(self) -> DeviceID:
        """Its ID."""

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """Its key."""


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes made of a secret (HKDF-SHA256, RFC 5869)."""
    return HKDF(SHA256(), DERIVED_KEY_BYTES, salt, info).derive(secret)


@dataclass(frozen=True, slots=True, repr=False)
class GroupKeys:
    """What a member holds of a group: the seeds of all epochs from 0 on.

    Attributes:
        seeds: 32 secret bytes for each epoch.
        group_id: the group's ID, which the seed of epoch 0 alone determines.

    Raises:
        GroupError: there are too few or too many seeds, or one has another length.
    """

    seeds: tuple[bytes, ...]
    group_id: DeviceID = field(init=False, compare=False)
    _private: dict[int, Ed25519PrivateKey] = field(init=False, compare=False)
    _derived: dict[tuple[bytes, int], bytes] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.seeds) <= MAX_EPOCHS:
            raise GroupError(
                f"a group has 1 to {MAX_EPOCHS} epochs, not {len(self.seeds)}: make another group"
            )
        if any(len(seed) != SEED_BYTES for seed in self.seeds):
            raise GroupError(f"an epoch's seed has {SEED_BYTES} bytes: ask a member for the keys")
        object.__setattr__(self, "_private", {})
        object.__setattr__(self, "_derived", {})
        object.__setattr__(self, "group_id", group_id_of(self.public_key(0)))

    def __repr__(self) -> str:
        return f"<GroupKeys of {self.group_id}, epoch {self.epoch}>"

    @classmethod
    def create(cls, random_bytes: Callable[[int], bytes]) -> Self:
        """Make the keys of a new group, in epoch 0."""
        return cls((random_bytes(SEED_BYTES),))

    def with_next(self, seed: bytes) -> Self:
        """Return these keys and one epoch more.

        Raises:
            GroupError: there is no room for another epoch, or the seed is none.
        """
        return type(self)((*self.seeds, seed))

    def extended_by(self, seeds: Sequence[bytes]) -> Self:
        """Return the keys after another member has named the seeds of all epochs that it knows.

        Raises:
            GroupError: the two know different seeds for one epoch, or the seeds are none.
        """
        found = tuple(seeds)
        common = min(len(found), len(self.seeds))
        if not hmac.compare_digest(b"".join(found[:common]), b"".join(self.seeds[:common])):
            raise GroupError(
                "these keys are not of the group that this device knows: ask another member"
            )
        return type(self)(found) if len(found) > len(self.seeds) else self

    def until(self, epoch: int) -> Self:
        """Return the keys as they were in an epoch, without those after it.

        Raises:
            MissingEpochError: the epoch is not held.
        """
        self.check_held(epoch)
        return type(self)(self.seeds[: epoch + 1])

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return len(self.seeds) - 1

    def public_key(self, epoch: int) -> bytes:
        """Return an epoch's raw public key.

        Raises:
            MissingEpochError: the epoch is not held; so for all that takes an epoch.
        """
        return self._private_key(epoch).public_key().public_bytes_raw()

    def message_key(self, epoch: int) -> bytes:
        """Return the secret that the keys of an epoch's messages are made of."""
        return self._key(_MESSAGES, epoch)

    def value_key(self, epoch: int) -> bytes:
        """Return the secret that the keys of an epoch's values are made of."""
        return self._key(_VALUES, epoch)

    @property
    def name_key(self) -> bytes:
        """The secret that hides the names of values from the realm, in all epochs."""
        return self._key(_NAMES, 0)

    def hidden_name(self, name: bytes) -> bytes:
        """Return what the realm sees of a value's name.

        Raises:
            GroupError: the name is empty or too long.
        """
        if not 1 <= len(name) <= MAX_NAME_BYTES:
            raise GroupError(f"a value's name has 1 to {MAX_NAME_BYTES} bytes, not {len(name)}")
        return hmac.digest(self.name_key, name, "sha256")

    def proof(self, nonce: bytes, device_id: bytes) -> bytes:
        """Return the proof, for a realm's nonce, that this device holds the newest epoch's key."""
        text = proof_text(
            nonce=nonce,
            device_id=device_id,
            group=self.group_id,
            epoch=self.epoch,
            key=self.public_key(self.epoch),
        )
        return self._private_key(self.epoch).sign(text)

    def move_signature(self, new_public_key: bytes) -> bytes:
        """Return the newest epoch's word that the epoch after it has this key."""
        text = move_text(group=self.group_id, epoch=self.epoch + 1, key=new_public_key)
        return self._private_key(self.epoch).sign(text)

    def check_held(self, epoch: int) -> None:
        """Accept the number of an epoch whose seed is here.

        Raises:
            MissingEpochError: it is not.
        """
        if not 0 <= epoch < len(self.seeds):
            raise MissingEpochError(epoch)

    def _private_key(self, epoch: int) -> Ed25519PrivateKey:
        key = self._private.get(epoch)
        if key is None:
            self.check_held(epoch)
            key = Ed25519PrivateKey.from_private_bytes(self.seeds[epoch])
            self._private[epoch] = key
        return key

    def _key(self, info: bytes, epoch: int) -> bytes:
        key = self._derived.get((info, epoch))
        if key is None:
            self.check_held(epoch)
            key = derive(self.seeds[epoch], self.group_id, info)
            self._derived[info, epoch] = key
        return key
