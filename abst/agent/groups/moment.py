"""Waiting for something for a moment, and leaving it to itself when it takes longer."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.agent.groups.factory import protocol_of
from abst.device import Device
from abst.device.groups.group import Group

JOIN_SECONDS: Final = 2.0
"""How long a command waits for a group to be joined, while its realm is connected."""

LATE: Final = object()


def in_time(reactor: Any, waiting: Deferred[Any], seconds: float) -> Deferred[Any]:
    """Return a Deferred of the same, or of ``LATE`` when it takes too long.

    What is waited for goes on, also when this Deferred is cancelled; when nobody waits any more,
    what it fails with is dropped.
    """
    told: Deferred[Any] = Deferred(lambda _: None)
    late = reactor.callLater(seconds, told.callback, LATE)

    def settled(result: Any) -> Any:
        if late.active():
            late.cancel()
        return result

    def fired(result: Any) -> None:
        if not told.called:
            told.errback(result) if isinstance(result, Failure) else told.callback(result)

    told.addBoth(settled)
    waiting.addBoth(fired)
    return told


async def within(reactor: Any, waiting: Deferred[Any], seconds: float) -> bool:
    """Return whether something comes to pass in time; raise what it fails with."""
    return await in_time(reactor, waiting, seconds) is not LATE


class Joining:
    """Waits for groups to be joined, where that makes sense.

    Args:
        device: the device; it has just been started.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._started = device.reactor.seconds()

    async def wait(self, group: Group) -> bool:
        """Wait for a group to be joined, for a moment; return whether it is.

        While its realm has been away for longer, nothing is waited for.
        """
        link = None if group.realm is None else self._device.links.get(group.realm)
        if group.is_joined or link is None:
            return group.is_joined
        reactor = self._device.reactor
        if not link.is_up and reactor.seconds() - self._started >= JOIN_SECONDS:
            return False
        protocol = protocol_of(group)
        waiting = protocol.when_joined()
        try:
            return await within(reactor, waiting, JOIN_SECONDS)
        finally:
            protocol.wait_no_more(waiting)
