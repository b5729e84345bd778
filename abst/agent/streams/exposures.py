"""Exposed services: what peers reach of this device's own network, as its owner has chosen.

Each stream of an exposed service is joined with a connection of its own to an endpoint, such as the
port of a web server that knows nothing of ABST. Owns which services are exposed, to whom, and what
happens when nobody answers behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import TimeoutError, maybeDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.agent.streams.exposure import Exposure
from abst.agent.streams.gate_lines import check_offered
from abst.agent.streams.single import SingleFactory
from abst.device import Device, Peer
from abst.errors import AbstError
from abst.joining import End, joined_ends

MAX_EXPOSURES: Final = 100
MAX_ENDPOINT_CHARACTERS: Final = 1000

ANSWER_SECONDS: Final = 10.0
"""How long the program behind a service has to take a connection."""


class Exposures:
    """The exposed services of a device.

    Args:
        reactor: the reactor.
        device: the device.
        exposures: what is exposed from the beginning.
        changed: called after every change, to save what is exposed; may raise ``AbstError``.
    """

    log = Logger(namespace="abst.agent")

    def __init__(
        self,
        reactor: Any,
        device: Device,
        exposures: Iterable[Exposure] = (),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._device = device
        self._changed = changed
        self._exposures = {exposure.service: exposure for exposure in exposures}
        self._ports: dict[str, IListeningPort] = {}
        self._problems: dict[str, str] = {}

    def all(self) -> tuple[Exposure, ...]:
        """Return what is exposed, by name."""
        return tuple(self._exposures[service] for service in sorted(self._exposures))

    def problem(self, service: str) -> str | None:
        """Return why a service could not be offered when the agent was started, or None."""
        return self._problems.get(service)

    async def start(self) -> None:
        """Offer what is exposed; what cannot be is left out, and the log says why."""
        for exposure in self.all():
            try:
                await self._offer(exposure)
            except AbstError as error:
                self._problems[exposure.service] = str(error)
                self.log.error(
                    "service {service} is not exposed: {error}",
                    service=exposure.service,
                    error=str(error),
                )

    async def add(self, exposure: Exposure) -> None:
        """Expose a service, from now on and after restarts.

        Raises:
            AbstError: the name or the endpoint cannot be used, or the name is taken.
        """
        check_offered(exposure.service)
        if exposure.service in self._exposures:
            raise AbstError(
                f"{exposure.service} is exposed already: "
                f"'abst expose remove {exposure.service}' makes room for it"
            )
        if len(self._exposures) >= MAX_EXPOSURES:
            raise AbstError(f"{MAX_EXPOSURES} services are exposed already: remove one first")
        await self._offer(exposure)
        self._exposures[exposure.service] = exposure
        try:
            self._changed()
        except AbstError:
            await self._withdraw(exposure.service)
            raise

    async def remove(self, service: str) -> Exposure:
        """Expose a service no more; streams that are open go on.

        Raises:
            AbstError: it is not exposed.
        """
        exposure = self._exposures.get(service)
        if exposure is None:
            raise AbstError(f"{service!r} is not exposed: 'abst expose list' shows what is")
        await self._withdraw(service)
        self._changed()
        return exposure

    async def _offer(self, exposure: Exposure) -> None:
        endpoint = parse_endpoint(self._reactor, exposure.endpoint)
        admitted = frozenset(exposure.peers)

        def admits(peer: Peer) -> bool:
            return not admitted or peer.device_id in admitted

        factory = _ExposedFactory(self._reactor, exposure.service, endpoint)
        port = await self._device.streams.listen(exposure.service, factory, admits)
        self._ports[exposure.service] = port

    async def _withdraw(self, service: str) -> None:
        del self._exposures[service]
        self._problems.pop(service, None)
        port = self._ports.pop(service, None)
        if port is not None:
            await maybeDeferred(port.stopListening)


class _ExposedFactory(Factory):
    """Joins each stream with a connection to an endpoint."""

    noisy = False
    log = Logger(namespace="abst.agent")

    def __init__(self, reactor: Any, service: str, endpoint: IStreamClientEndpoint) -> None:
        self._reactor = reactor
        self._service = service
        self._endpoint = endpoint

    def buildProtocol(self, addr: Any) -> End:
        """Return a stream's protocol, and connect to the endpoint for it."""
        outer, inner = joined_ends()
        connecting = self._endpoint.connect(SingleFactory(inner))
        connecting.addTimeout(ANSWER_SECONDS, self._reactor)
        connecting.addErrback(self._failed, outer)
        return outer

    def _failed(self, failure: Failure, outer: End) -> None:
        outer.give_up()
        why = failure.getErrorMessage() or type(failure.value).__name__
        if failure.check(TimeoutError):
            why = f"no answer within {ANSWER_SECONDS:g} s"
        self.log.warn(
            "a stream for {service} was broken off: the program behind it: {why}",
            service=self._service,
            why=why,
        )


def parse_endpoint(reactor: Any, text: str) -> IStreamClientEndpoint:
    """Return the endpoint that a string names.

    Raises:
        AbstError: it names none that can be used here.
    """
    kind, _, rest = text.partition(":")
    if len(text) > MAX_ENDPOINT_CHARACTERS:
        raise AbstError(f"an endpoint has at most {MAX_ENDPOINT_CHARACTERS} characters")
    if kind == "unix" and not rest.removeprefix("path=").startswith("/"):
        # The agent does not run in the folder in which the command was given.
        raise AbstError(f"{text!r}: the path of a socket has to begin with /")
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    except Exception as error:  # What a parser raises is its own affair.
        raise AbstError(
            f"{text!r} is no endpoint such as tcp:127.0.0.1:80 or unix:/run/x.sock: {error}"
        ) from None
    return endpoint
