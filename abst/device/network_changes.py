"""Tells when the machine's network changes: links, addresses and routes that come and go.

Owns one netlink socket in the reactor (rtnetlink(7)) where there is such a thing, or else looks at
the machine's addresses now and then. It does not say what has changed: who is told looks for
himself, which cannot go out of step. Many changes within a second are told as one.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

FIRST_SECONDS: Final = 0.05
"""How long after a change it is told: what belongs together comes together."""

APART_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 15.0
MAX_OWN_ADDRESSES: Final = 16

# linux/rtnetlink.h: links, IPv4 addresses and routes, IPv6 addresses and routes.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400


class Kind(enum.IntEnum):
    """The kinds of messages of rtnetlink that count."""

    NEW_LINK = 16
    DELETED_LINK = 17
    NEW_ADDRESS = 20
    DELETED_ADDRESS = 21
    NEW_ROUTE = 24
    DELETED_ROUTE = 25


_HEADER: Final = struct.Struct("=IHxxxxxxxxxx")  # of a message: length, kind, what does not matter
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, kind
_U32: Final = struct.Struct("=I")
_ROUTE_FLAGS: Final = 8  # where they stand in struct rtmsg
_CLONED: Final = 0x200  # RTM_F_CLONED: an entry of a cache, no route
_ADDRESS_ATTRIBUTES: Final = 8  # behind struct ifaddrmsg
_PEER, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_LINK, _ADDRESS = 1, 2
_MAX_KEPT: Final = 1024

_READ_BYTES: Final = 65536
_READS_PER_TURN: Final = 64


class NetworkChanges:
    """Calls somebody when the network has changed.

    The first change is told at once, later ones at most each second; the last is always told.

    Args:
        reactor: the reactor.
        changed: called with nothing.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, reactor: Any, changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._changed = changed
        self._source: _Netlink | Looking | None = None
        self._timer: Any = None
        self._told_at: float | None = None

    def start(self) -> None:
        """Begin to watch."""
        if self._source is None:
            self._source = _source(self._reactor, self.notice)
            self._source.start()

    def stop(self) -> None:
        """Watch no more; nothing is told from here on."""
        if self._source is not None:
            self._source.stop()
            self._source = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def notice(self) -> None:
        """Take it that something has changed."""
        if self._timer is not None or self._source is None:
            return
        wait = FIRST_SECONDS
        if self._told_at is not None:
            wait = max(wait, self._told_at + APART_SECONDS - self._reactor.seconds())
        self._timer = self._reactor.callLater(wait, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._told_at = self._reactor.seconds()
        self._changed()


def own_addresses(*, link_local: bool = False) -> list[str]:
    """Return the unicast addresses under which others may reach this machine, at most 16.

    Args:
        link_local: whether to add IPv6 addresses that are good on one link only, with their scope,
            as ``fe80::1%eth0``.
    """
    found: dict[str, None] = {}
    for address, interface in _addresses():
        if address.is_loopback or address.is_multicast or address.is_unspecified:
            continue
        if address.version == 6 and address.is_link_local:
            if link_local:
                found[f"{address}%{interface}"] = None
        else:
            found[str(address)] = None
    return list(found)[:MAX_OWN_ADDRESSES]


class NetlinkMessages:
    """Reads what netlink says, and tells changes from what only sounds like one.

    The kernel announces an address again with each router advertisement that prolongs it, and a
    link with each scan of a wireless network. So what was said last of each is kept.
    """

    def __init__(self) -> None:
        self._said: dict[tuple[int, bytes], bytes] = {}

    def has_change(self, data: bytes) -> bool:
        """Tell whether messages, as one read returned them, say that the network has changed."""
        changed = False
        for kind, body in _messages(data):
            changed = self._is_change(kind, body) or changed
        return changed

    def _is_change(self, kind: int, body: bytes) -> bool:
        match kind:
            case Kind.NEW_ROUTE | Kind.DELETED_ROUTE:
                (flags,) = _U32.unpack_from(body, _ROUTE_FLAGS) if len(body) >= 12 else (0,)
                return not flags & _CLONED
            case Kind.NEW_LINK | Kind.DELETED_LINK:
                return self._is_news(kind, (_LINK, body[4:8]), body[8:12])
            case Kind.NEW_ADDRESS | Kind.DELETED_ADDRESS:
                name = body[:2] + body[4:8] + _address_in(body)
                return self._is_news(kind, (_ADDRESS, name), body[2:4])
        return False

    def _is_news(self, kind: int, what: tuple[int, bytes], said: bytes) -> bool:
        if kind in (Kind.DELETED_LINK, Kind.DELETED_ADDRESS):
            self._said.pop(what, None)
            return True
        if self._said.get(what) == said:
            return False
        if len(self._said) >= _MAX_KEPT:
            self._said.clear()
        self._said[what] = said
        return True


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """List the kind and the body of each message."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += _aligned(length)


def _address_in(body: bytes) -> bytes:
    """Return the addresses that a message on an address names."""
    found = b""
    offset = _ADDRESS_ATTRIBUTES
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind in (_LOCAL, _PEER):
            found += body[offset : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return length + 3 & ~3


def _addresses() -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]]:
    """List every address with the name of its interface."""
    import ifaddr

    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            try:
                yield ipaddress.ip_address(text.partition("%")[0]), str(adapter.nice_name)
            except ValueError:
                continue


def _source(reactor: Any, noticed: Callable[[], None]) -> _Netlink | Looking:
    if hasattr(socket, "AF_NETLINK") and IReactorFDSet.providedBy(reactor):
        try:
            return _Netlink(reactor, noticed)
        except OSError as problem:
            NetworkChanges.log.info("netlink cannot be used: {problem}", problem=problem)
    return Looking(reactor, noticed)


@implementer(IReadDescriptor)
class _Netlink:
    """The kernel's own word, as a descriptor of the reactor."""

    def __init__(self, reactor: Any, noticed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._noticed = noticed
        self._messages = NetlinkMessages()
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _GROUPS))
        except OSError:
            self._socket.close()
            raise

    def start(self) -> None:
        self._reactor.addReader(self)

    def stop(self) -> None:
        self._reactor.removeReader(self)
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "NetworkChanges"

    def doRead(self) -> None:
        changed = False
        for _ in range(_READS_PER_TURN):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as problem:
                # With ENOBUFS the kernel had more to say than was read; what it was is not known.
                changed = True
                if problem.errno == errno.ENOBUFS:
                    continue
                self.connectionLost(Failure(problem))
                break
            changed = self._messages.has_change(data) or changed
        if changed:
            self._noticed()

    def connectionLost(self, reason: Failure) -> None:
        """Give the socket up: it is broken. ``stop`` closes it."""
        self._reactor.removeReader(self)
        NetworkChanges.log.error("changes of the network go unnoticed: {why}", why=reason.value)


class Looking:
    """Compares the machine's addresses with what they were, where nobody tells.

    Args:
        reactor: the reactor.
        noticed: called when they have changed.
        addresses: returns what they are.
    """

    def __init__(
        self,
        reactor: Any,
        noticed: Callable[[], None],
        addresses: Callable[[], Iterable[str]] = lambda: own_addresses(link_local=True),
    ) -> None:
        self._reactor = reactor
        self._noticed = noticed
        self._addresses = addresses
        self._known: set[str] = set()
        self._timer: Any = None

    def start(self) -> None:
        """Look at them each 15 seconds from now on."""
        self._known = set(self._addresses())
        self._timer = self._reactor.callLater(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._reactor.callLater(LOOK_SECONDS, self._look)
        before, self._known = self._known, set(self._addresses())
        if self._known != before:
            self._noticed()
