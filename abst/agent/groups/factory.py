"""The agent's side of each group: what happens in it goes to whoever listens."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from abst.agent.groups.news import MESSAGE, OVER, GroupNews
from abst.agent.groups.offers import GroupOffers
from abst.agent.groups.packets import read_text
from abst.device.groups.group import Group
from abst.device.groups.protocol import GroupFactory, GroupOffer, GroupProtocol
from abst.device_id import DeviceID
from abst.errors import AbstError


class AgentGroupProtocol(GroupProtocol):
    """One group."""

    factory: AgentGroupFactory
    log = Logger(namespace="abst.agent")

    def __init__(self) -> None:
        self._joins: list[Deferred[None]] = []
        self._ends: list[Deferred[None]] = []
        self._overs: list[Deferred[None]] = []
        self._reason: AbstError | None = None

    def when_joined(self) -> Deferred[None]:
        """Return a Deferred that fires when the group is joined; ``wait_no_more`` forgets it."""
        waiting: Deferred[None] = Deferred()
        if self.group.is_joined:
            waiting.callback(None)
        else:
            self._joins.append(waiting)
        return waiting

    def wait_no_more(self, waiting: Deferred[None]) -> None:
        """Forget a Deferred of ``when_joined``; it fires no more."""
        if waiting in self._joins:
            self._joins.remove(waiting)

    def when_unusable(self) -> Deferred[None]:
        """Return a Deferred that fails when the group is over, or its realm was seen to lie.

        Cancel it to wait no more.
        """
        problem = self._reason or self.group.values.problem
        if problem is not None:
            return fail(problem)
        waiting: Deferred[None] = Deferred(self._ends.remove)
        self._ends.append(waiting)
        return waiting

    def when_over(self) -> Deferred[None]:
        """Return a Deferred that fires when this device is not in the group any more."""
        waiting: Deferred[None] = Deferred(self._overs.remove)
        self._overs.append(waiting)
        return waiting

    def joined(self) -> None:
        """Tell who waits, and who listens."""
        joins, self._joins = self._joins, []
        for waiting in joins:
            waiting.callback(None)
        self._tell("joined")

    def messageReceived(self, device_id: DeviceID, content: bytes) -> None:
        """Tell of a text; what is none is ignored."""
        text = read_text(content)
        if text is None:
            self.log.warn("a message to a group is none of an agent's")
            return
        self._tell(MESSAGE, device_id, text=text)

    def messagesMissed(self, device_id: DeviceID, count: int) -> None:
        """Tell that some have not come."""
        self._tell("messages missed", device_id, count=count)

    def messagesDropped(self, device_id: DeviceID | None, count: int, code: str) -> None:
        """Tell that some of this device's have not arrived."""
        self._tell("messages dropped", device_id, count=count, code=code)

    def memberArrived(self, device_id: DeviceID) -> None:
        """Tell who is here."""
        self._tell("member arrived", device_id)

    def memberLeft(self, device_id: DeviceID) -> None:
        """Tell who is gone."""
        self._tell("member left", device_id)

    def epochChanged(self, epoch: int) -> None:
        """Tell that the group's key is another one."""
        self._tell("epoch", epoch=epoch)

    def problemSeen(self, problem: AbstError) -> None:
        """Tell what is wrong."""
        self._tell("problem", problem=str(problem))
        if self.group.values.problem is not None:
            self._end(self.group.values.problem)

    def connectionLost(self, reason: AbstError) -> None:
        """Tell that this device is not in the group any more."""
        self._reason = reason
        self._tell(OVER, reason=str(reason))
        self._end(reason)
        overs, self._overs = self._overs, []
        for waiting in overs:
            waiting.callback(None)

    def _tell(self, kind: str, device_id: DeviceID | None = None, **facts: object) -> None:
        self.factory.news.tell(self.group, kind, device_id, **facts)

    def _end(self, problem: AbstError) -> None:
        ends, self._ends = self._ends, []
        for waiting in ends:
            waiting.errback(problem)


class AgentGroupFactory(GroupFactory):
    """Builds the agent's protocols.

    Args:
        offers: who decides about offers.
        news: who tells what happens.
    """

    protocol = AgentGroupProtocol

    def __init__(self, offers: GroupOffers, news: GroupNews) -> None:
        self.offers = offers
        self.news = news

    def acceptsOffer(self, offer: GroupOffer) -> bool | Awaitable[bool]:
        """Tell whether this device wants to be in a group that a peer offers."""
        return self.offers.decide(offer)


def protocol_of(group: Group) -> AgentGroupProtocol:
    """Return the agent's side of a group."""
    protocol = group.protocol
    assert isinstance(protocol, AgentGroupProtocol)
    return protocol
