"""Speaks DNS-SD through the library zeroconf, and keeps what that does away from the reactor.

zeroconf has an event loop in a thread of its own, and its calls block. So what is to be announced
is handed to a thread as a whole, as it should be from now on. What others announce is thinned out
in zeroconf's thread, so that a flooder keeps neither the reactor nor anybody behind it busy: so
many are looked at in a second, so many wait, and of one only what can be dialled is passed on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from abst.device.announcement import INSTANCE_BYTES, SERVICE_TYPE, AnyAnnouncement, parse
from abst.device.network_changes import own_addresses

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo

MAX_KNOWN: Final = 1024
MAX_ADDRESSES: Final = 8
MAX_LOOKS_PER_SECOND: Final = 50

_MAX_ASKED: Final = 16
_ASK_MILLISECONDS: Final = 3000
_MAX_CACHED_NAMES: Final = 20_000
_MAX_INTERFACES: Final = 32
_MAX_TOLD: Final = 2 * MAX_KNOWN  # more than anybody behind it remembers
_OWN_KEPT: Final = 64
_NAME: Final = re.compile(rf"([0-9a-f]{{{2 * INSTANCE_BYTES}}})\.{re.escape(SERVICE_TYPE)}")

Address = tuple[str, int]
"""Host and port; the host of an IPv6 link-local address has its scope, as ``fe80::1%eth0``."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a station should be: all is opened again when ``opening`` is another one."""

    opening: int
    port: int
    announcements: tuple[AnyAnnouncement, ...]


class Station:
    """One zeroconf instance at a time, and what is registered with it.

    Lives in threads of a pool, in one at a time; what it hears it tells in the reactor's thread.

    Args:
        reactor: the reactor.
        interfaces: addresses of the interfaces to use, and to announce; None for all of the machine
            but loopback.
        heard: called with the opening that was wanted, an announcement, and where to dial.
        withdrawn: called with the opening and the instance of an announcement that is gone.

    Attributes:
        ignored: how many announcements were too many to look at.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        reactor: Any,
        interfaces: Sequence[str] | None,
        heard: Callable[[int, AnyAnnouncement, list[Address]], None],
        withdrawn: Callable[[int, str], None],
    ) -> None:
        self.ignored = 0
        self.heard = heard
        self.withdrawn = withdrawn
        self._reactor = reactor
        self._interfaces = interfaces
        self.on_loopback = any(ipaddress.ip_address(it).is_loopback for it in interfaces or ())
        self._zeroconf: Zeroconf | None = None
        self._ear: _Ear | None = None
        self._opening = 0
        self._registered: dict[str, ServiceInfo] = {}
        self._own: dict[str, None] = {}

    def become(self, wanted: Wanted | None) -> None:
        """Open, close, register and withdraw what it takes; after an error all is closed.

        Raises:
            Exception: whatever zeroconf and the network think of.
        """
        try:
            if wanted is None or wanted.opening != self._opening:
                self._close()
            if wanted is None:
                return
            zeroconf = self._zeroconf or self._begin(wanted.opening)
            for announcement in wanted.announcements:
                if announcement.instance not in self._registered:
                    self._register(zeroconf, announcement, wanted.port)
            for instance in self._registered.keys() - {it.instance for it in wanted.announcements}:
                zeroconf.unregister_service(self._registered.pop(instance))
        except BaseException:
            self._close()
            raise

    def is_overfull(self) -> bool:
        """Tell whether others have filled zeroconf's memory, which not every version bounds."""
        zeroconf = self._zeroconf
        return zeroconf is not None and len(zeroconf.cache.names()) > _MAX_CACHED_NAMES

    def is_own(self, instance: str) -> bool:
        """Tell whether this device has announced it, a while ago perhaps."""
        return instance in self._own

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        """Call one of the two callbacks in the reactor's thread."""
        self._reactor.callFromThread(what, *args)

    def _begin(self, opening: int) -> Zeroconf:
        self._zeroconf = zeroconf = _open_zeroconf(self._interfaces)
        self._opening = opening
        self._ear = _Ear(self, zeroconf, opening)
        listener: Any = self._ear
        zeroconf.add_service_listener(SERVICE_TYPE, listener)
        return zeroconf

    def _register(self, zeroconf: Zeroconf, announcement: AnyAnnouncement, port: int) -> None:
        from zeroconf import ServiceInfo

        instance = announcement.instance
        while len(self._own) >= _OWN_KEPT:
            del self._own[next(iter(self._own))]
        self._own[instance] = None
        info = ServiceInfo(
            SERVICE_TYPE,
            f"{instance}.{SERVICE_TYPE}",
            port,
            properties=dict(announcement.properties()),
            server=f"{instance}.local.",
            parsed_addresses=_addresses_to_announce(self._interfaces),
        )
        # The name is 64 random bits: to ask first whether it is taken would only cost time.
        zeroconf.register_service(info, cooperating_responders=True)
        self._registered[instance] = info

    def _close(self) -> None:
        """Withdraw everything and close; what goes wrong then is of no interest."""
        zeroconf, self._zeroconf = self._zeroconf, None
        ear, self._ear = self._ear, None
        self._registered.clear()
        if ear is not None:
            ear.close()
        if zeroconf is not None:
            try:
                zeroconf.close()
            except Exception as problem:
                self.log.debug("zeroconf: {problem!r}", problem=problem)


