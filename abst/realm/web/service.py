"""A realm's web site as a part of its service: begins when the realm listens, ends before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from abst.errors import ConfigurationError
from abst.realm.config import Config
from abst.realm.protocol import RealmFactory
from abst.realm.store.sqlite import SqliteStore
from abst.realm.web.place import LoopbackPlace, UnixPlace, place_of
from abst.realm.web.site import FewConnections, realm_site
from abst.realm.web.watch import Watch
from abst.realm.web.way import find_way


class RealmWeb:
    """What a realm shows, and where.

    Args:
        reactor: the reactor.
        config: returns the configuration in force; its ``web`` says where.

    Attributes:
        port: what listens, once it does.
        watch: what measures the realm, once it does.
    """

    log = Logger(namespace="abst.realm")

    def __init__(self, reactor: Any, config: Callable[[], Config]) -> None:
        self._reactor = reactor
        self._config = config
        self.port: IListeningPort | None = None
        self.watch: Watch | None = None
        self._site: FewConnections | None = None

    async def start(
        self, factory: RealmFactory, store: SqliteStore, ports: Iterable[IListeningPort]
    ) -> None:
        """Begin, if it is wanted at all.

        Args:
            factory: the realm.
            store: its store.
            ports: the ports that it listens on.

        Raises:
            ConfigurationError: the place is taken, or may not be used.
        """
        config = self._config()
        if config.web is None:
            return
        place = place_of(config.web)
        watch = Watch(
            self._reactor, factory, find_way(config.listen, ports, factory.trusted_proxies)
        )
        self._site = site = realm_site(
            watch,
            factory.now,
            lambda: self._config().host or "",
            blurs=config.blur_addresses,
            is_socket=isinstance(place, UnixPlace),
        )
        try:
            if isinstance(place, UnixPlace):
                place.make_room()
            self.port = await place.endpoint(self._reactor).listen(site)
        except Exception as error:
            raise ConfigurationError("web", None, f"{place}: {error}") from None
        store.committed = watch.committed
        watch.start()
        self.watch = watch
        if isinstance(place, LoopbackPlace):
            where: Any = self.port.getHost()
            place = replace(place, port=where.port)
        self.log.info("status and metrics at {place}", place=str(place))

    async def stop(self) -> None:
        """End; returns when nothing of it is left."""
        if self.watch is not None:
            await self.watch.stop()
        if self.port is not None and self._site is not None:
            await maybeDeferred(self.port.stopListening)
            self._site.end()
        self.port = self.watch = None
