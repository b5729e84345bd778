"""The agent's own application packets: messages and files (spec: agent.md). Pure.

Ids 16-24 of the application's range, in sessions between two agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

MESSAGE: Final = 16
FILE_OFFER: Final = 17
FILE_ANSWER: Final = 18
FILE_PIECE: Final = 19
FILE_END: Final = 20
FILE_RESULT: Final = 21
FILE_CANCEL: Final = 22
FILE_REWIND: Final = 23
NOTHING: Final = 24
"""Stands in the place of a message that was taken back before it left."""

TRANSFER_ID_BYTES: Final = 16
HASH_BYTES: Final = 32
MAX_PIECE_BYTES: Final = 60 * 1024
MAX_MESSAGE_CHARACTERS: Final = 10_000
MAX_FILE_NAME_CHARACTERS: Final = 255
MAX_REASON_CHARACTERS: Final = 300
MAX_FILE_BYTES: Final = 2**50

Check = Callable[[Any], bool]


def _text(most: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= most


def _binary(length: int) -> Check:
    return lambda value: isinstance(value, bytes) and len(value) == length


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _piece(value: Any) -> bool:
    return isinstance(value, bytes) and 0 < len(value) <= MAX_PIECE_BYTES


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_FILE_BYTES


_TRANSFER: Final = ("transfer", _binary(TRANSFER_ID_BYTES))

FIELDS: Final[dict[int, dict[str, Check]]] = {
    MESSAGE: {"text": _text(MAX_MESSAGE_CHARACTERS)},
    FILE_OFFER: dict([_TRANSFER, ("name", _text(MAX_FILE_NAME_CHARACTERS)), ("size", _size)]),
    FILE_ANSWER: dict(
        [
            _TRANSFER,
            ("accepted", _flag),
            ("offset", _size),
            ("reason", _text(MAX_REASON_CHARACTERS)),
        ]
    ),
    FILE_PIECE: dict([_TRANSFER, ("offset", _size), ("data", _piece)]),
    FILE_END: dict([_TRANSFER, ("sha256", _binary(HASH_BYTES))]),
    FILE_RESULT: dict(
        [
            _TRANSFER,
            ("stored", _flag),
            ("name", _text(MAX_FILE_NAME_CHARACTERS)),
            ("reason", _text(MAX_REASON_CHARACTERS)),
        ]
    ),
    FILE_CANCEL: dict([_TRANSFER, ("reason", _text(MAX_REASON_CHARACTERS))]),
    FILE_REWIND: dict([_TRANSFER, ("offset", _size)]),
    NOTHING: {},
}


def is_well_formed(packet_id: int, content: Any) -> bool:
    """Tell whether a packet is one of the agent's, with every key that it needs."""
    fields = FIELDS.get(packet_id)
    return (
        fields is not None
        and isinstance(content, dict)
        and all(name in content and holds(content[name]) for name, holds in fields.items())
    )
