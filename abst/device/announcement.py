"""What a device says of itself on a local network, by DNS-SD (spec: discovery.md).

Pure: makes the properties (TXT record) of an announcement, and reads those of others. Owns what a
stranger may learn from one: nothing, but while a pairing window is open. What comes from the
network is bounded here before it is believed. Instances are the random names of announcements.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from abst.device.peers import printable
from abst.device_id import DEVICE_ID_BYTES, DeviceID
from abst.packets import MAX_COUNT, MAX_NAME_CHARACTERS

SERVICE_TYPE: Final = "_abst._tcp.local."
VERSION: Final = b"1"
INSTANCE_BYTES: Final = 8
NONCE_BYTES: Final = 8
HASH_BYTES: Final = 8
MAX_STRING_BYTES: Final = 255
"""The most that one string of a TXT record holds, its key included (RFC 1035, 3.3.14)."""

_HASH_LABEL: Final = b"ABST announcement 1"
_INSTANCE: Final = re.compile(f"[0-9a-f]{{{2 * INSTANCE_BYTES}}}")
_NONCE: Final = re.compile(rb"[0-9a-f]{%d}" % (2 * NONCE_BYTES))
_HASH: Final = re.compile(rb"[0-9a-f]{%d}" % (2 * HASH_BYTES))
_NUMBER: Final = re.compile(rb"[0-9]{1,%d}" % len(str(MAX_COUNT)))
_DEVICE_ID_CHARACTERS: Final = 2 * DEVICE_ID_BYTES + 4

Properties = Mapping[bytes, bytes | None]
"""The strings of a TXT record, by key; None is a key without ``=`` or without a value."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What only those recognise who know the device's ID.

    Attributes:
        instance: the announcement's name, 16 hexadecimal digits that mean nothing.
        nonce: 8 unpredictable bytes.
        hash: the first 8 bytes of a hash of nonce and device ID.
    """

    instance: str
    nonce: bytes
    hash: bytes

    @classmethod
    def make(cls, device_id: DeviceID, random_bytes: Callable[[int], bytes]) -> Self:
        """Return a new announcement of a device, which has nothing in common with earlier ones."""
        instance = new_instance(random_bytes)
        nonce = random_bytes(NONCE_BYTES)
        return cls(instance, nonce, announcement_hash(nonce, device_id))

    def properties(self) -> dict[bytes, bytes]:
        """Return the strings of the TXT record."""
        return {
            b"v": VERSION,
            b"n": self.nonce.hex().encode(),
            b"h": self.hash.hex().encode(),
        }

    def matches(self, device_id: DeviceID) -> bool:
        """Tell whether this is what the device with an ID says of itself."""
        return hmac.compare_digest(self.hash, announcement_hash(self.nonce, device_id))


@dataclass(frozen=True, slots=True)
class OpenAnnouncement:
    """What everybody can read, while a pairing window is open.

    Attributes:
        instance: the announcement's name, 16 hexadecimal digits that mean nothing.
        device_id: the device's ID, as it claims.
        name: what the device calls itself; printable, may be empty.
        number: the number of the pairing code, if there is one.
    """

    instance: str
    device_id: DeviceID
    name: str = field(default="")
    number: int | None = None

    @classmethod
    def make(
        cls,
        device_id: DeviceID,
        name: str,
        number: int | None,
        random_bytes: Callable[[int], bytes],
    ) -> Self:
        """Return a new open announcement of a device; its name is cut to what fits."""
        return cls(new_instance(random_bytes), device_id, fitting_name(name), number)

    def properties(self) -> dict[bytes, bytes]:
        """Return the strings of the TXT record."""
        found = {b"v": VERSION, b"id": str(self.device_id).encode()}
        if self.name:
            found[b"name"] = self.name.encode()
        if self.number is not None:
            found[b"number"] = str(self.number).encode()
        return found

    def matches(self, device_id: DeviceID) -> bool:
        """Tell whether this is what the device with an ID says of itself."""
        return self.device_id == device_id


AnyAnnouncement = Announcement | OpenAnnouncement


def new_instance(random_bytes: Callable[[int], bytes]) -> str:
    """Return a name for an announcement: 16 hexadecimal digits."""
    return random_bytes(INSTANCE_BYTES).hex()


def announcement_hash(nonce: bytes, device_id: DeviceID) -> bytes:
    """Return what an announcement with a nonce says of a device."""
    return hashlib.sha256(_HASH_LABEL + nonce + device_id).digest()[:HASH_BYTES]


def fitting_name(name: str) -> str:
    """Return as much of a device's name as an announcement holds, without what is not printable."""
    room = MAX_STRING_BYTES - len(b"name=")
    cut = printable(name).strip()[:MAX_NAME_CHARACTERS].encode("utf-8", "ignore")[:room]
    return cut.decode("utf-8", "ignore").strip()


def parse(instance: str, properties: Properties) -> AnyAnnouncement | None:
    """Return what an announcement says, or None when it is none of this protocol.

    Args:
        instance: its name, without the service type.
        properties: the strings of its TXT record.
    """
    if not _INSTANCE.fullmatch(instance) or properties.get(b"v") != VERSION:
        return None
    if b"id" in properties:
        return _parse_open(instance, properties)
    nonce, digest = properties.get(b"n") or b"", properties.get(b"h") or b""
    if not _NONCE.fullmatch(nonce) or not _HASH.fullmatch(digest):
        return None
    return Announcement(instance, bytes.fromhex(nonce.decode()), bytes.fromhex(digest.decode()))


def _parse_open(instance: str, properties: Properties) -> OpenAnnouncement | None:
    id_text, name = properties.get(b"id") or b"", properties.get(b"name") or b""
    digits = properties.get(b"number")
    if len(id_text) != _DEVICE_ID_CHARACTERS or len(name) > MAX_STRING_BYTES - len(b"name="):
        return None
    number = None if digits is None else int(digits) if _NUMBER.fullmatch(digits) else MAX_COUNT + 1
    if number is not None and number > MAX_COUNT:
        return None
    try:
        return OpenAnnouncement(
            instance,
            DeviceID.parse(id_text.decode("ascii")),
            fitting_name(name.decode("utf-8")),
            number,
        )
    except ValueError:  # UnicodeDecodeError is one too.
        return None


def recognise(announcement: AnyAnnouncement, device_ids: Iterable[DeviceID]) -> DeviceID | None:
    """Return which of these devices an announcement is of, or None."""
    for device_id in device_ids:
        if announcement.matches(device_id):
            return device_id
    return None
