"""Chat with one other device: each line that you type appears there, and the other way round.

On one network the lines go straight, else through the realm. Run it without PEER_ID to learn your
device's ID. Each side needs the ID of the other one.
"""

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from abst import device
from abst.address import RealmAddress
from abst.device_id import DeviceID
from abst.errors import AbstError, RealmRefusedError
from abst.identity import Identity

USAGE = "usage: python examples/chat.py KEY_FILE REALM_LINK [PEER_ID]"
LINE = 5  # This application's only kind of packet: 0 to 4 are ABST's own.


@implementer(IHalfCloseableProtocol)
class Terminal(LineReceiver):
    """Standard input and output."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self.over: Deferred[None] = Deferred()
        self.sent: Deferred[None] = succeed(None)
        self.chat: device.DeviceProtocol | None = None

    def lineReceived(self, line: bytes) -> None:
        if self.chat is not None:
            # No other line is read before the other side has this one.
            self.pauseProducing()
            self.sent = self.chat.sendPacket(LINE, line.decode(errors="replace"))
            self.sent.addBoth(lambda _: self.resumeProducing())

    def readConnectionLost(self) -> None:
        """End when everything has arrived; the last line may have had no line break."""
        if line := self.clearLineBuffer():
            self.lineReceived(line)
        self.sent.addBoth(lambda _: self.end())

    def writeConnectionLost(self) -> None:
        """End: nobody reads what arrives."""
        self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end()

    def end(self) -> None:
        """Let the program end."""
        self.chat = None
        if not self.over.called:
            self.over.callback(None)

    def show(self, text: str) -> None:
        """Write a line, without what could disturb a terminal: the other side has a say in it."""
        if self.chat is not None:
            self.sendLine("".join(filter(str.isprintable, text)).encode())


class Chat(device.DeviceProtocol):
    """The session with the other device."""

    factory: "ChatFactory"

    def connectionMade(self) -> None:
        self.factory.terminal.chat = self

    def pathChanged(self, path: device.Path | None) -> None:
        self.factory.terminal.show(f"({self.peer}: {path or 'out of reach, still trying'})")

    def packetReceived(self, packet_id: int, content: Any) -> None:
        if packet_id == LINE:
            self.factory.terminal.show(f"{self.peer}: {content}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.terminal.show(f"({self.peer} is gone: {reason.getErrorMessage()})")
        self.factory.terminal.end()


class ChatFactory(device.DeviceFactory):
    """Builds a ``Chat``."""

    protocol = Chat

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def realmConnectionFailed(self, realm: RealmAddress, problem: AbstError) -> None:
        # Anything else may pass by itself; here somebody has to let this device in.
        if isinstance(problem, RealmRefusedError):
            self.terminal.show(f"({realm.host}: {problem})")


async def main(reactor: Any, key_file: str, realm: str, peer: str = "") -> None:
    try:
        identity = Identity.load_or_create(Path(key_file))
        print("I am", identity.device_id, flush=True)
        terminal = Terminal()
        me = device.Device(
            reactor,
            identity,
            ChatFactory(terminal),
            realms=[RealmAddress.parse(realm)],
            name=Path(key_file).stem,
            # The agent knows this variable too.
            lan=None if os.environ.get("ABST_LAN") == "off" else device.LocalNetwork(reactor),
        )
        if not peer:
            return
        me.trust(other := DeviceID.parse(peer))
    except (AbstError, ValueError) as problem:
        sys.exit(f"chat: {problem}")
    StandardIO(terminal, reactor=reactor)
    me.startService()
    reactor.addSystemEventTrigger("before", "shutdown", me.stopService)
    # The session begins at once: what is typed waits until the other side is there.
    me.open(other)
    await terminal.over


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(USAGE)
    react(main, sys.argv[1:])
