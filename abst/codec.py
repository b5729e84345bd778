"""MessagePack bytes to packets and back, bounded (spec: packets.md, "Encoding").

Pure. Owns how bytes are cut into packets and refuses, before it stores them, bytes that promise
more than a packet may hold. The decoder raises nothing but ``RemoteProtocolError``.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from abst.errors import Code, LocalProtocolError, RemoteProtocolError
from abst.packets import MAX_PACKET_BYTES, Packet

MAX_MAP_ITEMS: Final = 1024
MAX_ARRAY_ITEMS: Final = 4096
MAX_DEPTH: Final = 32

# The longest start of a map: 0xde or 0xdf and a count, then the shortest key and value.
_UNPACKER_HEADROOM_BYTES: Final = 1 << 20


def encode(packet: Packet, max_packet_bytes: int = MAX_PACKET_BYTES) -> bytes:
    """Return a packet's bytes.

    Raises:
        LocalProtocolError: the content is nothing that MessagePack can carry, or the packet is
            larger than ``max_packet_bytes``.
    """
    try:
        encoded: bytes = msgpack.packb(packet.to_map())
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"this content cannot be sent: {error}") from None
    if len(encoded) > max_packet_bytes:
        raise LocalProtocolError(
            f"a packet has at most {max_packet_bytes} bytes, this one {len(encoded)}"
        )
    return encoded


class Decoder:
    """Cuts a stream of bytes into the maps that it holds, one for each packet.

    Feed it with ``receive_data`` and take maps with ``next_map`` until that returns None.
    ``consumed_bytes`` counts what the maps taken so far have used, ``buffered_bytes`` what waits.
    After an error the decoder is useless: the stream has lost its place.
    """

    __slots__ = ("_fed_bytes", "_max_packet_bytes", "_unpacker", "consumed_bytes")

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._unpacker = msgpack.Unpacker(
            read_size=1024,
            # What is fed at once may hold many packets; one packet is measured in next_map.
            max_buffer_size=max_packet_bytes + _UNPACKER_HEADROOM_BYTES,
            max_str_len=max_packet_bytes,
            max_bin_len=max_packet_bytes,
            max_ext_len=max_packet_bytes,
            max_array_len=MAX_ARRAY_ITEMS,
            max_map_len=MAX_MAP_ITEMS,
            object_pairs_hook=_map_of_pairs,
            ext_hook=_refuse_extension,
            strict_map_key=False,
        )
        self._fed_bytes = 0
        self.consumed_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """How many bytes have been fed and belong to no map yet."""
        return self._fed_bytes - self.consumed_bytes

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes as they came from the network, at most 1 MiB at once.

        Raises:
            RemoteProtocolError: TOO_LARGE when they do not fit.
        """
        try:
            self._unpacker.feed(data)
        except (msgpack.BufferFull, ValueError):
            raise self._too_large() from None
        self._fed_bytes += len(data)

    def next_map(self) -> dict[Any, Any] | None:
        """Return the next packet's map, or None when the bytes so far hold no whole one.

        Raises:
            RemoteProtocolError: MALFORMED or TOO_LARGE.
        """
        try:
            value = self._unpacker.unpack()
        except msgpack.OutOfData:
            if self.buffered_bytes > self._max_packet_bytes:
                raise self._too_large() from None
            return None
        except msgpack.exceptions.UnpackValueError as error:
            raise self._refused(error) from None
        except RemoteProtocolError:
            raise
        except Exception as error:
            # The library's pure Python twin raises errors of many kinds for bad bytes.
            raise self._refused(error) from None
        begun, self.consumed_bytes = self.consumed_bytes, self._unpacker.tell()
        if self.consumed_bytes - begun > self._max_packet_bytes:
            raise self._too_large()
        if not isinstance(value, dict):
            raise RemoteProtocolError(Code.MALFORMED, "a packet is a map")
        if not _is_shallow(value):
            raise RemoteProtocolError(Code.MALFORMED, f"nested deeper than {MAX_DEPTH}")
        return value

    def _too_large(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            Code.TOO_LARGE, f"a packet has at most {self._max_packet_bytes} bytes"
        )

    def _refused(self, error: Exception) -> RemoteProtocolError:
        # The library reports a length over its bound as a ValueError that says "exceeds max_...".
        if "exceeds max_" in str(error):
            return self._too_large()
        return RemoteProtocolError(Code.MALFORMED, "not MessagePack")


def _map_of_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    # Two readers could each believe another one of two equal keys, so there must not be two.
    if len(found) != len(pairs):
        raise RemoteProtocolError(Code.MALFORMED, "a key stands twice in a map")
    return found


def _refuse_extension(code: int, data: bytes) -> Any:
    raise RemoteProtocolError(Code.MALFORMED, "MessagePack extension types are not used")


def _is_shallow(value: dict[Any, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            return True
    return False
