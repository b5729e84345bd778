"""Direct connections over TCP: one port that listens, and dialling. A thin Twisted adapter.

Spec: channel.md, "Over a direct connection". Owns sockets and nothing of what goes over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import format_host_port, parse_host_port
from abst.device.network_changes import own_addresses
from abst.device.pipes import Pipe
from abst.device.tcp_pipe import TcpPipe, plain_address
from abst.errors import AbstError, PeerUnreachableError

DIAL_SECONDS: Final = 5.0


class DirectPort:
    """Listens for peers, and dials them.

    Args:
        reactor: the reactor.
        port: the TCP port; 0 for any that is free.
        interface: the address to listen on; "" for all, IPv6 and IPv4.
        addresses: returns the machine's own addresses.

    Attributes:
        problem: one line on why nobody can connect, or None.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        reactor: Any,
        port: int = 0,
        interface: str = "",
        addresses: Callable[[], list[str]] = own_addresses,
    ) -> None:
        self._reactor = reactor
        self._wanted_port = port
        self._interface = interface
        self._own_addresses = addresses
        self._port: Any = None
        self.problem: str | None = "it does not listen"

    @property
    def port(self) -> int | None:
        """The port that is listened on; None when there is none."""
        return None if self._port is None else int(self._port.getHost().port)

    def start(self, accepted: Callable[[Pipe], None]) -> None:
        """Begin to listen; a device that cannot goes on without.

        Args:
            accepted: is given each connection, and has to take it at once.
        """
        factory = _PipeFactory(accepted)
        # Listening on :: takes IPv4 too, unless the machine has no IPv6 at all.
        interfaces = [self._interface] if self._interface else ["::", "0.0.0.0"]
        for interface in interfaces:
            try:
                self._port = self._reactor.listenTCP(
                    self._wanted_port, factory, interface=interface
                )
            except CannotListenError as error:
                self.problem = str(error)
            else:
                self.problem = None
                return
        self.log.warn("peers cannot connect directly: {problem}", problem=self.problem)

    def stop(self) -> Deferred[Any]:
        """Listen no more."""
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    def addresses(self) -> list[str]:
        """Return where this device can be dialled, as ``HOST:PORT``."""
        port = self.port
        if port is None:
            return []
        hosts = [self._interface] if self._interface else self._own_addresses()
        return [format_host_port(host, port) for host in hosts]

    def dial(self, address: str) -> Deferred[Pipe]:
        """Connect; fails with an ``AbstError``."""
        try:
            host, port = parse_host_port(address)
        except AbstError as error:
            return fail(error)
        endpoint: IStreamClientEndpoint
        if ":" in host:
            endpoint = TCP6ClientEndpoint(self._reactor, host, port, timeout=DIAL_SECONDS)
        elif host.replace(".", "").isdigit():
            endpoint = TCP4ClientEndpoint(self._reactor, host, port, timeout=DIAL_SECONDS)
        else:
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=DIAL_SECONDS)
        factory = Factory.forProtocol(lambda: TcpPipe(address))
        factory.noisy = False
        connecting: Deferred[Any] = endpoint.connect(factory)
        return connecting.addErrback(_unreachable, address)


def _unreachable(failure: Failure, address: str) -> Any:
    raise PeerUnreachableError(f"{address}: {failure.getErrorMessage()}")


class _PipeFactory(Factory):
    noisy = False

    def __init__(self, accepted: Callable[[Pipe], None]) -> None:
        self._accepted = accepted

    def buildProtocol(self, addr: Any) -> TwistedProtocol:
        return _AcceptedPipe(plain_address(addr), self._accepted)


class _AcceptedPipe(TcpPipe):
    def __init__(self, address: str, accepted: Callable[[Pipe], None]) -> None:
        super().__init__(address)
        self._accepted = accepted

    def connectionMade(self) -> None:
        super().connectionMade()
        self._accepted(self)
