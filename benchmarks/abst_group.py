"""A realm with one peer group, which peers join as the specification's "Proofs" has it.

Written apart from the package ``abst``, as all of the wire here is. Messages and values are canned:
the realm is measured, and what it carries means nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.abst_realm import DEFAULT_COMMAND, AbstRealm, pack
from benchmarks.certificates import device_id_of
from benchmarks.conversation import Conversation
from benchmarks.errors import ServerFailed
from benchmarks.servers import Foreign, Packet

_HELLO, _CREATE, _JOIN, _MESSAGE = 0, 3, 4, 6
_PROOF = b"ABST group proof 1"
_FIRST_EPOCH = 0


class AbstGroup(AbstRealm):
    """A realm, and the key of one group."""

    def __init__(self, folder: Path, command: Sequence[str] = DEFAULT_COMMAND) -> None:
        """Make devices in ``folder`` as they are asked for."""
        super().__init__(folder, command)
        self._key = Ed25519PrivateKey.generate()
        self._public_key = self._key.public_key().public_bytes_raw()
        self.group = device_id_of(self._key.public_key())

    def join(self, sender: Conversation, receivers: Sequence[Conversation]) -> None:
        """Have the sender make the group, and all of them join it. Raises: ServerFailed."""
        self._ask(sender, _CREATE, {"epoch": _FIRST_EPOCH, "key": self._public_key})
        wait_for_answer(sender, _CREATE)
        # All ask, and then all wait: so the realm tells much of who has come in few packets.
        for member in (sender, *receivers):
            self._ask(member, _JOIN, {"epoch": _FIRST_EPOCH})
        for member in (sender, *receivers):
            wait_for_answer(member, _JOIN)

    def message(self, sender: int, payload: bytes) -> Packet:
        """Send to the other members; the same bytes arrive."""
        source = self.device_id(sender)
        packet = pack(
            {
                "packet_id": _MESSAGE,
                "source_device": source,
                "peer_group": self.group,
                "content": payload,
            }
        )
        return Packet(packet, packet)

    def foreign(self, received: bytes) -> Foreign | None:
        """Pass over the realm's heartbeat, and who has come; whatever else it says is an error."""
        for packet, end in packets_in(received):
            if packet["packet_id"] not in (_HELLO, _JOIN):
                raise ServerFailed(f"the realm sends {str(packet)[:300]}")
            return Foreign(end)
        return None

    def _ask(self, member: Conversation, packet_id: int, content: dict[str, object]) -> None:
        ((greeted, _),) = packets_in(member.greeting_answer)
        proved = b"".join(
            (
                _PROOF,
                greeted["content"]["nonce"],
                self.device_id(member.peer),
                self.group,
                _FIRST_EPOCH.to_bytes(8, "big"),
                self._public_key,
            )
        )
        content["proof"] = self._key.sign(proved)
        question = {"packet_id": packet_id, "request": 0, "peer_group": self.group}
        member.send(pack({**question, "content": content}))


def wait_for_answer(conversation: Conversation, packet_id: int) -> None:
    """Wait for the answer to a request; its news may follow it. Raises: ServerFailed."""

    def is_answer(received: bytes) -> bool:
        found, position = False, 0
        for packet, end in packets_in(received):
            position = end
            found = found or (packet["packet_id"] == packet_id and "request" in packet)
            if packet["packet_id"] not in (_HELLO, _JOIN, packet_id):
                raise ServerFailed(f"the realm answers {str(packet)[:300]}")
        return found and position == len(received)

    conversation.wait_for(is_answer)


def packets_in(received: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Return each whole packet in some bytes, and where it ends. Raises: ServerFailed."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(received)
    for packet in unpacker:
        if not isinstance(packet, dict) or "packet_id" not in packet:
            raise ServerFailed(f"the realm sends {str(packet)[:300]}")
        yield packet, unpacker.tell()
