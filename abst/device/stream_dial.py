"""Finding what carries a stream: direct connections and circuits, tried beside each other.

Spec: streams.md, "Carriers". What has worked lately is tried at once, or else the peer's addresses;
the rest a moment later. The first handshake that is done wins, and nothing is said on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device.carried import Carried
from abst.device.knock import RANDOM_BYTES, knock
from abst.device.link import Link
from abst.device.paths import Path
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device.stream_opening import (
    CIRCUIT_OPENING_SECONDS,
    OPENING_SECONDS,
    DialledOpening,
    OpeningOwner,
)
from abst.device_id import DeviceID
from abst.errors import AbstError, Code, PeerUnreachableError, RealmRefusedError
from abst.packets import Circuit
from abst.tls import STREAM_ALPN, ChannelContexts

LAG_SECONDS: Final = 0.25
"""What is less likely to be used is tried so much later."""

MAX_ADDRESSES_AT_ONCE: Final = 8
CIRCUIT_TRIES: Final = 2
"""A leg that came to nothing is opened inside TLS the next time."""

PATIENCE_SECONDS: Final = 5.0
"""How long a realm is waited for: one whose connection has just been lost or is not made yet, or
one that has been asked for too many circuits."""


class DialOwner(OpeningOwner, Protocol):
    """This device."""

    contexts: ChannelContexts
    random_bytes: Callable[[int], bytes]

    @property
    def links(self) -> Mapping[RealmAddress, Link]:
        """The realms that this device uses."""

    def links_up(self) -> list[Link]:
        """Return the realms that are connected, best first."""

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a peer may be listening, as ``HOST:PORT``, most likely first."""

    def dial_direct(self, address: str) -> Deferred[Pipe]:
        """Connect to an address."""

    def why_unreachable(self) -> str:
        """Return one line on why no realm is connected."""


