"""A circuit for which a peer has asked, from the acceptor's end (spec: circuits.md).

Owns this device's leg until a stream comes of it, and that the leg is opened again, inside TLS,
when a plain one came to nothing: where something on the way has kept it back, its token is good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.device.link import Link
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device.streams.carried import Carried
from abst.device.streams.opening import (
    AcceptedOpening,
    Decide,
    OpeningOwner,
    circuit_opening_seconds,
)
from abst.errors import AbstError, RealmRefusedError
from abst.packets import Circuit
from abst.tls import STREAM_ALPN, ChannelContexts

LEG_TRIES = 2
"""A plain leg, and one inside TLS."""


class CircuitOwner(OpeningOwner, Protocol):
    """This device."""

    contexts: ChannelContexts


class OfferedCircuit:
    """One of them.

    Args:
        owner: this device.
        link: the realm that offers it.
        circuit: what the realm has said.
        peer: who has asked for it.
        decide: says what becomes of a dialler who holds the pairing.
        over: called when a stream has begun on it, or nothing has come of it.

    Attributes:
        device_id: who has asked.
        link: the realm that offers it.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        owner: CircuitOwner,
        link: Link,
        circuit: Circuit,
        peer: Peer,
        decide: Decide,
        over: Callable[[OfferedCircuit], None],
    ) -> None:
        self.device_id = peer.device_id
        self._owner = owner
        self.link = link
        self._circuit = circuit
        self._peer = peer
        self._decide = decide
        self._over = over
        self._tries = 0
        self._leg: Deferred[Pipe] | None = None
        self._opening: AcceptedOpening | None = None
        self._is_over = False

    def start(self) -> None:
        """Open the leg."""
        self._tries += 1
        self._opening = None
        self._leg = self.link.open_leg(self._circuit, inside_tls=self._tries > 1)
        self._leg.addCallbacks(self._connected, self._not_connected)

    def give_up(self, problem: AbstError) -> None:
        """Let nothing come of it."""
        self._end()
        if self._opening is not None:
            self._opening.give_up(problem)
        elif self._leg is not None:
            self._leg.cancel()

    def _connected(self, pipe: Pipe) -> None:
        if self._is_over:
            pipe.abort()
            return
        engine = self._owner.contexts.accept(self._peer.check_key, alpn=STREAM_ALPN)
        carried = Carried(pipe, engine, self.link.path, self._circuit.circuit, self.link)
        self._opening = AcceptedOpening(
            self._owner,
            carried,
            self.device_id,
            circuit_opening_seconds(self._circuit),
            self._decide,
            self._opening_over,
        )

    def _not_connected(self, failure: Failure) -> None:
        if not self._is_over:
            self._came_to_nothing(failure.getErrorMessage())

    def _opening_over(self, opening: AcceptedOpening, problem: AbstError | None) -> None:
        if self._is_over:
            return
        if problem is None:
            self._end()
        elif (
            opening.is_untouched
            and not isinstance(problem, RealmRefusedError)
            and self._tries < LEG_TRIES
        ):
            self.start()
        else:
            self._came_to_nothing(str(problem))

    def _came_to_nothing(self, why: str) -> None:
        self.log.info("a circuit came to nothing: {why}", why=why)
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._over(self)
