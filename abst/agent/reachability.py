"""Getting hold of a peer for a command: how long that may take, and why it did not come to pass.

Owns the words: what the device library says of the wire, a person reads here as a sentence with
what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from abst.agent.sessions import AgentProtocol
from abst.device import Device, Peer
from abst.errors import MEANINGS, AbstError, Code, PeerUnreachableError, WrongKeyError

ANSWER_SECONDS: Final = 15.0

LOOK_SECONDS: Final = 1.0
"""How often it is looked whether waiting makes sense; a way without a realm is found by then."""

_AWAY: Final = tuple(MEANINGS[code].sentence for code in (Code.TARGET_ABSENT, Code.UNDELIVERED))
"""What a realm says of a device that is not there."""

_LASTING: Final = (
    # What a person has to put right: the address or its pin is wrong, one side is too old, or who
    # runs the realm has to let this device in.
    "has another key than expected",
    "is no realm that this device understands",
    "shows no certificate that is valid",
    *(
        MEANINGS[code].sentence
        for code in (
            *(Code.TLS_REQUIRED, Code.WRONG_VERSION, Code.HELLO_FIRST, Code.WRONG_DEVICE),
            *(Code.WRONG_SOURCE, Code.MALFORMED, Code.TOO_LARGE, Code.REALM_FULL),
            *(Code.NOT_INVITED, Code.WRONG_INVITATION, Code.NOT_LISTED, Code.REVOKED),
            Code.TOO_MANY_CONNECTIONS,
        )
    ),
)
"""What does not pass while a person waits: in it, a realm's problem is one of these."""


class Reachability:
    """Peers, for the commands that talk to one.

    Args:
        device: the device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    async def connect(self, peer: Peer) -> AgentProtocol:
        """Return the session with a peer once a way carries it.

        Raises:
            AbstError: there is no way; the text is a sentence that says what to do.
        """
        connected = self._device.connect(peer.device_id)
        try:
            protocol = await self._unless(connected, LOOK_SECONDS, self._hopeless)
        except (WrongKeyError, PeerUnreachableError) as problem:
            raise _in_words(problem, peer) from None
        assert isinstance(protocol, AgentProtocol)
        return protocol

    async def in_time(self, waiting: Deferred[Any], peer: Peer) -> Any:
        """Wait for something that a peer answers, for a while.

        Raises:
            PeerUnreachableError: it has not come; it may still come later.
        """
        late = PeerUnreachableError(f"{peer} has not answered within {ANSWER_SECONDS:g} seconds")
        try:
            return await self._unless(waiting, ANSWER_SECONDS, lambda: late)
        except PeerUnreachableError as problem:
            raise _in_words(problem, peer) from None

    def why_away(self, peer: Peer) -> str:
        """Return why nothing carries the session with a peer, as the beginning of a sentence."""
        if not self._device.links and self._device.lan is not None:
            return f"{peer} is not on this network, and this device has no realm"
        if not self._device.links:
            return "this device has no realm ('abst realm add LINK' adds one)"
        if not self._device.links_up():
            return f"this device is not connected to a realm ({self._device.why_unreachable()})"
        refusal = self._device.refusal_to(peer.device_id)
        return f"{peer} is away" if refusal is None else f"{peer} cannot be reached ({refusal})"

    def _hopeless(self) -> PeerUnreachableError | None:
        """Return a problem when no realm will be up until a person changes something."""
        links = self._device.links.values()
        if links and all(not link.is_up and _lasts(link.problem) for link in links):
            return PeerUnreachableError(self._device.why_unreachable())
        return None

    def _unless(
        self, waiting: Deferred[Any], seconds: float, problem: Callable[[], AbstError | None]
    ) -> Deferred[Any]:
        """Return a Deferred of the same, unless a look every so many seconds finds a problem."""
        shared: Deferred[Any] = Deferred(lambda _: None)
        waiting.addCallbacks(
            lambda value: None if shared.called else shared.callback(value),
            lambda failure: None if shared.called else shared.errback(failure),
        )
        if shared.called:
            return shared

        def look() -> None:
            if (found := problem()) is not None and not shared.called:
                shared.errback(found)

        def stop(result: Any) -> Any:
            if looking.running:
                looking.stop()
            return result

        looking = LoopingCall(look)
        looking.clock = self._device.reactor
        shared.addBoth(stop)
        looking.start(seconds, now=False)
        return shared


def _in_words(problem: AbstError, peer: Peer) -> AbstError:
    """Return a problem as a person wants to read it."""
    if isinstance(problem, WrongKeyError):
        return AbstError(
            f"{problem}: if {peer} was made anew, 'abst forget' it and pair again; if not, "
            "somebody else answers in its place"
        )
    if any(sentence in str(problem) for sentence in _AWAY):
        return PeerUnreachableError(
            f"{peer} is not connected to a realm that this device uses: is it on, and its agent "
            "running?"
        )
    return problem


def _lasts(problem: str | None) -> bool:
    return problem is not None and any(words in problem for words in _LASTING)
