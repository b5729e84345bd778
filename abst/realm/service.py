"""The realm as a Twisted service: state folder, identity, ports, address, orderly stop."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger

from abst.address import RealmAddress
from abst.errors import ConfigurationError
from abst.identity import Identity
from abst.realm.config import Config
from abst.realm.protocol import RealmFactory

IDENTITY_FILE = "identity.pem"
ADDRESS_FILE = "address"
GOODBYE_SECONDS = 3.0


def write_line(text: str) -> None:
    """Write a line to the terminal, past ``twistd``, which turns ``print`` into log lines."""
    stream = sys.__stdout__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(text + "\n")
            stream.flush()


class RealmService(Service):
    """A realm with its ports.

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
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._write = write
        self._ports: list[IListeningPort] = []
        self.factory: RealmFactory | None = None
        self.addresses: list[RealmAddress] = []

    def startService(self) -> None:
        """Open the state folder, load or make the identity, listen, and print the address.

        Raises:
            SystemExit: something is in the way; the text says what.
        """
        super().startService()
        config = self._config
        try:
            make_state_folder(config.state)
            identity = Identity.load_or_create(config.state / IDENTITY_FILE)
            self.factory = RealmFactory(
                self._reactor,
                identity,
                config.limits,
                certificate_file=None if config.certificate is None else str(config.certificate),
                key_file=None if config.key is None else str(config.key),
            )
        except Exception as error:
            raise SystemExit(f"abst-realm: {error}") from None
        listening = gatherResults(
            [self._listen(description) for description in config.listen], consumeErrors=True
        )
        listening.addCallbacks(self._listens, self._failed_to_listen)

    def stopService(self) -> Deferred[Any]:
        """Stop listening, tell every device when to come back, and close in order."""
        super().stopService()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        closing = [port.stopListening() for port in self._ports]
        self._ports = []
        await DeferredList([item for item in closing if item is not None], consumeErrors=True)
        factory = self.factory
        if factory is None:
            return
        factory.stop()
        waited = 0.0
        while factory.realm.conversations and waited < GOODBYE_SECONDS:
            await deferLater(self._reactor, 0.05, lambda: None)
            waited += 0.05

    def _listen(self, description: str) -> Deferred[IListeningPort]:
        assert self.factory is not None
        try:
            endpoint = serverFromString(self._reactor, description)
        except Exception as error:
            raise SystemExit(f"abst-realm: {description!r} is no endpoint: {error}") from None
        return endpoint.listen(self.factory)

    def _listens(self, ports: list[IListeningPort]) -> None:
        assert self.factory is not None
        self._ports = ports
        pinned = self._config.certificate is None
        for port in ports:
            where = port.getHost()
            if not hasattr(where, "port"):
                continue
            host = self._config.host or reachable_host(where.host)
            pin = self.factory.identity.pin if pinned else None
            self.addresses.append(RealmAddress(host, where.port, pin))
        text = "".join(f"{address}\n" for address in self.addresses)
        (self._config.state / ADDRESS_FILE).write_text(text)
        for address in self.addresses:
            self._write(str(address))
            self.log.info("listening as {address}", address=str(address))

    def _failed_to_listen(self, failure: Any) -> None:
        cause = failure.value
        cause = getattr(cause, "subFailure", failure).value
        raise SystemExit(f"abst-realm: {cause}")


def make_state_folder(path: Path) -> None:
    """Make the folder, for its owner only, when it does not exist.

    Raises:
        ConfigurationError: it cannot be made or written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError("--state", None, f"{path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError("--state", None, f"{path}: this user may not write there")


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
