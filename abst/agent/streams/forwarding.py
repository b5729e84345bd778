"""A forward: connections to this machine that become streams to a service of a peer.

Owns where it listens, how many connections it carries, and what it tells whoever has asked for it.
It ends with the command that began it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocol, IStreamServerEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import format_host_port
from abst.agent.streams.single import SingleFactory
from abst.device import Device, Peer
from abst.errors import AbstError
from abst.joining import End

MAX_CONNECTIONS: Final = 200
MAX_ENDPOINT_CHARACTERS: Final = 1000

_LOOPBACK: Final = {"tcp": "127.0.0.1", "ssl": "127.0.0.1", "tcp6": r"\:\:1"}
_INTERFACE_AT: Final = {"tcp": 1, "ssl": 4, "tcp6": 2}
"""Where Twisted looks for the interface when it is not named ``interface=``."""

_WRAPPED_PORT: Final = re.compile(r"[:=](tcp6?|ssl)(\\*:|$)")
"""A TCP port inside another endpoint, such as ``haproxy:tcp:80``."""

FAILURE_SECONDS: Final = 1.0
"""How often, at most, it is told that a connection could not be made."""

Tell = Callable[[dict[str, Any]], None]


class Forward(Factory):
    """Takes connections, and makes a stream for each.

    Args:
        device: the device.
        peer: the other one.
        service: what the streams are for.
        tell: called with ``{"kind": "failed", "reason": ...}`` when a connection could not be made,
            and with ``{"kind": "working"}`` when one could be made again.
        seconds: the clock.

    Attributes:
        address: where it listens, for people.
    """

    noisy = False
    log = Logger(namespace="abst.agent")

    def __init__(
        self, device: Device, peer: Peer, service: str, tell: Tell, seconds: Callable[[], float]
    ) -> None:
        self.peer = peer
        self.service = service
        self.address = ""
        self._device = device
        self._tell = tell
        self._seconds = seconds
        self._port: IListeningPort | None = None
        self._ends: set[_LocalEnd] = set()
        self._opening: set[Deferred[IProtocol]] = set()
        self._failed_at: float | None = None
        self._is_failing = False

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._ends)

    async def listen(self, endpoint: IStreamServerEndpoint) -> None:
        """Take connections from now on.

        Raises:
            AbstError: that is not possible there.
        """
        try:
            self._port = await endpoint.listen(self)
        except CancelledError:
            raise
        except Exception as error:
            raise AbstError(f"cannot listen there: {error}") from None
        self.address = _where(self._port)

    async def stop(self) -> None:
        """Take no more connections, and break those off that are open."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        for opening in tuple(self._opening):
            opening.cancel()
        for end in tuple(self._ends):
            end.give_up()

    def buildProtocol(self, addr: Any) -> End | None:
        """Open a stream for a connection; None when there are too many."""
        if self.connection_count >= MAX_CONNECTIONS:
            self._failed(f"{MAX_CONNECTIONS} connections are open already")
            return None
        local, remote = _LocalEnd(self._ends), End()
        local.join(remote)
        opening = self._device.streams.connect(
            self.peer.device_id, self.service, SingleFactory(remote)
        )
        self._opening.add(opening)
        opening.addBoth(self._opened, opening, local)
        return local

    def _opened(self, result: Any, opening: Deferred[IProtocol], local: End) -> None:
        self._opening.discard(opening)
        if not isinstance(result, Failure):
            if self._is_failing:
                self._is_failing = False
                self._tell({"kind": "working"})
            return
        local.give_up()
        if result.check(AbstError):
            self._failed(str(result.value))
        elif not result.check(CancelledError):
            self.log.failure("a stream could not be opened", result)
            self._failed("something went wrong in the agent: its log says what")

    def _failed(self, why: str) -> None:
        """Tell that a connection could not be made, unless that was told just now."""
        now = self._seconds()
        if self._failed_at is None or now - self._failed_at >= FAILURE_SECONDS:
            self._failed_at = now
            self._is_failing = True
            self._tell({"kind": "failed", "reason": why})


class _LocalEnd(End):
    """The end of a connection to this machine, which is counted while it is open."""

    def __init__(self, ends: set[_LocalEnd]) -> None:
        super().__init__()
        self._ends = ends

    def makeConnection(self, transport: Any) -> None:
        """Be counted."""
        self._ends.add(self)
        super().makeConnection(transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Be counted no more."""
        self._ends.discard(self)
        super().connectionLost(reason)


def parse_local_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """Return where to listen; a TCP port is this machine's alone unless the text says otherwise.

    Raises:
        AbstError: the text names no endpoint that can be used here.
    """
    if len(text) > MAX_ENDPOINT_CHARACTERS:
        raise AbstError(f"an endpoint has at most {MAX_ENDPOINT_CHARACTERS} characters")
    kind, _, rest = text.partition(":")
    if kind == "unix" and not rest.removeprefix("address=").startswith("/"):
        # The agent does not run in the folder in which the command was given.
        raise AbstError(f"{text!r}: the path of a socket has to begin with /")
    if kind in _LOOPBACK and not _names_interface(kind, rest):
        text += f":interface={_LOOPBACK[kind]}"
    if _WRAPPED_PORT.search(text) and "interface=" not in text:
        raise AbstError(f"{text!r}: say on which interface it listens, such as interface=127.0.0.1")
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
    except Exception as error:  # What a parser raises is its own affair.
        raise AbstError(
            f"{text!r} is no endpoint such as tcp:8080 or unix:/run/x.sock: {error}"
        ) from None
    return endpoint


def _names_interface(kind: str, arguments: str) -> bool:
    """Tell whether the arguments of an endpoint say on which interface it listens."""
    parts = re.split(r"(?<!\\):", arguments)
    if any(part.startswith("interface=") for part in parts):
        return True
    return sum("=" not in part for part in parts) > _INTERFACE_AT[kind]


def _where(port: IListeningPort) -> str:
    address = port.getHost()
    match address:
        case IPv4Address() | IPv6Address():
            return format_host_port(address.host, address.port)
        case UNIXAddress():
            return os.fsdecode(address.name or b"")
    return str(address)
