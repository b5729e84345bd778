"""Key check: both ends still hold the pairing, on this very channel (spec: channel.md).

Pure. Each direction has its own proof, made from the pairing's key and the channel's exporter, so
that a proof is good for one channel and cannot be sent back to whoever made it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_DIALLER = b"ABST key check 1 dialler"
_ACCEPTOR = b"ABST key check 1 acceptor"


def trust_key(device_id: bytes, other_id: bytes) -> bytes:
    """Return the pairing key of two devices that trust each other by ID alone: no secret.

    The channel has proved both IDs already; this only lets both notice that one of them has a
    pairing of another kind.
    """
    return hashlib.sha256(b"ABST trust 1" + b"".join(sorted((device_id, other_id)))).digest()


def proof(pairing_key: bytes, exporter: bytes, *, by_dialler: bool) -> bytes:
    """Return the 32 bytes with which one end proves that it holds a pairing's key."""
    info = _DIALLER if by_dialler else _ACCEPTOR
    key = HKDF(SHA256(), 32, exporter, info).derive(pairing_key)
    return hmac.digest(key, info, "sha256")


def matching_key(
    keys: Iterable[bytes], exporter: bytes, proofs: Iterable[bytes], *, by_dialler: bool
) -> bytes | None:
    """Return the first of several keys with which one of the proofs was made, or None.

    Both ends list their keys newest first and try all of the other's proofs, so both settle on the
    newest pairing that they have in common.
    """
    found = tuple(proofs)
    for key in keys:
        own = proof(key, exporter, by_dialler=by_dialler)
        if any(hmac.compare_digest(own, other) for other in found):
            return key
    return None
