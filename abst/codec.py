"""MessagePack bytes to packets and back, bounded (spec: packets.md, "Encoding").

Pure. Owns how bytes are cut into packets, and refuses what no packet may be: the decoder builds
nothing before a packet is whole, so that what is promised costs nothing, and it raises nothing but
``RemoteProtocolError``. What ``encode`` accepts it accepts too: a packet that only its sender
finds good would be sent again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgpack

from abst.errors import Code, LocalProtocolError, RemoteProtocolError
from abst.packets import MAX_PACKET_BYTES, Application, Packet

MAX_MAP_ITEMS: Final = 1024
MAX_ARRAY_ITEMS: Final = 4096
MAX_DEPTH: Final = 32
"""How many maps and arrays may stand in each other, the packet's own map included."""

MAX_FED_BYTES: Final = 1 << 20
"""The most that ``Decoder.receive_data`` takes at once."""

_PairsHook = Callable[[Iterable[tuple[Any, Any]]], dict[Any, Any]]

_SCALARS: Final = (bytes, str, int, float, type(None))

# The bytes that begin a map, each with how many bytes of count follow it.
_MAP_STARTS: Final = {**dict.fromkeys(range(0x80, 0x90), 0), 0xDE: 2, 0xDF: 4}


def encode(packet: Packet, max_packet_bytes: int = MAX_PACKET_BYTES) -> bytes:
    """Return a packet's bytes.

    Raises:
        LocalProtocolError: a field or the content is nothing that the other side would accept, or
            the packet is larger than ``max_packet_bytes``.
    """
    try:
        encoded: bytes = msgpack.packb(packet.to_map())
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"this content cannot be sent: {error}") from None
    if len(encoded) > max_packet_bytes:
        raise LocalProtocolError(
            f"a packet has at most {max_packet_bytes} bytes, this one {len(encoded)}"
        )
    if isinstance(packet, Application) and not isinstance(packet.content, _SCALARS):
        try:
            # A dict has no key twice, so that need not be looked for again.
            _unpack(encoded, None)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this content cannot be sent: {error.reason}") from None
    return encoded


def decode(packet: bytes) -> dict[Any, Any]:
    """Return the map that the bytes of one whole packet hold; the caller has bounded their number.

    Raises:
        RemoteProtocolError: MALFORMED or TOO_LARGE.
    """
    return _unpack(packet, _map_of_pairs)


def _unpack(packet: bytes, pairs_hook: _PairsHook | None) -> dict[Any, Any]:
    if not packet or packet[0] not in _MAP_STARTS:
        raise _no_map()
    try:
        value: dict[Any, Any] = msgpack.unpackb(
            packet,
            max_array_len=MAX_ARRAY_ITEMS,
            max_map_len=MAX_MAP_ITEMS,
            object_pairs_hook=pairs_hook,
            ext_hook=_refuse_extension,
            strict_map_key=False,
        )
    except RemoteProtocolError:
        raise
    except Exception as error:
        raise _refusal(error) from None
    if not _is_shallow(value):
        raise RemoteProtocolError(Code.MALFORMED, f"nested deeper than {MAX_DEPTH}")
    return value


class Decoder:
    """Cuts a stream of bytes into the maps that it holds, one for each packet.

    Feed it with ``receive_data`` and take maps with ``next_map`` until that returns None.
    ``consumed_bytes`` counts what the maps taken so far have used, ``buffered_bytes`` what waits.
    After an error the decoder is useless: the stream has lost its place.
    """

    __slots__ = ("_max_packet_bytes", "_scanner", "_waiting", "consumed_bytes")

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._waiting = bytearray()
        # It only finds where packets end. Building a map while it comes in would make room for
        # all items that are promised, a thousand times in each other: 32 MiB for 3 KiB of bytes.
        self._scanner = msgpack.Unpacker(
            read_size=1024, max_buffer_size=max_packet_bytes + MAX_FED_BYTES
        )
        self.consumed_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """How many bytes have been fed and belong to no map yet."""
        return len(self._waiting)

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes as they came from the network, at most ``MAX_FED_BYTES`` at once.

        Raises:
            RemoteProtocolError: TOO_LARGE when they do not fit.
        """
        try:
            self._scanner.feed(data)
        except (msgpack.BufferFull, ValueError):
            raise self._too_large() from None
        self._waiting += data

    def next_map(self) -> dict[Any, Any] | None:
        """Return the next packet's map, or None when the bytes so far hold no whole one.

        Raises:
            RemoteProtocolError: MALFORMED or TOO_LARGE.
        """
        waiting = self._waiting
        if not waiting:
            return None
        self._check_beginning()
        try:
            self._scanner.skip()
        except msgpack.OutOfData:
            if len(waiting) > self._max_packet_bytes:
                raise self._too_large() from None
            return None
        except Exception as error:
            raise _refusal(error) from None
        end = self._scanner.tell()
        size = end - self.consumed_bytes
        if size > self._max_packet_bytes:
            raise self._too_large()
        packet = bytes(memoryview(waiting)[:size])
        del waiting[:size]
        self.consumed_bytes = end
        return decode(packet)

    def _check_beginning(self) -> None:
        """Refuse at once what can become no packet, whatever comes after it."""
        count_bytes = _MAP_STARTS.get(self._waiting[0])
        if count_bytes is None:
            raise _no_map()
        if count_bytes:
            count = self._waiting[1 : 1 + count_bytes]
            if len(count) == count_bytes and int.from_bytes(count, "big") > MAX_MAP_ITEMS:
                raise _too_many_items()

    def _too_large(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            Code.TOO_LARGE, f"a packet has at most {self._max_packet_bytes} bytes"
        )


def _refusal(error: Exception) -> RemoteProtocolError:
    # What the library raises for bad bytes is of many kinds, most of all in its pure Python twin.
    # A length over its bound is a ValueError that says so.
    text = str(error)
    if "exceeds max_array_len" in text or "exceeds max_map_len" in text:
        return _too_many_items()
    if "exceeds max_" in text:
        return RemoteProtocolError(Code.TOO_LARGE, "a length in it is more than a packet holds")
    return RemoteProtocolError(Code.MALFORMED, "not MessagePack")


def _no_map() -> RemoteProtocolError:
    return RemoteProtocolError(Code.MALFORMED, "a packet is a map")


def _too_many_items() -> RemoteProtocolError:
    most = f"a map has at most {MAX_MAP_ITEMS} items, an array {MAX_ARRAY_ITEMS}"
    return RemoteProtocolError(Code.TOO_LARGE, most)


def _map_of_pairs(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    # The pure Python twin gives a generator, up to msgpack 1.0.5.
    pairs = pairs if isinstance(pairs, list) else list(pairs)
    found = dict(pairs)
    # Two readers could each believe another one of two equal keys, so there must not be two.
    if len(found) != len(pairs):
        raise RemoteProtocolError(Code.MALFORMED, "a key stands twice in a map")
    return found


def _refuse_extension(code: int, data: bytes) -> Any:
    raise RemoteProtocolError(Code.MALFORMED, "of the extension types only timestamps are known")


def _is_shallow(value: dict[Any, Any]) -> bool:
    # The library makes dicts and lists and no subclasses of them, and isinstance takes longer.
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for parent in level
            for item in (parent.values() if type(parent) is dict else parent)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return True
    return False
