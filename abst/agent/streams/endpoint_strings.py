"""Endpoint strings: ``abst:SERVICE`` to listen, ``abst:PEER:SERVICE`` to connect.

Owns what the strings mean. Both go through the agent of the user's device, so that a program which
knows nothing of ABST can use them; ``home=DIR`` names another home than the usual one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.agent.default_home import default_home
from abst.agent.streams.gate_client import AskingForStream, ask, check_agent
from abst.agent.streams.gate_lines import Connect, Listen, check_offered, check_service
from abst.agent.streams.offering import Offering
from abst.errors import AbstError, PeerUnreachableError

TIMEOUT_SECONDS: Final = 30.0
MAX_TIMEOUT_SECONDS: Final = 86400.0


@implementer(IStreamServerEndpoint)
class AgentServerEndpoint:
    """Listens for streams to a service of the user's device.

    Args:
        reactor: the reactor.
        home: the device's home.
        request: what is offered, and to whom.
    """

    def __init__(self, reactor: Any, home: Path, request: Listen) -> None:
        self._reactor = reactor
        self._home = home
        self._request = request

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Return a Deferred that fires with a port, or fails with an ``AbstError``."""
        try:
            # At once, so that a program which cannot listen does not start.
            check_agent(self._home)
        except AbstError:
            return fail()
        return Offering(self._reactor, self._home, self._request, protocolFactory).start()


@implementer(IStreamClientEndpoint)
class AgentClientEndpoint:
    """Opens streams to a service of a peer of the user's device.

    Args:
        reactor: the reactor.
        home: the device's home.
        request: which service of which peer.
        timeout_seconds: how long that may take.
    """

    def __init__(
        self,
        reactor: Any,
        home: Path,
        request: Connect,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._home = home
        self._request = request
        self._timeout_seconds = timeout_seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Return a Deferred that fires with a protocol, or fails with an ``AbstError``."""
        connected = ensureDeferred(self._connect(protocolFactory))
        return connected.addTimeout(self._timeout_seconds, self._reactor, self._late)

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        asking = AskingForStream(self._request, factory)
        await ask(self._reactor, self._home, asking)
        assert asking.protocol is not None
        return asking.protocol

    def _late(self, result: Any, seconds: float) -> Any:
        if isinstance(result, Failure) and result.check(CancelledError):
            raise PeerUnreachableError(f"{self._request.peer} has not answered in {seconds:g} s")
        return result


def server_endpoint(
    reactor: Any, service: str, *, peers: str = "", home: str | None = None
) -> AgentServerEndpoint:
    """Return what ``abst:SERVICE`` means.

    Args:
        reactor: the reactor.
        service: the service's name.
        peers: who may use it, with commas in between; everybody when it is empty.
        home: the device's home.

    Raises:
        ValueError: the string is wrong; the text says why.
    """
    names = tuple(name.strip() for name in peers.split(",")) if peers else ()
    if not all(names):
        raise ValueError(f"peers={peers} lacks a name: it is to be like peers=laptop,phone")
    try:
        request = Listen(check_offered(service), names)
        return AgentServerEndpoint(reactor, _home(home), request)
    except AbstError as error:
        raise ValueError(str(error)) from None


def client_endpoint(
    reactor: Any, peer: str, service: str, *, timeout: str = "", home: str | None = None
) -> AgentClientEndpoint:
    """Return what ``abst:PEER:SERVICE`` means.

    Args:
        reactor: the reactor.
        peer: the peer, named as in every command.
        service: the service's name there.
        timeout: how many seconds it may take to connect.
        home: the device's home.

    Raises:
        ValueError: the string is wrong; the text says why.
    """
    try:
        request = Connect(peer, check_service(service))
        return AgentClientEndpoint(reactor, _home(home), request, _seconds(timeout))
    except AbstError as error:
        raise ValueError(str(error)) from None


def _home(text: str | None) -> Path:
    return Path(text).expanduser() if text else default_home()


def _seconds(text: str) -> float:
    seconds = float(text) if text else TIMEOUT_SECONDS
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise ValueError(f"timeout={text} is no number of seconds up to {MAX_TIMEOUT_SECONDS:g}")
    return seconds
