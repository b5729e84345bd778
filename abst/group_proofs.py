"""What proves that somebody holds a peer group's key (spec: groups.md, "Proofs").

Pure; a device signs these texts and a realm checks them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from abst.device_id import DeviceID, subject_public_key_info

_PROOF: Final = b"ABST group proof 1"
_MOVE: Final = b"ABST group epoch 1"


def number(value: int) -> bytes:
    """Return a number as it stands in what is signed, hashed or authenticated."""
    return value.to_bytes(8, "big")


def group_id_of(key: bytes) -> DeviceID:
    """Return the ID of the group whose epoch 0 has this raw public key."""
    return DeviceID.of_key(subject_public_key_info(key))


def proof_text(*, nonce: bytes, device_id: bytes, group: bytes, epoch: int, key: bytes) -> bytes:
    """Return what a device signs with an epoch's key, for one connection to a realm."""
    return b"".join((_PROOF, nonce, device_id, group, number(epoch), key))


def move_text(*, group: bytes, epoch: int, key: bytes) -> bytes:
    """Return what a member signs, with the key of the epoch before, about the next epoch."""
    return b"".join((_MOVE, group, number(epoch), key))


def proves(
    proof: bytes, *, nonce: bytes, device_id: bytes, group: bytes, epoch: int, key: bytes
) -> bool:
    """Tell whether a proof shows that a device holds an epoch's key, on one connection."""
    text = proof_text(nonce=nonce, device_id=device_id, group=group, epoch=epoch, key=key)
    return is_signed(key, proof, text)


def allows_move(
    signature: bytes, *, group: bytes, epoch: int, key: bytes, present_key: bytes
) -> bool:
    """Tell whether the holder of the present epoch's key has signed the next epoch and its key."""
    return is_signed(present_key, signature, move_text(group=group, epoch=epoch, key=key))


def is_signed(key: bytes, signature: bytes, text: bytes) -> bool:
    """Tell whether a signature is by a raw Ed25519 public key over a text."""
    try:
        _public_key(key).verify(signature, text)
    except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no key.
        return False
    return True


@lru_cache(maxsize=4096)
def _public_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)
