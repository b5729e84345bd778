"""Asking realms for a circuit to a peer, one after the other, until a handshake over one is done.

Spec: circuits.md, "Opening one". Owns when a realm is asked again and when the next one, and that a
circuit which is not needed any more is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device.link import Link
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device.streams.carried import Carried
from abst.device.streams.opening import DialledOpening, OpeningOwner, circuit_opening_seconds
from abst.errors import MEANINGS, AbstError, Code, PeerUnreachableError, RealmRefusedError
from abst.packets import Circuit, ConnectToDevice, Error
from abst.tls import STREAM_ALPN, ChannelContexts

TRIES: Final = 2
"""A plain leg, and when that came to nothing, another circuit with one inside TLS."""

PATIENCE_SECONDS: Final = 5.0
"""How long a realm is waited for: one whose connection has just been lost or is not made yet, or
one that has been asked for too many circuits."""

LEAST_WAIT_SECONDS: Final = 0.1


class CircuitOwner(OpeningOwner, Protocol):
    """This device."""

    contexts: ChannelContexts

    @property
    def links(self) -> Mapping[RealmAddress, Link]:
        """The realms that this device uses."""

    def links_up(self) -> list[Link]:
        """Return the realms that are connected, best first."""

    def why_unreachable(self) -> str:
        """Return one line on why no realm is connected."""


def give_back(circuit: Circuit) -> Error:
    """Return the packet that says that this device does not take a circuit, or needs it no more."""
    code = Code.CIRCUIT_REFUSED
    return Error(str(code), MEANINGS[code].sentence, circuit=circuit.circuit)


class CircuitDial:
    """One search.

    Args:
        owner: this device.
        peer: whom to reach.
        shaken: called with the first opening whose handshake is done; the search is over then.
        failed: called when no realm is left.

    Attributes:
        is_over: nothing more comes of it.
    """

    def __init__(
        self,
        owner: CircuitOwner,
        peer: Peer,
        shaken: Callable[[DialledOpening], None],
        failed: Callable[[AbstError], None],
    ) -> None:
        self.is_over = False
        self._owner = owner
        self._peer = peer
        self._shaken = shaken
        self._failed = failed
        self._links: list[Link] = []
        self._tries = 0
        self._waited_seconds = 0.0
        self._timer: Any = None
        self._circuit: tuple[Link, Circuit] | None = None
        self._leg: Deferred[Pipe] | None = None
        self._opening: DialledOpening | None = None
        self._problem: AbstError | None = None

    def start(self) -> None:
        """Ask the first realm."""
        self._links = self._owner.links_up()
        self._ask()

    def link_up(self, link: Link) -> None:
        """Hear that a realm is connected now."""
        if self.is_over or link in self._links:
            return
        self._links.append(link)
        if self._timer is not None and len(self._links) == 1:
            self._stop_timer()
            self._ask()

    def stop(self) -> None:
        """Ask no more, and give back what was asked for."""
        if self.is_over:
            return
        self.is_over = True
        self._stop_timer()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.give_up(PeerUnreachableError("not needed any more"))
            return
        leg, self._leg = self._leg, None
        if leg is not None:
            leg.cancel()
        if self._circuit is not None:
            link, circuit = self._circuit
            link.tell(give_back(circuit))

    # Asking.

    def _ask(self) -> None:
        if self._links:
            link = self._links[0]
            asking = ConnectToDevice(bytes(self._owner.device_id), bytes(self._peer.device_id))
            link.ask(asking).addCallbacks(partial(self._given, link), self._not_given)
        elif self._may_wait():
            self._wait(PATIENCE_SECONDS)
        else:
            self._give_up()

    def _given(self, link: Link, circuit: Circuit) -> None:
        if self.is_over:
            link.tell(give_back(circuit))
            return
        self._circuit = (link, circuit)
        self._leg = link.open_leg(circuit, inside_tls=self._tries > 0)
        self._leg.addCallbacks(partial(self._open, link, circuit), self._no_leg)

    def _not_given(self, failure: Failure) -> None:
        if self.is_over:
            return
        problem = _as_problem(failure)
        self._problem = problem
        if isinstance(problem, RealmRefusedError) and problem.code == Code.RATE_LIMITED:
            wait = max(problem.retry_after_seconds or 0.0, LEAST_WAIT_SECONDS)
            if self._waited_seconds + wait <= PATIENCE_SECONDS:
                # Many streams at once are no abuse: they are opened one after the other.
                self._wait(wait)
                return
        self._next_link()

    def _next_link(self) -> None:
        self._tries = 0
        del self._links[:1]
        self._ask()

    def _may_wait(self) -> bool:
        """Tell whether there is a realm that may be back in a moment."""
        is_fresh = self._waited_seconds < PATIENCE_SECONDS
        return is_fresh and bool(self._owner.links) and not self._owner.links_up()

    def _wait(self, seconds: float) -> None:
        self._waited_seconds += seconds
        self._timer = self._owner.reactor.callLater(seconds, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._ask()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _give_up(self) -> None:
        self.is_over = True
        self._failed(self._why())

    def _why(self) -> AbstError:
        problem = self._problem
        if problem is None:
            return PeerUnreachableError(f"{self._peer}: {self._owner.why_unreachable()}")
        away = (Code.TARGET_ABSENT, Code.CIRCUIT_UNANSWERED)
        if isinstance(problem, RealmRefusedError) and problem.code in away:
            return PeerUnreachableError(f"{self._peer}: {problem}")
        return problem

    # The leg, and the handshake over it.

    def _open(self, link: Link, circuit: Circuit, pipe: Pipe) -> None:
        self._leg = None
        if self.is_over:
            pipe.abort()
            return
        engine = self._owner.contexts.dial(self._peer.check_key, alpn=STREAM_ALPN)
        self._opening = DialledOpening(
            self._owner,
            Carried(pipe, engine, link.path, circuit.circuit, link),
            self._peer.device_id,
            circuit_opening_seconds(circuit),
            self._done,
            self._opening_failed,
        )

    def _done(self, opening: DialledOpening) -> None:
        self.is_over = True
        self._opening = None
        self._shaken(opening)

    def _no_leg(self, failure: Failure) -> None:
        self._leg = None
        if not self.is_over:
            self._leg_failed(_as_problem(failure))

    def _opening_failed(self, opening: DialledOpening, problem: AbstError) -> None:
        if opening is self._opening:
            self._opening = None
            self._leg_failed(problem)

    def _leg_failed(self, problem: AbstError) -> None:
        self._circuit = None
        self._problem = problem
        self._tries += 1
        if self._tries < TRIES and not isinstance(problem, RealmRefusedError):
            # Not with the same token: nobody knows whether the realm has seen it.
            self._ask()
        else:
            self._next_link()


def _as_problem(failure: Failure) -> AbstError:
    problem = failure.value
    if isinstance(problem, AbstError):
        return problem
    return PeerUnreachableError(failure.getErrorMessage())
