"""The agent's side of a session with a peer: messages and files in, messages and files out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.agent.files import FileTransfers, InThread
from abst.agent.inbox import Inbox
from abst.agent.packets import MESSAGE, NOTHING, is_well_formed
from abst.device import DeviceFactory, DeviceProtocol, Peer
from abst.errors import AbstError, SessionEndedError

Notify = Callable[[dict[str, Any]], None]
"""Called with each item that arrives, as the inbox lists it."""


class AgentProtocol(DeviceProtocol):
    """One session between two agents.

    Attributes:
        files: the files on their way in it.
        unacknowledged: how many packets of this process the peer has not acknowledged.
        moves: how often anything has come from the peer, an acknowledgement or a packet.
    """

    factory: AgentFactory
    log = Logger(namespace="abst.agent")
    unacknowledged = 0
    moves = 0

    def connectionMade(self) -> None:
        """Begin, or go on where a former process stopped."""
        self.files = FileTransfers(
            self, self.factory.inbox, self._file_arrived, self.factory.in_thread
        )
        self.files.resume()

    def sendPacket(self, packet_id: int, content: Any) -> Deferred[None]:
        """Send a packet; see ``DeviceProtocol.sendPacket``."""
        acknowledged = super().sendPacket(packet_id, content)
        self.unacknowledged += 1
        return acknowledged.addBoth(self._settled)

    def _settled(self, result: Any) -> Any:
        self.unacknowledged -= 1
        self.moves += 1
        return result

    def packetReceived(self, packet_id: int, content: Any) -> None:
        """Take a message, or hand a packet of a file on; what is neither is ignored."""
        self.moves += 1
        if not is_well_formed(packet_id, content):
            self.log.warn("packet {id} of a peer is none of the agent's", id=packet_id)
        elif packet_id == NOTHING:
            pass
        elif packet_id == MESSAGE:
            self._arrived({"kind": "message", "text": content["text"]})
        else:
            self.files.packet_received(packet_id, content)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop the files that were on their way."""
        problem = reason.value
        if not isinstance(problem, AbstError):
            problem = SessionEndedError("the other side ended it")
        self.files.ended(problem)

    def send_message(self, text: str) -> Deferred[None]:
        """Return a Deferred that fires when the peer has the message."""
        return self.sendPacket(MESSAGE, {"text": text})

    def _file_arrived(self, path: Path, size_bytes: int, sha256: bytes) -> None:
        self._arrived(
            {
                "kind": "file",
                "file": path.name,
                "path": str(path),
                "size_bytes": size_bytes,
                "sha256": sha256.hex(),
            }
        )

    def _arrived(self, item: dict[str, Any]) -> None:
        peer = self.peer
        whole = {**item, "peer": str(peer), "device_id": str(peer.device_id)}
        self.factory.notify(self.factory.inbox.add(whole))


class AgentFactory(DeviceFactory):
    """Builds the agent's protocols.

    Args:
        inbox: where files and messages go.
        notify: who else hears of what arrives.
        in_thread: runs what may wait long for the disk.
    """

    protocol = AgentProtocol

    def __init__(self, inbox: Inbox, notify: Notify, in_thread: InThread = deferToThread) -> None:
        self.inbox = inbox
        self.notify = notify
        self.in_thread = in_thread

    def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
        """Return the protocol of a new session."""
        return super().buildProtocol(peer)
