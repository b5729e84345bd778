"""A chat in forty lines: python examples/small_chat.py KEY_FILE REALM_LINK PEER_ID.

Each side needs the ID of the other one: chat.py without PEER_ID tells that of a key file.
"""

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver

from abst.address import RealmAddress
from abst.device import Device, DeviceFactory, DeviceProtocol
from abst.device_id import DeviceID
from abst.identity import Identity


class Chat(DeviceProtocol):
    """The session with the other device."""

    def packetReceived(self, packet_id: int, content: Any) -> None:
        print(f"{self.peer}: {content!r}", flush=True)


class ChatFactory(DeviceFactory):
    """Builds a ``Chat``."""

    protocol = Chat


class Keyboard(LineOnlyReceiver):
    """Sends each line that is typed."""

    delimiter = b"\n"
    chat: DeviceProtocol

    def lineReceived(self, line: bytes) -> None:
        self.chat.sendPacket(5, line.decode(errors="replace"))


async def main(reactor: Any, key_file: str, realm: str, peer: str) -> None:
    identity = Identity.load_or_create(Path(key_file))
    device = Device(reactor, identity, ChatFactory(), realms=[RealmAddress.parse(realm)])
    device.trust(DeviceID.parse(peer))
    device.startService()
    keyboard = Keyboard()
    keyboard.chat = device.open(DeviceID.parse(peer))
    StandardIO(keyboard, reactor=reactor)
    await Deferred()


react(main, sys.argv[1:])
