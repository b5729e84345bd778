"""The hash of a group's history (spec: values.md, "History"). Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from abst.packets import HASH_BYTES

NO_HASH: Final = bytes(HASH_BYTES)
"""The hash before the first change, and in place of the hash of a value whose time was over."""

_LABEL: Final = b"ABST change 1"


def next_head(head: bytes, revision: int, name: bytes, digest: bytes) -> bytes:
    """Return the hash after a change.

    Args:
        head: the hash before it.
        revision: its number.
        name: the name as the realm sees it.
        digest: SHA-256 of the sealed value, or ``NO_HASH``.
    """
    return sha256(b"".join((_LABEL, head, revision.to_bytes(8, "big"), name, digest))).digest()
