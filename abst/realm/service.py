"""The realm as a Twisted service: state folder, identity, store, ports, address, orderly stop."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.errors import AbstError, ConfigurationError
from abst.identity import Identity
from abst.logs import LoggingService
from abst.open_files import allow_open_files
from abst.realm.capacity import files_for, limits_within
from abst.realm.config import Config
from abst.realm.limits import Limits
from abst.realm.protocol import RealmFactory
from abst.realm.state_folder import (
    ADDRESS_FILE,
    IDENTITY_FILE,
    STORE_FILE,
    lock_state_folder,
    make_state_folder,
)
from abst.realm.store.sqlite import SqliteStore
from abst.realm.web.service import RealmWeb
from abst.systemd import SystemdNotifier

GOODBYE_SECONDS = 3.0


def write_line(text: str) -> None:
    """Write a line to the terminal, past ``twistd``, which turns ``print`` into log lines."""
    stream = sys.__stdout__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(text + "\n")
            stream.flush()


class RealmService(LoggingService):
    """A realm with its ports.

    Args:
        reactor: the reactor that runs it.
        config: what it is started with.
        write: writes a line to the terminal.
        endpoint_of: makes an endpoint from a description, as Twisted does.

    Attributes:
        factory: the realm; None before the service is started.
        addresses: one address for each port that listens.
    """

    name = "abst-realm"
    log = Logger(namespace="abst.realm")

    def __init__(
        self,
        reactor: Any,
        config: Config,
        write: Callable[[str], None] = write_line,
        endpoint_of: Callable[[Any, str], Any] = serverFromString,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._write = write
        self._endpoint_of = endpoint_of
        self._ports: list[IListeningPort] = []
        self._store: SqliteStore | None = None
        self._lock: int | None = None
        self._systemd = SystemdNotifier(reactor)
        self._web = RealmWeb(reactor, config)
        self.factory: RealmFactory | None = None
        self.addresses: list[RealmAddress] = []

    def startService(self) -> None:
        """Open the state folder with the identity and the store, listen, and print the address.

        Raises:
            SystemExit: something is in the way; the text says what.
        """
        super().startService()
        config = self._config
        try:
            make_state_folder(config.state)
            identity = Identity.load_or_create(config.state / IDENTITY_FILE)
            self._lock = lock_state_folder(config.state)
            limits, pipes = self._affordable(config.limits)
            self.factory = RealmFactory(
                self._reactor,
                identity,
                limits,
                certificate_file=None if config.certificate is None else str(config.certificate),
                key_file=None if config.key is None else str(config.key),
                pipes=pipes,
                store=self._open_store(),
            )
            self._log_as_configured(self.factory)
        except (AbstError, OSError, ValueError) as error:
            self._unlock()
            raise SystemExit(f"abst-realm: {error}") from None
        starting = ensureDeferred(self._start(self.factory))
        # Ports are opened at once, as a rule, and then it is known already how that went.
        problems: list[Failure] = []
        starting.addErrback(problems.append)
        if problems:
            raise SystemExit(f"abst-realm: {problems[0].value}") from None
        if not starting.called:
            starting.addCallback(lambda _: self._give_up(problems))

    def _log_as_configured(self, factory: RealmFactory) -> None:
        """Write what the configuration wants, from now on."""
        if self.log_output is not None:
            self.log_output.level = self._config.log_level
        factory.stories.shows_addresses = not self._config.blur_addresses

    def _open_store(self) -> SqliteStore:
        self._store = SqliteStore(self._reactor, self._config.state / STORE_FILE)
        return self._store

    def _affordable(self, limits: Limits) -> tuple[Limits, int]:
        """Return the limits that the system's own limit of open files leaves, and of pipes."""
        files = allow_open_files(files_for(limits))
        affordable, pipes = limits_within(limits, files)
        if affordable != limits:
            self.log.warn(
                "the system allows {files} open files, so there will be at most {connections} "
                "connections and {circuits} circuits; raise LimitNOFILE for more",
                files=files,
                connections=affordable.connections,
                circuits=affordable.circuits,
            )
        return affordable, pipes

    async def _start(self, factory: RealmFactory) -> None:
        for description in self._config.listen:
            try:
                port = await self._endpoint_of(self._reactor, description).listen(factory)
            except Exception as error:
                raise ConfigurationError("--listen", None, f"{description}: {error}") from None
            self._ports.append(port)
        pinned = self._config.certificate is None
        for port in self._ports:
            where: Any = port.getHost()
            if not hasattr(where, "port"):
                continue
            host = self._config.host or reachable_host(where.host)
            self.addresses.append(
                RealmAddress(host, where.port, factory.identity.pin if pinned else None)
            )
        text = "".join(f"{address}\n" for address in self.addresses)
        (self._config.state / ADDRESS_FILE).write_text(text)
        for address in self.addresses:
            self._write(str(address))
            self.log.info("listening as {address}", address=str(address))
        if self._store is not None:
            await self._web.start(factory, self._store, self._ports)
        self._systemd.ready(lambda: f"devices here: {factory.realm.here}")

    def _give_up(self, problems: list[Failure]) -> None:
        if problems:
            self._write(f"abst-realm: {problems[0].value}")
            self.log.critical("abst-realm: {problem}", problem=problems[0].value)
            self._reactor.stop()

    def stopService(self) -> Deferred[Any]:
        """Stop listening, tell every device when to come back, and close in order."""
        super().stopService()
        self._systemd.stopping()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await self._web.stop()
        closing = [port.stopListening() for port in self._ports]
        self._ports = []
        await DeferredList([item for item in closing if item is not None], consumeErrors=True)
        if self.factory is not None:
            await self._part(self.factory)
        if self._store is not None:
            await self._store.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _part(self, factory: RealmFactory) -> None:
        """Tell every device when to come back, and wait until they are gone."""
        factory.stop()
        waited = 0.0
        while not factory.is_idle and waited < GOODBYE_SECONDS:
            await deferLater(self._reactor, 0.05, lambda: None)
            waited += 0.05


def reachable_host(bound: str) -> str:
    """Return the host under which others reach a port that is bound to an address.

    A port bound to one address is reached there. One bound to all is reached at the address from
    which this machine would send to the world; asking for it sends nothing.
    """
    if bound not in ("0.0.0.0", "::", ""):
        return bound
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # RFC 5737: an address that is nobody's
        return str(probe.getsockname()[0])
    return "127.0.0.1"
