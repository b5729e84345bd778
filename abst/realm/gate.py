"""Who may open a connection, before a byte of TLS is computed for it (spec: realm.md, "Fairness").

Pure. Owns how many connections one network address has, and how often it, and all strangers
together, may begin a handshake. An address from which a device has come that may be here is no
stranger: a flood from elsewhere does not keep its devices out. For IPv6 an address is its first 64
bits, which is what one customer of a provider has.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

from abst.realm.limits import Limits
from abst.realm.quota import Quota

BURST_SECONDS: Final = 5
"""How many seconds' worth of handshakes may come at once."""

MAX_KNOWN: Final = 50_000
"""How many addresses are known from which devices have come; the least recent are forgotten."""

_NETWORK_BYTES: Final = 8
_LOOPBACK: Final = frozenset((ip_address("127.0.0.1").packed, ip_address("::1").packed[:8]))


class Shut(enum.StrEnum):
    """Why a connection was not let in: the limit, or what was wrong."""

    ADDRESS_CONNECTIONS = "address_connections"
    ADDRESS_HANDSHAKES = "address_handshakes_per_second"
    HANDSHAKES = "handshakes_per_second"
    PROXY = "proxy_header"


def address_of(host: str) -> bytes:
    """Return an address in its shortest form: IPv4 in IPv6's clothes is IPv4.

    What is no address at all, such as a Unix socket's name, is itself.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host.encode("utf-8", "replace")
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return address.packed


def network_of(host: str) -> bytes:
    """Return what counts as one address: four bytes of IPv4, eight of IPv6."""
    return address_of(host)[:_NETWORK_BYTES]


class Gate:
    """The door of a realm.

    This machine's own loopback address counts as a stranger's until a device has come from it, and
    is bound by no limit of one address: who is behind it are several, such as those that a tunnel
    lets in.

    Args:
        limits: how many, how often.

    Attributes:
        limits: those that count now.
    """

    limits: Limits

    def __init__(self, limits: Limits) -> None:
        self._connections: dict[bytes, int] = {}
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on; all buckets are full again."""
        self.limits = limits
        of_one, of_all = limits.address_handshakes_per_second, limits.handshakes_per_second
        self._of_address = Quota(BURST_SECONDS * of_one, of_one)
        self._of_strangers = Quota(BURST_SECONDS * of_all, of_all)

    def __len__(self) -> int:
        return sum(self._connections.values())

    def enter(self, host: str | None, now: float) -> Place | Shut:
        """Count a connection in, or return why it is not let in.

        Who could not begin a handshake is not let in, unless known: a known one may be here for
        something that needs none, such as the leg of a circuit.

        Args:
            host: the other end's address; None where there is none, as behind a Unix socket.
            now: the time.
        """
        network = b"" if host is None else network_of(host)
        here = self._connections.get(network, 0)
        if not self._is_many(network) and here >= self.limits.address_connections:
            return Shut.ADDRESS_CONNECTIONS
        if network not in self._known:
            shut = self._look(network, now)
            if shut is not None:
                return shut
        self._connections[network] = here + 1
        return Place(self, network)

    # For the connections that are in.

    def leave(self, network: bytes) -> None:
        """Count a connection out."""
        here = self._connections[network] - 1
        if here:
            self._connections[network] = here
        else:
            del self._connections[network]

    def shake_hands(self, network: bytes, now: float) -> Shut | None:
        """Count a handshake that begins, or return why it may not."""
        if not self._is_many(network) and self._of_address.take(network, now):
            return Shut.ADDRESS_HANDSHAKES
        if network not in self._known and self._of_strangers.take(None, now):
            return Shut.HANDSHAKES
        return None

    def admitted(self, network: bytes) -> None:
        """Know an address from now on: a device has come from it that may be here."""
        self._known[network] = None
        self._known.move_to_end(network)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    # Inside.

    @staticmethod
    def _is_many(network: bytes) -> bool:
        """Tell whether several may be behind one address of this machine's own."""
        return not network or network in _LOOPBACK

    def _look(self, network: bytes, now: float) -> Shut | None:
        """Return why a stranger could not begin a handshake now, if it could not."""
        if not self._is_many(network) and self._of_address.wait(network, now):
            return Shut.ADDRESS_HANDSHAKES
        return Shut.HANDSHAKES if self._of_strangers.wait(None, now) else None


class Place:
    """One connection that has been let in."""

    __slots__ = ("_gate", "_is_taken", "_network")

    def __init__(self, gate: Gate, network: bytes) -> None:
        self._gate = gate
        self._network = network
        self._is_taken = True

    def shake_hands(self, now: float) -> Shut | None:
        """Begin a handshake, or return why it may not be begun."""
        return self._gate.shake_hands(self._network, now)

    def admitted(self) -> None:
        """Hear that a device has come on this connection that may be here."""
        self._gate.admitted(self._network)

    def leave(self) -> None:
        """Be gone."""
        if self._is_taken:
            self._is_taken = False
            self._gate.leave(self._network)
