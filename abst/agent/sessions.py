"""The agent's side of a session with a peer: messages in, messages out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.agent.inbox import Inbox
from abst.agent.packets import MESSAGE, NOTHING, is_well_formed
from abst.device import DeviceFactory, DeviceProtocol, Peer
from abst.device_id import DeviceID
from abst.errors import AbstError, SessionEndedError

Notify = Callable[[dict[str, Any]], None]
"""Called with each item that arrives, as the inbox lists it."""


class AgentProtocol(DeviceProtocol):
    """One session between two agents."""

    factory: AgentFactory
    log = Logger(namespace="abst.agent")

    def packetReceived(self, packet_id: int, content: Any) -> None:
        """Take a message; what is none is ignored."""
        if not is_well_formed(packet_id, content):
            self.log.warn("packet {id} of a peer is none of the agent's", id=packet_id)
        elif packet_id == MESSAGE:
            peer = self.peer
            item = {
                "kind": "message",
                "text": content["text"],
                "peer": str(peer),
                "device_id": str(peer.device_id),
            }
            self.factory.notify(self.factory.inbox.add(item))
        else:
            assert packet_id == NOTHING

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the agent: the two may not trust each other any more."""
        problem = reason.value
        if not isinstance(problem, AbstError):
            problem = SessionEndedError("the other side ended it")
        self.factory.session_over(self.peer.device_id, problem)

    def send_message(self, text: str) -> Deferred[None]:
        """Return a Deferred that fires when the peer has the message."""
        return self.sendPacket(MESSAGE, {"text": text})


class AgentFactory(DeviceFactory):
    """Builds the agent's protocols.

    Args:
        inbox: where messages go.
        notify: who else hears of what arrives.
        session_over: called with the device whose session is over, and why.
        realm_changed: called with each realm that has accepted this device, or has failed.
    """

    protocol = AgentProtocol

    def __init__(
        self,
        inbox: Inbox,
        notify: Notify,
        session_over: Callable[[DeviceID, AbstError], None] = lambda device_id, problem: None,
        realm_changed: Callable[[RealmAddress], None] = lambda realm: None,
    ) -> None:
        self.inbox = inbox
        self.notify = notify
        self.session_over = session_over
        self.realm_changed = realm_changed

    def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
        """Return the protocol of a new session."""
        return super().buildProtocol(peer)

    def realmConnectionMade(self, realm: RealmAddress) -> None:
        """Pass it on."""
        self.realm_changed(realm)

    def realmConnectionFailed(self, realm: RealmAddress, problem: AbstError) -> None:
        """Pass it on."""
        self.realm_changed(realm)
