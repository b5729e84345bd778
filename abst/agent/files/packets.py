"""The packets of a stream that carries files, and how bytes are cut into them (spec: agent.md).

Pure. Owns the fields, their limits, and the one packet behind which raw bytes follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from abst import codec
from abst.errors import Code, RemoteProtocolError
from abst.framing import Frame

SERVICE: Final = "abst.files"

ALIVE: Final = 0
# From the sender.
ITEM: Final = 1
ASK: Final = 2
ENTRY: Final = 3
BYTES: Final = 4
ENTRY_END: Final = 5
ITEM_END: Final = 6
DROP: Final = 7
# From the receiver.
WELCOME: Final = 16
STAND: Final = 17
GOT: Final = 18
STORED: Final = 19
REFUSED: Final = 20

TRANSFER_ID_BYTES: Final = 16
HASH_BYTES: Final = 32
BLOCK_BYTES: Final = 1024 * 1024
MAX_PACKET_BYTES: Final = 8192
MAX_PATH_BYTES: Final = 4096
MAX_PATH_PARTS: Final = 64
MAX_NAME_CHARACTERS: Final = 255
MAX_REASON_CHARACTERS: Final = 300
MAX_SIZE_BYTES: Final = 2**50
MAX_ENTRIES: Final = 2**31
MAX_NANOSECONDS: Final = 2**63 - 1
MAX_UNFINISHED: Final = 32
MODE_BITS: Final = 0o777

MAX_FED_BYTES: Final = 16 * 1024 * 1024
"""The most that ``Splitter.receive_data`` is given at once."""

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a packet.

    Attributes:
        name: the key.
        type: the type and the limit, as the specification writes them.
        holds: tells whether a value is so.
    """

    name: str
    type: str
    holds: Check


def _text(name: str, most: int) -> Field:
    def holds(value: Any) -> bool:
        return isinstance(value, str) and len(value) <= most

    return Field(name, f"str, at most {most} characters", holds)


def _binary(name: str, length: int) -> Field:
    def holds(value: Any) -> bool:
        return isinstance(value, bytes) and len(value) == length

    return Field(name, f"bin, {length} bytes", holds)


def _count(name: str, most: int, written: str, least: int = 0) -> Field:
    def holds(value: Any) -> bool:
        return type(value) is int and least <= value <= most

    return Field(name, f"uint, at most {written}" if not least else written, holds)


def _flag(name: str) -> Field:
    return Field(name, "bool", lambda value: isinstance(value, bool))


def _is_path(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_PATH_PARTS
        and all(isinstance(part, str) and 0 < len(part) <= MAX_NAME_CHARACTERS for part in value)
        and sum(len(part.encode("utf-8", "replace")) + 1 for part in value) <= MAX_PATH_BYTES
    )


def _is_transfers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_UNFINISHED
        and all(isinstance(item, bytes) and len(item) == TRANSFER_ID_BYTES for item in value)
    )


_TRANSFER: Final = _binary("transfer", TRANSFER_ID_BYTES)
_NAME: Final = _text("name", MAX_NAME_CHARACTERS)
_REASON: Final = _text("reason", MAX_REASON_CHARACTERS)
_IS_FOLDER: Final = _flag("folder")
_SHA256: Final = _binary("sha256", HASH_BYTES)
_SIZE: Final = _count("size", MAX_SIZE_BYTES, "2^50")
_ENTRIES: Final = _count("entries", MAX_ENTRIES, "2^31")

FIELDS: Final[dict[int, tuple[Field, ...]]] = {
    ALIVE: (),
    ITEM: (_TRANSFER, _NAME, _IS_FOLDER, _SIZE, _ENTRIES, _flag("resumes")),
    ASK: (_TRANSFER,),
    ENTRY: (
        Field(
            "path",
            f"array of at most {MAX_PATH_PARTS} str, each 1 to {MAX_NAME_CHARACTERS} characters, "
            f"together at most {MAX_PATH_BYTES} bytes",
            _is_path,
        ),
        _IS_FOLDER,
        _SIZE,
        _count("mode", MODE_BITS, str(MODE_BITS)),
        Field(
            "modified",
            "int, more than -2^63 and less than 2^63",
            lambda value: type(value) is int and abs(value) <= MAX_NANOSECONDS,
        ),
    ),
    BYTES: (_count("length", BLOCK_BYTES, f"uint, 1 to {BLOCK_BYTES}", least=1),),
    ENTRY_END: (_SHA256,),
    ITEM_END: (_SHA256,),
    DROP: (_TRANSFER, _REASON),
    WELCOME: (
        Field(
            "unfinished",
            f"array of at most {MAX_UNFINISHED} bin, each {TRANSFER_ID_BYTES} bytes",
            _is_transfers,
        ),
    ),
    STAND: (
        _TRANSFER,
        _ENTRIES,
        _count("offset", MAX_SIZE_BYTES, "2^50"),
        _SHA256,
    ),
    GOT: (_TRANSFER, _SIZE),
    STORED: (_TRANSFER, _NAME, _SHA256),
    REFUSED: (_TRANSFER, _REASON),
}

FROM_SENDER: Final = frozenset({ALIVE, ITEM, ASK, ENTRY, BYTES, ENTRY_END, ITEM_END, DROP})
FROM_RECEIVER: Final = frozenset({ALIVE, WELCOME, STAND, GOT, STORED, REFUSED})

Packet = dict[str, Any]


def encode(packet_id: int, **values: Any) -> bytes:
    """Return a packet's bytes."""
    encoded: bytes = msgpack.packb({"packet_id": packet_id, **values})
    return encoded


def check(packet: Packet, known: frozenset[int]) -> None:
    """Refuse what is no packet of those that may come here.

    Raises:
        RemoteProtocolError: UNKNOWN_PACKET, or MALFORMED.
    """
    packet_id = packet.get("packet_id")
    if type(packet_id) is not int or packet_id not in known:
        raise RemoteProtocolError(Code.UNKNOWN_PACKET, "no packet of a stream of files")
    for field in FIELDS[packet_id]:
        if not field.holds(packet.get(field.name)):
            raise RemoteProtocolError(Code.MALFORMED, f"{field.name}: needs {field.type}")


class Splitter:
    """Cuts what comes into packets, and the raw bytes behind each packet Bytes.

    Args:
        known: the ids that may come from the other side.
    """

    def __init__(self, known: frozenset[int]) -> None:
        self._known = known
        self._rest = b""
        self._raw_bytes = 0

    def receive_data(self, data: bytes) -> Iterator[tuple[Packet, bytes] | memoryview]:
        """Yield each packet with its own encoding, and raw bytes in pieces as they come.

        Raises:
            RemoteProtocolError: that is no packet, or too large; nothing more can be read then.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        view, at, size = memoryview(data), 0, len(data)
        while at < size:
            if self._raw_bytes:
                piece = view[at : at + self._raw_bytes]
                at += len(piece)
                self._raw_bytes -= len(piece)
                yield piece
                continue
            frame = Frame(
                MAX_PACKET_BYTES, codec.MAX_MAP_ITEMS, codec.MAX_ARRAY_ITEMS, codec.MAX_DEPTH
            )
            end = frame.find_end(data, at)
            if end is None:
                self._rest = data[at:]
                return
            encoded = data[at:end]
            packet = codec.decode(encoded)
            check(packet, self._known)
            at = end
            if packet["packet_id"] == BYTES:
                self._raw_bytes = packet["length"]
            else:
                yield packet, encoded
