"""How a realm reaches its own port, as a device on this machine would. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, Final, NamedTuple

from abst.realm.gate import address_of

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}

OWN_WORD: Final = b"PROXY UNKNOWN\r\n"
"""What a proxy says that speaks for nobody but itself (PROXY protocol 1)."""


class Way(NamedTuple):
    """A way to one of the realm's ports.

    Attributes:
        host: the address to connect to.
        port: the port there.
        greeting: what the connection begins with, before TLS.
    """

    host: str
    port: int
    greeting: bytes = b""


def find_way(listen: Iterable[str], ports: Iterable[Any], proxies: Container[bytes]) -> Way | None:
    """Return a way to a port that takes connections from this machine, or None.

    Args:
        listen: the descriptions of the ports.
        ports: the ports, in the same order.
        proxies: the addresses from which only proxies connect, in their shortest form.
    """
    for description, port in zip(listen, ports, strict=True):
        place = port.getHost()
        if not hasattr(place, "port"):
            continue
        host = _LOOPBACK.get(place.host, place.host)
        # Whoever connects to an address of this machine's comes from the same one.
        if address_of(host) in proxies:
            return Way(host, place.port, OWN_WORD)
        if not description.startswith("haproxy:"):
            return Way(host, place.port)
    return None
