"""Puts and gets in the form in which nearly all come, read without decoding them.

Pure. What is read here means what the codec and ``packets.parse`` would make of it, in a sixth of
their time. Whatever is not whole, not in that form, or not within its limits is left to them, who
say what is wrong with it.
"""

from __future__ import annotations

from typing import Final

from abst.device_id import DEVICE_ID_BYTES, is_device_id
from abst.packets import (
    MAX_COUNT,
    MAX_SEALED_VALUE_BYTES,
    VALUE_NAME_BYTES,
    GetValue,
    PutValue,
)

# A map of four keys: packet_id, request, peer_group, content; in Put with two keys in it.
_PUT: Final = b"\x84\xa9packet_id\x08\xa7request"
_GET: Final = b"\x84\xa9packet_id\x09\xa7request"
_GROUP: Final = b"\xaapeer_group\xc4\x10"
_PUT_NAME: Final = b"\xa7content\x82\xa4name\xc4\x20"
_GET_NAME: Final = b"\xa7content\x81\xa4name\xc4\x20"
_VALUE: Final = b"\xa5value"

_UINT_BYTES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_BIN_LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def read_requests(data: bytes, begin: int) -> tuple[list[PutValue | GetValue], int]:
    """Return the packets that begin in some bytes, as far as they need not be decoded.

    And where the last of them ends.
    """
    found: list[PutValue | GetValue] = []
    while True:
        request, begin = read_request(data, begin)
        if request is None:
            return found, begin
        found.append(request)


def read_request(data: bytes, begin: int) -> tuple[PutValue | GetValue | None, int]:
    """Return the packet that begins in some bytes, and where it ends.

    None, and where it begins, when it is to be decoded.
    """
    if data.startswith(_PUT, begin):
        name_key = _PUT_NAME
    elif data.startswith(_GET, begin):
        name_key = _GET_NAME
    else:
        return None, begin
    at = begin + len(_PUT)
    size = len(data)
    if at >= size:
        return None, begin
    request = data[at]
    at += 1
    if request >= 0x80:
        width = _UINT_BYTES.get(request)
        if width is None:
            return None, begin
        request = int.from_bytes(data[at : at + width], "big")
        at += width
    group_at = at + len(_GROUP)
    name_key_at = group_at + DEVICE_ID_BYTES
    name_at = name_key_at + len(name_key)
    end = name_at + VALUE_NAME_BYTES
    group = data[group_at:name_key_at]
    if not (
        end <= size
        and request <= MAX_COUNT
        and data.startswith(_GROUP, at)
        and data.startswith(name_key, name_key_at)
        and is_device_id(group)
    ):
        return None, begin
    name = data[name_at:end]
    if name_key is _GET_NAME:
        return GetValue(group, name, request), end
    if not data.startswith(_VALUE, end):
        return None, begin
    at = end + len(_VALUE)
    width = _BIN_LENGTH_BYTES.get(data[at]) if at < size else None
    if width is None:
        return None, begin
    value_at = at + 1 + width
    length = int.from_bytes(data[at + 1 : value_at], "big")
    end = value_at + length
    if end > size or length > MAX_SEALED_VALUE_BYTES:
        return None, begin
    return PutValue(group, name, data[value_at:end], request=request), end
