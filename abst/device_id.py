"""Device IDs: a UUID of version 8 made from a public key (spec: identity.md).

Pure: owns the derivation and the forms in which an ID is written, and nothing of keys' files.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Self

DEVICE_ID_BYTES = 16

# uuid.UUID takes more: "urn:uuid:", braces, hyphens anywhere, and whatever int() takes for digits.
_TEXT = re.compile("-".join(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))

_ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


class DeviceID(bytes):
    """The 16 bytes of a device's ID; equal to, and hashed as, those bytes.

    Raises:
        ValueError: the bytes are not 16 long, or not a UUID of version 8.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        if not is_device_id(value):
            raise ValueError("a device ID is a UUID of version 8: 16 bytes")
        return super().__new__(cls, value)

    @classmethod
    def of_key(cls, subject_public_key_info: bytes) -> Self:
        """Return the ID of the key whose DER SubjectPublicKeyInfo (RFC 5280) is given."""
        digest = bytearray(hashlib.sha256(subject_public_key_info).digest()[:DEVICE_ID_BYTES])
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        return cls(bytes(digest))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the ID written as ``xxxxxxxx-xxxx-8xxx-xxxx-xxxxxxxxxxxx``, in either case.

        Raises:
            ValueError: the text is no such ID.
        """
        digits = text.strip().lower()
        value = uuid.UUID(digits).bytes if _TEXT.fullmatch(digits) else b""
        if not is_device_id(value):
            raise ValueError(
                f"{text[:60]!r} is no device ID: one looks like "
                "6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819 ('abst id' shows a device's own)"
            )
        return cls(value)

    def __str__(self) -> str:
        return str(uuid.UUID(bytes=bytes(self)))

    def __repr__(self) -> str:
        return f"DeviceID({str(self)!r})"

    @property
    def short(self) -> str:
        """The first eight digits: enough for a log line, too little to address a device."""
        return self[:4].hex()


def subject_public_key_info(raw_key: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo (RFC 8410) of a raw Ed25519 public key of 32 bytes."""
    return _ED25519_PREFIX + raw_key


def raw_public_key(subject_public_key_info: bytes) -> bytes:
    """Return the raw Ed25519 public key, 32 bytes, of a DER SubjectPublicKeyInfo (RFC 8410)."""
    return subject_public_key_info.removeprefix(_ED25519_PREFIX)


def is_device_id(value: object) -> bool:
    """Tell whether a value is the 16 bytes of a UUID of version 8 (RFC 9562, section 5.8)."""
    return (
        isinstance(value, bytes)
        and len(value) == DEVICE_ID_BYTES
        and value[6] & 0xF0 == 0x80
        and value[8] & 0xC0 == 0x80
    )
