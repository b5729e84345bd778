"""Finding what carries a stream: direct connections and a circuit, tried beside each other.

Spec: streams.md, "Carriers". What has worked lately is tried at once, or else the peer's addresses;
the rest a moment later. The first handshake that is done wins, and nothing is said on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.device.knock import RANDOM_BYTES, knock
from abst.device.link import Link
from abst.device.paths import Path
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device.streams.carried import Carried
from abst.device.streams.circuit_dial import CircuitDial, CircuitOwner
from abst.device.streams.opening import OPENING_SECONDS, DialledOpening
from abst.device_id import DeviceID
from abst.errors import AbstError, PeerUnreachableError
from abst.tls import STREAM_ALPN

LAG_SECONDS: Final = 0.25
"""What is less likely to be used is tried so much later."""

MAX_ADDRESSES_AT_ONCE: Final = 8

DIAL_SECONDS: Final = 40.0
"""How long all of it may take, whatever goes on: nobody waits for ever."""


class DialOwner(CircuitOwner, Protocol):
    """This device."""

    random_bytes: Callable[[int], bytes]

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a peer may be listening, as ``HOST:PORT``, most likely first."""

    def dial_direct(self, address: str) -> Deferred[Pipe]:
        """Connect to an address."""


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
        self._dials: set[Deferred[Pipe]] = set()
        self._openings: set[DialledOpening] = set()
        self._circuit = CircuitDial(owner, peer, self._shaken, self._no_circuit)
        self._is_circuit_tried = False
        self._timers: dict[Callable[[], None], Any] = {}
        self._is_over = False
        self._problem: AbstError | None = None

    def start(self) -> None:
        """Dial what is most likely to be used, and the rest in a moment."""
        found = self._owner.addresses_of(self._peer.device_id)
        self._addresses = found[:MAX_ADDRESSES_AT_ONCE]
        for seconds, call in ((LAG_SECONDS, self._try_the_rest), (DIAL_SECONDS, self._too_late)):
            self._timers[call] = self._owner.reactor.callLater(seconds, call)
        lately = self._lately
        if lately is not None and lately.kind == "realm" and self._owner.links_up():
            self._try_circuit()
        elif lately is not None and lately.address in found:
            self._dial_direct([lately.address])
        else:
            self._dial_direct(self._addresses)
        self._go_on()

    def link_up(self, link: Link) -> None:
        """Hear that a realm is connected now."""
        if self._is_over or not self._is_circuit_tried:
            return
        if self._circuit.is_over:
            # It had found no realm, and a direct connection is still being tried.
            self._circuit = CircuitDial(self._owner, self._peer, self._shaken, self._no_circuit)
            self._circuit.start()
        else:
            self._circuit.link_up(link)

    def _try_the_rest(self) -> None:
        self._stop_timer(self._try_the_rest)
        self._dial_direct(self._addresses)
        self._try_circuit()
        self._go_on()

    def _try_circuit(self) -> None:
        if not self._is_circuit_tried and not self._is_over:
            self._is_circuit_tried = True
            self._circuit.start()

    def _no_circuit(self, problem: AbstError) -> None:
        # It says more than why some address did not answer.
        self._problem = problem
        self._go_on()

    # Direct.

    def _dial_direct(self, addresses: Sequence[str | None]) -> None:
        """Dial addresses that were not dialled yet."""
        self._addresses = [address for address in self._addresses if address not in addresses]
        for address in addresses:
            if address is not None and not self._is_over:
                dialling = self._owner.dial_direct(address)
                self._dials.add(dialling)
                dialling.addBoth(partial(self._dialled, dialling, address))

    def _dialled(self, dialling: Deferred[Pipe], address: str, result: Pipe | Failure) -> None:
        self._dials.discard(dialling)
        if isinstance(result, Failure):
            problem = result.value
            if not isinstance(problem, AbstError):
                problem = PeerUnreachableError(result.getErrorMessage())
            self._not_direct(problem)
        elif self._is_over:
            result.abort()
        else:
            self._open(address, result)

    def _open(self, address: str, pipe: Pipe) -> None:
        # As for channels: an address that a person has told may be translated on the way.
        where = "" if address in self._peer.addresses else pipe.remote
        name = knock(self._peer.device_id, self._owner.random_bytes(RANDOM_BYTES), where)
        engine = self._owner.contexts.dial(self._peer.check_key, name, alpn=STREAM_ALPN)
        self._openings.add(
            DialledOpening(
                self._owner,
                Carried(pipe, engine, Path("direct", address=pipe.address)),
                self._peer.device_id,
                OPENING_SECONDS,
                self._shaken,
                self._opening_failed,
            )
        )

    def _opening_failed(self, opening: DialledOpening, problem: AbstError) -> None:
        if opening in self._openings:
            self._openings.discard(opening)
            self._not_direct(problem)

    def _not_direct(self, problem: AbstError) -> None:
        self._problem = self._problem or problem
        self._go_on()

    # Both.

    def _shaken(self, opening: DialledOpening) -> None:
        self._openings.discard(opening)
        self._stop()
        self.found.callback(opening)

    def _go_on(self) -> None:
        """Hurry when nothing is under way, and fail when nothing is left at all."""
        if self._is_over or self._dials or self._openings:
            return
        if self._is_circuit_tried and not self._circuit.is_over:
            return
        if self._try_the_rest in self._timers:
            self._try_the_rest()
            return
        self._fail(self._problem or PeerUnreachableError(f"{self._peer} cannot be reached"))

    def _too_late(self) -> None:
        self._fail(PeerUnreachableError(f"{self._peer} has not answered in {DIAL_SECONDS:g} s"))

    def _fail(self, problem: AbstError) -> None:
        self._stop()
        self.found.errback(problem)

    def _stop(self) -> None:
        """Try nothing more, and let go of what is under way."""
        self._is_over = True
        for call in list(self._timers):
            self._stop_timer(call)
        self._circuit.stop()
        dials, self._dials = self._dials, set()
        for each in dials:
            each.cancel()
        openings, self._openings = self._openings, set()
        for opening in openings:
            opening.give_up(PeerUnreachableError("not needed any more"))

    def _stop_timer(self, call: Callable[[], None]) -> None:
        timer = self._timers.pop(call, None)
        if timer is not None and timer.active():
            timer.cancel()
