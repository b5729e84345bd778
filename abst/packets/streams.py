"""The first packets of a stream. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abst.packets import fields
from abst.packets.limits import (
    HASH_BYTES,
    MAX_CODE_CHARACTERS,
    MAX_REASON_CHARACTERS,
    MAX_SERVICE_CHARACTERS,
)
from abst.packets.packet import Packet


def is_service(value: Any) -> bool:
    """Tell whether something is a service's name: letters, digits and ``-._``, not too many."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SERVICE_CHARACTERS
        and value.isascii()
        and all(letter.isalnum() or letter in "-._" for letter in value)
    )


@dataclass(frozen=True, slots=True)
class OpenStream(Packet):
    """Dialler to acceptor: the first packet of a stream.

    Attributes:
        service: what the dialler wants to talk to.
        mac: the proof with the key of the newest pairing, as in Key check.
        older: the same with the key of the one before, while the newest is pending.
    """

    packet_id = 0
    title = "Open stream"
    body = (
        fields.Field(
            "service",
            f"str, 1 to {MAX_SERVICE_CHARACTERS} ASCII letters, digits, `-`, `.` and `_`",
            is_service,
        ),
        fields.binary("mac", HASH_BYTES),
        fields.binary("older", HASH_BYTES, required=False),
    )

    service: str
    mac: bytes
    older: bytes | None = None


@dataclass(frozen=True, slots=True)
class StreamOpened(Packet):
    """Acceptor to dialler: from here on, both directions are the application's own bytes.

    Attributes:
        mac: the acceptor's proof with the key of the newest pairing.
        older: the same with the key of the one before, while the newest is pending.
    """

    packet_id = 0
    title = "Stream opened"
    body = (fields.binary("mac", HASH_BYTES), fields.binary("older", HASH_BYTES, required=False))

    mac: bytes
    older: bytes | None = None


@dataclass(frozen=True, slots=True)
class StreamRefused(Packet):
    """Acceptor to dialler: there is no stream; the connection is closed.

    Attributes:
        code: why, for programs.
        reason: why, for people.
    """

    packet_id = 1
    title = "Stream refused"
    body = (fields.text("code", MAX_CODE_CHARACTERS), fields.text("reason", MAX_REASON_CHARACTERS))

    code: str
    reason: str
