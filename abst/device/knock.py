"""Knocking: how a dialler shows a listening port that it knows whose port it is. Pure.

Spec: channel.md, "Over a direct connection". The TLS server of a handshake is the first to show its
certificate; whoever scans a network would learn the ID of every device there. So a dialler sends,
as the TLS server name, a hash that only who knows the device's ID can make. It is good for one
address alone, so that who lures a dialler to himself cannot knock elsewhere with what he gets.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

RANDOM_BYTES: Final = 16
HASH_BYTES: Final = 16
LABEL: Final = b"ABST knock 1"
MAX_REMEMBERED: Final = 4096
"""A knock is good once, so that who has overheard it gains nothing by saying it again."""


def knock(device_id: bytes, random: bytes, address: str = "") -> bytes:
    """Return the server name with which a device is dialled.

    Args:
        device_id: the device that is dialled, 16 bytes.
        random: 16 unpredictable bytes.
        address: the ``HOST:PORT`` that is connected to; "" when a person has told it.
    """
    found = hashlib.sha256(LABEL + random + device_id + address.encode()).digest()[:HASH_BYTES]
    return f"{random.hex()}.{found.hex()}".encode()


class Door:
    """Tells good knocks from others.

    Args:
        device_id: this device's own.
    """

    def __init__(self, device_id: bytes) -> None:
        self._device_id = device_id
        self._used: OrderedDict[bytes, None] = OrderedDict()

    def admits(self, server_name: bytes | None, addresses: Iterable[str] = ()) -> bool:
        """Tell whether a knock is good; the same one is good only once.

        Args:
            server_name: what the dialler has sent.
            addresses: where this device knows that it can be connected to.
        """
        if server_name is None or len(server_name) != 2 * (RANDOM_BYTES + HASH_BYTES) + 1:
            return False
        try:
            random = bytes.fromhex(server_name[: 2 * RANDOM_BYTES].decode("ascii"))
        except ValueError:
            return False
        if len(random) != RANDOM_BYTES or random in self._used:
            return False
        name = server_name.lower()
        if all(name != knock(self._device_id, random, at) for at in ("", *addresses)):
            return False
        self._used[random] = None
        if len(self._used) > MAX_REMEMBERED:
            self._used.popitem(last=False)
        return True
