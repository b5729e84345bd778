"""The hash of the history of a group's values (spec: values.md, "History").

Pure; the realm makes it and devices check it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from abst.packets.limits import HASH_BYTES

NO_HASH: Final = bytes(HASH_BYTES)
"""The hash before the first change, and in place of the hash of a value whose time was over."""

_LABEL: Final = b"ABST change 1"


def next_head(head: bytes, revision: int, name: bytes, digest: bytes) -> bytes:
    """Return the hash after a change.

    Args:
        head: the hash before it.
        revision: the number of the change.
        name: the name as the realm sees it.
        digest: the SHA-256 of the sealed value, or ``NO_HASH``.
    """
    text = b"".join((_LABEL, head, revision.to_bytes(8, "big"), name, digest))
    return hashlib.sha256(text).digest()
