"""Where a packet ends: MessagePack measured before anything is made of it (spec: packets.md).

Pure. Reads the heads of values and nothing else, refuses what can be no packet at the first byte
that shows it, and keeps one number for each map or array that is still open. To decode a packet
while it comes would cost its receiver many times the memory that the sender has sent: an array
takes room for every item that it promises, and an empty one, which is sent as a byte, takes eighty.
"""

from __future__ import annotations

from typing import Final

from abst.errors import Code, RemoteProtocolError


def _whole_sizes() -> bytes:
    """Return, for each first byte, how long the whole value is; 0 where that byte cannot tell."""
    sizes = bytearray(256)
    for byte in (*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)):
        sizes[byte] = 1
    for byte in range(0xA0, 0xC0):
        sizes[byte] = 1 + (byte & 0x1F)
    for first, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        sizes[first] = sizes[first + 4] = 1 + width  # uint, and int of the same width
    sizes[0xCA], sizes[0xCB] = 5, 9
    for byte, width in ((0xD4, 1), (0xD5, 2), (0xD6, 4), (0xD7, 8), (0xD8, 16)):
        sizes[byte] = 2 + width  # fixext: a byte of type, then data
    return bytes(sizes)


_WHOLE_SIZES: Final = _whole_sizes()

# First byte: width of the length that follows, and bytes beside the length's own (ext: its type).
_BLOBS: Final = {
    0xC4: (1, 0),
    0xC5: (2, 0),
    0xC6: (4, 0),
    0xC7: (1, 1),
    0xC8: (2, 1),
    0xC9: (4, 1),
    0xD9: (1, 0),
    0xDA: (2, 0),
    0xDB: (4, 0),
}

# First byte: width of the count that follows, and values for each item.
_CONTAINERS: Final = {
    **dict.fromkeys(range(0x80, 0x90), (0, 2)),
    **dict.fromkeys(range(0x90, 0xA0), (0, 1)),
    0xDC: (2, 1),
    0xDD: (4, 1),
    0xDE: (2, 2),
    0xDF: (4, 2),
}


class Frame:
    """One packet's extent, found while its bytes come.

    Args:
        max_bytes: the largest packet.
        max_map_items: the most pairs in one map.
        max_array_items: the most items in one array.
        max_depth: how many maps and arrays may stand in each other, the packet's own included.
    """

    __slots__ = ("_at", "_max_array_items", "_max_bytes", "_max_depth", "_max_map_items", "_open")

    def __init__(
        self, max_bytes: int, max_map_items: int, max_array_items: int, max_depth: int
    ) -> None:
        self._max_bytes = max_bytes
        self._max_map_items = max_map_items
        self._max_array_items = max_array_items
        self._max_depth = max_depth
        self._at = 0
        # How many values still have to come, in the stream itself and in each open map or array.
        self._open = [1]

    def find_end(self, data: bytes | bytearray, begin: int = 0) -> int | None:
        """Return where the packet that begins at ``begin`` ends, or None when bytes are missing.

        Called again with more bytes behind the same beginning, it goes on where it stopped.

        Raises:
            RemoteProtocolError: MALFORMED, or TOO_LARGE for what is there or is promised.
        """
        size = len(data)
        at = begin + self._at
        values = self._open
        while values and at < size:
            byte = data[at]
            length = _WHOLE_SIZES[byte]
            values_inside = 0
            if length:
                if len(values) == 1:
                    raise _not_a_map()
                at += length
            elif byte in _CONTAINERS:
                width, for_each = _CONTAINERS[byte]
                after = at + 1 + width
                if after > size:
                    break
                items = int.from_bytes(data[at + 1 : after], "big") if width else byte & 0x0F
                self._check_container(items, for_each)
                values_inside = items * for_each
                at = after
            elif byte in _BLOBS:
                if len(values) == 1:
                    raise _not_a_map()
                width, beside = _BLOBS[byte]
                after = at + 1 + width
                if after > size:
                    break
                at = after + beside + int.from_bytes(data[at + 1 : after], "big")
            else:
                raise RemoteProtocolError(Code.MALFORMED, "not MessagePack")
            if at - begin > self._max_bytes:
                raise _too_large(self._max_bytes)
            values[-1] -= 1
            if values_inside:
                values.append(values_inside)
            while values and not values[-1]:
                values.pop()
        self._at = at - begin
        return at if not values and at <= size else None

    def _check_container(self, items: int, for_each: int) -> None:
        depth = len(self._open)
        if depth == 1 and for_each != 2:
            raise _not_a_map()
        most = self._max_map_items if for_each == 2 else self._max_array_items
        if items > most:
            raise RemoteProtocolError(Code.TOO_LARGE, f"a map or array of more than {most} items")
        if depth > self._max_depth:
            raise RemoteProtocolError(Code.MALFORMED, f"nested deeper than {self._max_depth}")


def _not_a_map() -> RemoteProtocolError:
    return RemoteProtocolError(Code.MALFORMED, "a packet is a map")


def _too_large(most: int) -> RemoteProtocolError:
    return RemoteProtocolError(Code.TOO_LARGE, f"a packet has at most {most} bytes")