class _Ear:
    """What one zeroconf instance hears of others, thinned out.

    The three methods that zeroconf calls do so in a thread of its own; all else is done in the
    thread of its event loop.
    """

    def __init__(self, station: Station, zeroconf: Zeroconf, opening: int) -> None:
        assert zeroconf.loop is not None
        self._station = station
        self._zeroconf = zeroconf
        self._opening = opening
        self._loop = zeroconf.loop
        self._waiting: dict[str, None] = {}
        self._told: dict[str, None] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_left = MAX_LOOKS_PER_SECOND

    def add_service(self, zeroconf: Zeroconf, type_: str, name: str) -> None:
        """Hear that a service is new."""
        self._browsed(self._noticed, name)

    def update_service(self, zeroconf: Zeroconf, type_: str, name: str) -> None:
        """Hear that a service has changed."""
        self._browsed(self._noticed, name)

    def remove_service(self, zeroconf: Zeroconf, type_: str, name: str) -> None:
        """Hear that a service was withdrawn, or has not been renewed."""
        self._browsed(self._removed, name)

    def close(self) -> None:
        """Ask nobody any more; called in another thread."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # The loop is closed.
            pass

    def _browsed(self, call: Callable[[str], None], name: str) -> None:
        found = _NAME.fullmatch(name)
        if found is None or self._station.is_own(found[1]):
            return
        try:
            self._loop.call_soon_threadsafe(call, found[1])
        except RuntimeError:  # The loop is closed.
            pass

    # In the thread of zeroconf's loop.

    def _noticed(self, instance: str) -> None:
        if instance in self._waiting:
            return
        if len(self._waiting) >= MAX_KNOWN:
            self._station.ignored += 1
            return
        self._waiting[instance] = None
        if self._timer is None:
            self._begin_second()
        else:
            self._look_at_some()

    def _begin_second(self) -> None:
        self._timer = None
        if self._waiting:
            self._looks_left = MAX_LOOKS_PER_SECOND
            self._timer = self._loop.call_later(1.0, self._begin_second)
            self._look_at_some()

    def _look_at_some(self) -> None:
        while self._waiting and self._looks_left:
            self._looks_left -= 1
            instance = next(iter(self._waiting))
            del self._waiting[instance]
            self._look(instance)

    def _look(self, instance: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE_TYPE, f"{instance}.{SERVICE_TYPE}")
        if info.load_from_cache(self._zeroconf):
            self._read(instance, info)
        elif len(self._asking) < _MAX_ASKED:
            task = self._loop.create_task(self._ask(instance, info))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, instance: str, info: AsyncServiceInfo) -> None:
        """Ask for what did not come along with the service's name, as it does in most cases."""
        if await info.async_request(self._zeroconf, _ASK_MILLISECONDS):
            self._read(instance, info)

    def _read(self, instance: str, info: ServiceInfo) -> None:
        announcement = parse(instance, info.properties)
        addresses = dialable(
            info.parsed_scoped_addresses(), info.port, on_loopback=self._station.on_loopback
        )
        if announcement is None or not addresses:
            return
        self._told.pop(instance, None)
        while len(self._told) >= _MAX_TOLD:
            del self._told[next(iter(self._told))]
        self._told[instance] = None
        self._station.tell(self._station.heard, self._opening, announcement, addresses)

    def _removed(self, instance: str) -> None:
        self._waiting.pop(instance, None)
        if instance in self._told:
            del self._told[instance]
            self._station.tell(self._station.withdrawn, self._opening, instance)

    def _cancel(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._asking:
            task.cancel()


def dialable(hosts: Iterable[str], port: int | None, *, on_loopback: bool) -> list[Address]:
    """Return those of the announced addresses that can be dialled, at most 8.

    Args:
        hosts: addresses as zeroconf gives them: link-local ones with the number of an interface.
        port: the announced port.
        on_loopback: whether addresses of this very machine count.
    """
    if not port or not 0 < port < 65536:
        return []
    usable = (host for text in hosts if (host := _dialable_host(text, on_loopback)) is not None)
    return [(host, port) for host in itertools.islice(usable, MAX_ADDRESSES)]


def _dialable_host(text: str, on_loopback: bool) -> str | None:
    plain, _, scope = text.partition("%")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return None
    if address.is_multicast or address.is_unspecified or (address.is_loopback and not on_loopback):
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return None if address.is_reserved or address.packed[0] == 0 else plain
    if address.ipv4_mapped is not None:
        return None
    if not address.is_link_local:
        return plain
    if not scope:
        return None
    try:
        return f"{plain}%{socket.if_indextoname(int(scope))}"
    except (OSError, ValueError):
        return None


def _open_zeroconf(interfaces: Sequence[str] | None) -> Zeroconf:
    from zeroconf import Zeroconf

    chosen = _interfaces_of_this_machine() if interfaces is None else list(interfaces)
    try:
        return Zeroconf(interfaces=chosen)
    except OSError:
        # A half-working IPv6 must not take IPv4 with it.
        old = [it for it in chosen if isinstance(it, str) and ":" not in it]
        if not old or old == chosen:
            raise
        return Zeroconf(interfaces=old)


def _interfaces_of_this_machine() -> list[str | int]:
    """Return what zeroconf calls interfaces: IPv4 addresses, and the numbers of those with IPv6."""
    import ifaddr

    found: list[str | int] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            interface = text if isinstance(ip.ip, str) else adapter.index
            if (
                not ipaddress.ip_address(text.partition("%")[0]).is_loopback
                and interface is not None
                and interface not in found
            ):
                found.append(interface)
    if not found:
        raise OSError("this machine is on no network")
    return found[:_MAX_INTERFACES]


def _addresses_to_announce(interfaces: Sequence[str] | None) -> list[str]:
    """Return the addresses for DNS, where a scope cannot be written."""
    found = own_addresses(link_local=True) if interfaces is None else interfaces
    addresses = list(dict.fromkeys(text.partition("%")[0] for text in found))
    if not addresses:
        raise OSError("this machine has no address on a network")
    return addresses[:MAX_ADDRESSES]