class StreamDial:
    """One search.

    Args:
        owner: this device.
        peer: whom to reach.
        lately: what a session or a stream with the peer goes over, or has gone a moment ago.

    Attributes:
        found: fires with the opening whose handshake is done first, or fails.
    """

    def __init__(self, owner: DialOwner, peer: Peer, lately: Path | None = None) -> None:
        self.found: Deferred[DialledOpening] = Deferred(lambda _: self._stop())
        self._owner = owner
        self._peer = peer
        self._lately = lately
        self._addresses: list[str] = []
        self._is_circuit_tried = False
        self._waiting: set[Deferred[Any]] = set()
        self._openings: set[DialledOpening] = set()
        self._links: list[Link] = []
        self._tries = 0
        self._lag: Any = None
        self._patience: Any = None
        self._has_waited = False
        self._waited_seconds = 0.0
        self._is_over = False
        self._problem: AbstError | None = None

    def start(self) -> None:
        """Dial what is most likely to be used, and the rest in a moment."""
        self._links = self._owner.links_up()
        found = self._owner.addresses_of(self._peer.device_id)
        self._addresses = found[:MAX_ADDRESSES_AT_ONCE]
        self._lag = self._owner.reactor.callLater(LAG_SECONDS, self._try_the_rest)
        lately = self._lately
        if lately is not None and lately.kind == "realm" and self._links:
            self._try_circuit()
        elif lately is not None and lately.address in found:
            self._dial_direct([lately.address])
        else:
            self._dial_direct(self._addresses)
        self._go_on()

    def _try_the_rest(self) -> None:
        self._stop_lag()
        self._dial_direct(self._addresses)
        if not self._is_circuit_tried and not self._is_over:
            self._try_circuit()
        self._go_on()

    def link_up(self, link: Link) -> None:
        """Hear that a realm is connected, which may have been waited for."""
        if self._patience is not None and not self._links:
            self._stop_patience()
            self._links.append(link)
            self._try_circuit()

    # Direct.

    def _dial_direct(self, addresses: Sequence[str | None]) -> None:
        """Dial addresses that were not dialled yet."""
        self._addresses = [address for address in self._addresses if address not in addresses]
        for address in addresses:
            if address is not None and not self._is_over:
                dialling = self._owner.dial_direct(address)
                self._wait_for(dialling, partial(self._direct, address))

    def _direct(self, address: str, pipe: Pipe) -> None:
        # As for channels: an address that a person has told may be translated on the way.
        where = "" if address in self._peer.addresses else pipe.remote
        name = knock(self._peer.device_id, self._owner.random_bytes(RANDOM_BYTES), where)
        engine = self._owner.contexts.dial(self._peer.check_key, name, alpn=STREAM_ALPN)
        path = Path("direct", address=pipe.address)
        self._open(Carried(pipe, engine, path), OPENING_SECONDS)

    # Circuits.

    def _try_circuit(self) -> None:
        self._is_circuit_tried = True
        if not self._links:
            return
        link = self._links[0]
        asked = link.connect_circuit(self._peer.device_id)
        self._wait_for(asked, lambda circuit: self._open_leg(link, circuit), self._not_given)

    def _not_given(self, problem: AbstError) -> None:
        self._problem = problem
        if isinstance(problem, RealmRefusedError) and problem.code == Code.RATE_LIMITED:
            wait = problem.retry_after_seconds
            if wait is not None and self._waited_seconds + wait <= PATIENCE_SECONDS:
                # Many streams at once are no abuse: they are opened one after the other.
                self._waited_seconds += wait
                self._patience = self._owner.reactor.callLater(wait, self._ask_again)
                return
        self._next_link()

    def _ask_again(self) -> None:
        self._stop_patience()
        self._try_circuit()
        self._go_on()

    def _open_leg(self, link: Link, circuit: Circuit) -> None:
        def opened(pipe: Pipe) -> None:
            engine = self._owner.contexts.dial(self._peer.check_key, alpn=STREAM_ALPN)
            carried = Carried(pipe, engine, link.path, circuit.circuit)
            self._open(carried, CIRCUIT_OPENING_SECONDS)

        self._wait_for(link.open_leg(circuit.token), opened, self._leg_failed)

    def _leg_failed(self, problem: AbstError) -> None:
        self._problem = problem
        self._tries += 1
        came_to_nothing = not isinstance(problem, RealmRefusedError)
        if came_to_nothing and self._tries < CIRCUIT_TRIES and self._links:
            # Not with the same token: nobody knows whether the realm has seen it.
            self._try_circuit()
        else:
            self._next_link()

    def _next_link(self) -> None:
        self._tries = 0
        del self._links[:1]
        if self._links:
            self._try_circuit()
        else:
            self._go_on()

    # Both.

    def _open(self, carried: Carried, seconds: float) -> None:
        self._openings.add(
            DialledOpening(
                self._owner,
                carried,
                self._peer.device_id,
                seconds,
                self._shaken,
                self._opening_failed,
            )
        )

    def _shaken(self, opening: DialledOpening) -> None:
        self._openings.discard(opening)
        self._stop()
        self.found.callback(opening)

    def _opening_failed(self, opening: DialledOpening, problem: AbstError) -> None:
        if opening not in self._openings:
            return
        self._openings.discard(opening)
        if opening.carried.path.kind == "realm":
            self._leg_failed(problem)
        else:
            self._problem = self._problem or problem
            self._go_on()

    def _wait_for(
        self,
        waiting: Deferred[Any],
        succeeded: Callable[[Any], None],
        failed: Callable[[AbstError], None] | None = None,
    ) -> None:
        self._waiting.add(waiting)

        def done(result: Any) -> None:
            self._waiting.discard(waiting)
            if self._is_over:
                if not isinstance(result, Failure | Circuit):
                    result.abort()
            elif not isinstance(result, Failure):
                succeeded(result)
            else:
                problem = result.value
                if not isinstance(problem, AbstError):
                    problem = PeerUnreachableError(result.getErrorMessage())
                if failed is not None:
                    failed(problem)
                else:
                    self._problem = self._problem or problem
                    self._go_on()

        waiting.addBoth(done)

    def _go_on(self) -> None:
        """Hurry when nothing is under way, and fail when nothing is left at all."""
        if self._is_over or self._waiting or self._openings or self._patience is not None:
            return
        if self._lag is not None:
            self._try_the_rest()
            return
        if self._may_wait():
            self._has_waited = True
            self._patience = self._owner.reactor.callLater(PATIENCE_SECONDS, self._tired)
            return
        self._stop()
        self.found.errback(self._why())

    def _may_wait(self) -> bool:
        """Tell whether there is a realm that may be back in a moment."""
        return not self._has_waited and bool(self._owner.links) and not self._owner.links_up()

    def _tired(self) -> None:
        self._stop_patience()
        self._go_on()

    def _stop_patience(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None

    def _why(self) -> AbstError:
        problem = self._problem
        if problem is None:
            return PeerUnreachableError(f"{self._peer}: {self._owner.why_unreachable()}")
        away = (Code.TARGET_ABSENT, Code.CIRCUIT_UNANSWERED)
        if isinstance(problem, RealmRefusedError) and problem.code in away:
            return PeerUnreachableError(f"{self._peer}: {problem}")
        return problem

    def _stop(self) -> None:
        """Try nothing more, and let go of what is under way."""
        self._is_over = True
        self._stop_lag()
        self._stop_patience()
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.cancel()
        openings, self._openings = self._openings, set()
        for opening in openings:
            opening.give_up(PeerUnreachableError("not needed any more"))

    def _stop_lag(self) -> None:
        if self._lag is not None and self._lag.active():
            self._lag.cancel()
        self._lag = None
