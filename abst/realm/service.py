"""The realm as a Twisted service: state folder, identity, store, ports, address, orderly stop."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.control import ControlFactory, make_room
from abst.errors import AbstError, ConfigurationError
from abst.identity import Identity
from abst.logs import LoggingService
from abst.realm.backup import remove_snapshots
from abst.realm.capacity import Capacity, afford
from abst.realm.config import Config
from abst.realm.first_invitation import FirstInvitation
from abst.realm.gate import address_of
from abst.realm.introduction import introduction, reachable_host, write_line
from abst.realm.limits import Limits
from abst.realm.operations import Operations, Reloaded
from abst.realm.protocol import RealmFactory
from abst.realm.settings import NEED_RESTART, different, in_force
from abst.realm.state_folder import (
    ADDRESS_FILE,
    CONTROL_SOCKET,
    IDENTITY_FILE,
    STORE_FILE,
    lock_state_folder,
    make_state_folder,
    write_secret,
)
from abst.realm.store.sqlite import SqliteStore
from abst.realm.web.service import RealmWeb
from abst.systemd import SystemdNotifier
from abst.tls import realm_server_context

GOODBYE_SECONDS = 3.0

MAX_PEM_BYTES = 1_000_000
"""So much of a certificate's files is looked at to see whether they have changed."""


