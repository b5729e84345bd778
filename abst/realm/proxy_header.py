"""The header by which a proxy says whose connection it passes on (PROXY protocol 1 and 2).

Pure. Takes exactly the header's bytes from a connection, whatever follows it, and nothing of what
it says is believed but two numbers: an address and a port. Who may say so is decided elsewhere.
The source is HAProxy's proxy-protocol.txt of 2020.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED_BYTES: Final = 16
_MAX_TEXT_BYTES: Final = 107
_MAX_BYTES: Final = 1024
"""More than any proxy says by itself; the format would allow 64 KiB."""

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_KINDS: Final = {_TCP4: (IPv4Address, 4), _TCP6: (IPv6Address, 16)}
_NAMES: Final = {"TCP4": IPv4Address, "TCP6": IPv6Address}

PEEK_BYTES: Final = _MAX_BYTES
"""How much of a connection has to be looked at, at most, to find the end of the header."""


class BadHeaderError(ValueError):
    """What has come is no header, or not one that names a TCP connection."""


class ProxyHeader:
    """One connection's header, while it comes.

    Attributes:
        source: host and port of whoever the proxy speaks for; None before the header is whole, and
            when the proxy speaks for itself, which is how it looks whether the realm is there.
    """

    def __init__(self) -> None:
        self.source: tuple[str, int] | None = None
        self._data = b""

    def feed(self, data: bytes) -> tuple[int, bool]:
        """Look at what comes next; return how much of it belongs to the header, and the end.

        The end is True when the header is whole.

        Raises:
            BadHeaderError: it can be no header any more.
        """
        had = len(self._data)
        whole = self._data + data
        is_binary = whole.startswith(_SIGNATURE[:1])
        size = _binary_bytes(whole) if is_binary else _text_bytes(whole)
        if size is None:
            self._data = whole
            return len(data), False
        header = whole[:size]
        self.source = _parse_binary(header) if is_binary else _parse_text(header)
        return size - had, True


def _binary_bytes(data: bytes) -> int | None:
    """Return how long a version 2 header is that begins so, or None when more has to come."""
    if not data.startswith(_SIGNATURE[: len(data)]):
        raise BadHeaderError
    if len(data) < _FIXED_BYTES:
        return None
    size = _FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if size > _MAX_BYTES:
        raise BadHeaderError
    return size if len(data) >= size else None


def _text_bytes(data: bytes) -> int | None:
    """Return how long a version 1 header is that begins so, or None when more has to come."""
    if not data.startswith(b"PROXY "[: len(data)]):
        raise BadHeaderError
    end = data.find(b"\r\n", 0, _MAX_TEXT_BYTES)
    if end < 0 and len(data) >= _MAX_TEXT_BYTES:
        raise BadHeaderError
    return None if end < 0 else end + 2


def _parse_binary(header: bytes) -> tuple[str, int] | None:
    command, kind = header[12], header[13]
    if command == _LOCAL:
        return None
    if command != _PROXY or kind not in _KINDS:
        raise BadHeaderError
    family, size = _KINDS[kind]
    addresses = header[_FIXED_BYTES:]
    if len(addresses) < 2 * size + 4:
        raise BadHeaderError
    port = int.from_bytes(addresses[2 * size : 2 * size + 2], "big")
    return str(family(addresses[:size])), port


def _parse_text(header: bytes) -> tuple[str, int] | None:
    try:
        words = header.decode("ascii").rstrip("\r\n").split(" ")
        if words[1] == "UNKNOWN":
            return None
        _, kind, host, target, port, target_port = words
        family = _NAMES[kind]
        family(target)
        source = str(family(host))
        if not (_is_port(port) and _is_port(target_port)):
            raise BadHeaderError
    except (ValueError, KeyError, IndexError):
        raise BadHeaderError from None
    return source, int(port)


def _is_port(text: str) -> bool:
    return text.isdigit() and len(text) <= 5 and int(text) <= 65535
