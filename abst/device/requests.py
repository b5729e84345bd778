"""What a device has asked a realm, until the answer comes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from abst.device.realm_client import Answered
from abst.errors import AbstError, PeerUnreachableError, RealmRefusedError
from abst.packets import Error


class Requests:
    """The Deferreds of open requests, by number."""

    def __init__(self) -> None:
        self._open: dict[int, Deferred[Any]] = {}

    def add(self, request: int) -> Deferred[Any]:
        """Return a Deferred of a request's answer."""
        self._open[request] = Deferred()
        return self._open[request]

    def answered(self, event: Answered) -> None:
        """Fire what waits for an answer, with the packet, or with what an Error says."""
        waiting = self._open.pop(event.request, None)
        if waiting is None:
            return
        match event.packet:
            case Error() as error:
                retry_after = None if error.retry_after is None else float(error.retry_after)
                waiting.errback(
                    RealmRefusedError(error.code, error.reason, retry_after, epoch=error.epoch)
                )
            case answer:
                waiting.callback(answer)

    def lost(self) -> None:
        """Fail what waits: the connection is gone."""
        waiting, self._open = self._open, {}
        problem: AbstError = PeerUnreachableError("the connection to the realm is gone")
        for deferred in waiting.values():
            deferred.errback(problem)