class RealmService(LoggingService):
    """A realm with its ports, and the socket for its operator's commands.

    Args:
        reactor: the reactor that runs it.
        config: what it is started with.
        write: writes a line to the terminal.
        endpoint_of: makes an endpoint from a description, as Twisted does.
        read_again: reads the configuration anew; None when there is no file to read.
        environment: where systemd says whether standard output is its journal.

    Attributes:
        factory: the realm; None before the service is started.
        addresses: one address for each port that listens.
        started_at: when it was started, on the reactor's clock.
        capacity: how many files it may have open.
    """

    name = "abst-realm"
    log = Logger(namespace="abst.realm")

    def __init__(
        self,
        reactor: Any,
        config: Config,
        write: Callable[[str], None] = write_line,
        endpoint_of: Callable[[Any, str], Any] = serverFromString,
        read_again: Callable[[], Config] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._write = write
        self._endpoint_of = endpoint_of
        self._read_again = read_again
        self._environment = environment
        self._ports: list[IListeningPort] = []
        self._control: IListeningPort | None = None
        self._store: SqliteStore | None = None
        self._first: FirstInvitation | None = None
        self._lock: int | None = None
        self._former_hup: Any = None
        self._shown = b""
        self._systemd = SystemdNotifier(reactor, environment)
        self._web = RealmWeb(reactor, lambda: self._config)
        self.factory: RealmFactory | None = None
        self.addresses: list[RealmAddress] = []
        self.started_at = 0.0
        self.capacity = Capacity(0, 0)

    @property
    def state(self) -> Path:
        """The state folder."""
        return self._config.state

    def startService(self) -> None:
        """Open the state folder with the identity and the store, listen, and print the address.

        Raises:
            SystemExit: something is in the way; the text says what.
        """
        super().startService()
        config = self._config
        self.started_at = self._reactor.seconds()
        try:
            make_state_folder(config.state)
            self._lock = lock_state_folder(config.state)
            identity = Identity.load_or_create(config.state / IDENTITY_FILE)
            remove_snapshots(config.state)
            limits, pipes = self._affordable(config.limits)
            self.factory = RealmFactory(
                self._reactor,
                identity,
                limits,
                certificate_file=None if config.certificate is None else str(config.certificate),
                key_file=None if config.key is None else str(config.key),
                pipes=pipes,
                store=self._open_store(),
                access=config.access,
                trusted_proxies=config.trusted_proxies,
            )
            self._shown = _certificate_of(config)
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
        self.capacity, affordable, pipes = afford(limits)
        numbers = {
            "files": self.capacity.allowed,
            "connections": affordable.connections,
            "circuits": affordable.circuits,
        }
        if affordable == limits:
            self.log.info(
                "the system allows {files} open files, enough for {connections} connections and "
                "{circuits} circuits",
                **numbers,
            )
        else:
            self.log.warn(
                "the system allows {files} open files, so there will be at most {connections} "
                "connections and {circuits} circuits; raise LimitNOFILE for more",
                **numbers,
            )
        return affordable, pipes

    async def _start(self, factory: RealmFactory) -> None:
        for description in self._config.listen:
            try:
                port = await self._endpoint_of(self._reactor, description).listen(factory)
            except Exception as error:
                raise ConfigurationError("--listen", None, f"{description}: {error}") from None
            self._ports.append(port)
        if self._store is not None:
            await self._web.start(factory, self._store, self._ports)
        self.addresses = self._addresses_of(self._config)
        try:
            self._write_addresses(self.addresses)
        except OSError as error:
            # Devices are served all the same, also from a disk that is full.
            path = self.state / ADDRESS_FILE
            self.log.warn(
                "{path} does not tell where the realm is: {problem}",
                path=str(path),
                problem=error.strerror,
            )
        self._take_commands(factory)
        for address in self.addresses:
            self.log.info("listening as {address}", address=str(address))
        self._first = FirstInvitation(factory.realm.access, self.state)
        links = await self._first.renew(self.addresses)
        for line in introduction(
            self.addresses, links, self._first.path, self._config.access, self._environment
        ):
            self._write(line)
        self._systemd.ready(lambda: f"devices here: {factory.realm.here}")

    def _addresses_of(self, config: Config) -> list[RealmAddress]:
        assert self.factory is not None
        pin = self.factory.identity.pin if config.certificate is None else None
        places: list[Any] = [port.getHost() for port in self._ports]
        return [
            RealmAddress(config.host or reachable_host(place.host), place.port, pin)
            for place in places
            if hasattr(place, "port")
        ]

    def _write_addresses(self, addresses: Sequence[RealmAddress]) -> None:
        # It is no secret, but written whole or not at all.
        write_secret(self.state / ADDRESS_FILE, "".join(f"{address}\n" for address in addresses))

    def _take_commands(self, factory: RealmFactory) -> None:
        """Listen for the operator's commands, and for the signal to read the configuration."""
        commands = Operations(self, factory).by_name()
        control = ControlFactory(commands, "realm", {0, os.geteuid()})
        path = self.state / CONTROL_SOCKET
        try:
            make_room(path)
            self._control = self._reactor.listenUNIX(str(path), control, mode=0o600)
        except Exception as error:
            # Devices are served all the same.
            self.log.warn("'abst-realm' will not reach this realm: {error}", error=str(error))
        if self._read_again is not None:
            self._former_hup = signal.signal(signal.SIGHUP, self._hung_up)

    # While it runs.

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Call a function that may take long in another thread."""
        pool = self._reactor.getThreadPool()
        found: Deferred[Any] = deferToThreadPool(self._reactor, pool, function, *arguments)
        return found

    async def reload(self) -> Reloaded:
        """Read the configuration anew, with the certificate's files; all of it counts, or nothing.

        Raises:
            AbstError: it is not usable, and nothing has changed.
        """
        self._systemd.reloading()
        try:
            reloaded = await self._reload()
        except (AbstError, OSError) as error:
            self.log.error("nothing has changed: {problem}", problem=str(error))
            raise AbstError(f"nothing has changed: {error}") from None
        finally:
            self._systemd.reloaded()
        self.log.info(
            "the configuration was read anew; changed: {changed}; at the next start: {restart}",
            changed=", ".join(reloaded.changed) or "nothing",
            restart=", ".join(reloaded.restart) or "nothing",
        )
        return reloaded

    async def _reload(self) -> Reloaded:
        factory, old = self.factory, self._config
        if not self.running:
            raise AbstError("the realm is stopping")
        if self._read_again is None:
            raise AbstError(
                "this realm was started without a configuration file: start it with --config FILE"
            )
        assert factory is not None and self._first is not None
        wanted = self._read_again()
        config = in_force(old, wanted)
        context = realm_server_context(
            factory.identity,
            None if config.certificate is None else str(config.certificate),
            None if config.key is None else str(config.key),
        )
        shown = _certificate_of(config)
        addresses = self._addresses_of(config)
        if addresses != self.addresses:
            self._write_addresses(addresses)
        # From here on nothing can fail.
        changed = different(old, config)
        outdates_link = config.access is not old.access or addresses != self.addresses
        if shown != self._shown and "certificate" not in changed:
            changed.append("certificate")
        self._config, self._shown, self.addresses = config, shown, addresses
        factory.context = context
        factory.trusted_proxies = frozenset(map(address_of, config.trusted_proxies))
        self._log_as_configured(factory)
        if config.limits != old.limits:
            factory.realm.use_limits(self._affordable(config.limits)[0])
        if config.access is not old.access:
            factory.realm.access.set_mode(config.access)
            factory.settle()
        if outdates_link:
            await self._first.renew(addresses)
        return Reloaded(changed, [name for name in different(old, wanted) if name in NEED_RESTART])

    def _hung_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._reload_by_signal)

    def _reload_by_signal(self) -> None:
        # What was wrong stands in the log.
        ensureDeferred(self.reload()).addErrback(lambda failure: failure.trap(AbstError))

    # The end.

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
        closing = [port.stopListening() for port in (*self._ports, self._control) if port]
        self._ports, self._control = [], None
        await DeferredList([item for item in closing if item is not None], consumeErrors=True)
        if self.factory is not None:
            await self._part(self.factory)
        if self._store is not None:
            await self._store.close()
        self._unlock()
        # Not before: what it means else ends a program at once.
        if self._former_hup is not None:
            signal.signal(signal.SIGHUP, self._former_hup)
            self._former_hup = None

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


def _certificate_of(config: Config) -> bytes:
    """Return what tells a certificate and its key from others; nothing when there are none.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in (config.certificate, config.key):
        if path is not None:
            with path.open("rb") as file:
                digest.update(file.read(MAX_PEM_BYTES))
    return digest.digest()
