"""What proves that somebody holds a peer group's key (spec: groups.md, "Proofs"). Pure."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from abst.device_id import DeviceID, subject_public_key_info

_PROOF: Final = b"ABST group proof 1"
_MOVE: Final = b"ABST group epoch 1"
_EPOCH_BYTES: Final = 8


def group_id_of(key: bytes) -> bytes:
    """Return the ID of the group whose epoch 0 has this raw public key."""
    return DeviceID.of_key(subject_public_key_info(key))


def proves(
    proof: bytes, *, nonce: bytes, device_id: bytes, group: bytes, epoch: int, key: bytes
) -> bool:
    """Tell whether a proof shows that a device holds an epoch's key, on one connection."""
    signed = _PROOF + nonce + device_id + group + epoch.to_bytes(_EPOCH_BYTES, "big") + key
    return _is_signed(signed, proof, key)


def allows_move(
    signature: bytes, *, group: bytes, epoch: int, key: bytes, present_key: bytes
) -> bool:
    """Tell whether the holder of the present epoch's key has signed the next epoch and its key."""
    signed = _MOVE + group + epoch.to_bytes(_EPOCH_BYTES, "big") + key
    return _is_signed(signed, signature, present_key)


def _is_signed(signed: bytes, signature: bytes, key: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        return False
    return True
