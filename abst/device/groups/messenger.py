"""What is said in a group: sent when it is joined, read when the key and the roster allow it.

Spec: groups.md, "Inside a message". Owns what waits on either side, and is bounded in both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

from abst.device.groups.keys import GroupKeys
from abst.device.groups.messages import (
    OVERHEAD_BYTES,
    Kind,
    MessageReader,
    MessageRefusedError,
    MessageWriter,
    OpenedMessage,
)
from abst.device.groups.roster import Roster
from abst.device.groups.store import SavedReader
from abst.device.link import Link
from abst.device_id import DeviceID
from abst.errors import AbstError, GroupError, MissingEpochError
from abst.identity import Identity
from abst.packets import HEADROOM_BYTES, MAX_PACKET_BYTES, GroupMessage

MAX_WAITING_BYTES: Final = 256 * 1024
"""Of messages that are sent once the group is joined."""

MAX_HELD: Final = 64
"""Messages that are kept until the key or the roster comes with which they can be read."""


class MessengerOwner(Protocol):
    """The group."""

    identity: Identity
    keys: GroupKeys
    roster: Roster
    reactor: Any

    @property
    def group_id(self) -> bytes:
        """The group's ID."""

    def keep_stream(self, stream: int) -> None:
        """Store the number of this device's newest stream, at once."""

    def checked(self) -> tuple[int, bytes]:
        """Return how far this device has checked the values: revision and head."""

    def message_opened(self, device_id: DeviceID, message: OpenedMessage) -> None:
        """A member has said something, of whatever kind."""

    def message_waits(self, problem: MissingEpochError) -> None:
        """A message cannot be read before a key comes."""

    def problem_seen(self, problem: AbstError) -> None:
        """Tell the application of something that is not as it should be."""


class Messenger:
    """The messages of one group.

    Args:
        owner: the group.
        stream: the number of the last stream that this device has used.
        readers: which messages of the others were taken.
    """

    def __init__(self, owner: MessengerOwner, stream: int, readers: Iterable[SavedReader]) -> None:
        self._owner = owner
        self._link: Link | None = None
        self._stream = stream
        self._writer: MessageWriter | None = None
        self._reader = MessageReader(owner.identity.device_id, readers)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._held: deque[GroupMessage] = deque(maxlen=MAX_HELD)

    def rows(self) -> list[SavedReader]:
        """Return which messages were taken, to be stored."""
        return [SavedReader(*row) for row in self._reader.rows()]

    # Sending.

    def send(self, content: bytes) -> None:
        """Send a message, now or when the group is joined.

        Raises:
            GroupError: it is too long, or too much waits already.
        """
        if len(content) > self.max_message_bytes:
            raise GroupError(f"a message has at most {self.max_message_bytes} bytes: cut it")
        if self._link is not None:
            self._send(self._link, content, Kind.APPLICATION)
            return
        if self._waiting_bytes + len(content) > MAX_WAITING_BYTES:
            raise GroupError("the group is not joined, and enough waits for that already")
        self._waiting.append(content)
        self._waiting_bytes += len(content)

    def say(self, content: bytes, kind: int) -> None:
        """Say what is not the application's, to whoever is here now; it does not wait.

        Raises:
            GroupError: the group is not joined.
        """
        if self._link is None:
            raise GroupError("the group is not joined")
        self._send(self._link, content, kind)

    @property
    def max_message_bytes(self) -> int:
        """How long a message may be just now."""
        most = MAX_PACKET_BYTES - HEADROOM_BYTES
        if self._link is not None:
            most = self._link.max_content_bytes
        return most - OVERHEAD_BYTES

    def joined(self, link: Link) -> None:
        """Send what has waited: the group is joined."""
        self._link = link
        while self._waiting:
            content = self._waiting.popleft()
            self._waiting_bytes -= len(content)
            try:
                self._send(link, content, Kind.APPLICATION)
            except AbstError as problem:
                # This realm takes less than others, say. What else has waited is sent.
                self._owner.problem_seen(problem)

    def parted(self) -> None:
        """Let what is sent from now on wait."""
        self._link = None

    def _send(self, link: Link, content: bytes, kind: int) -> None:
        owner = self._owner
        if self._writer is None:
            now = int(owner.reactor.seconds() * 1000)
            self._writer = MessageWriter(owner.identity, now, self._stream)
            # Before the first message: after a crash its number must not be used again.
            owner.keep_stream(self._writer.stream)
        sealed = self._writer.seal(owner.keys, content, *owner.checked(), kind)
        source = bytes(owner.identity.device_id)
        link.tell(GroupMessage(source, bytes(owner.group_id), sealed))

    # Receiving.

    def received(self, message: GroupMessage) -> None:
        """Read a message, or keep it for a while when that is not possible yet."""
        member = self._owner.roster.members().get(message.source_device)
        if member is None:
            # Its entry may be on its way from the device that has added it.
            self._held.append(message)
            return
        device_id = member.device_id
        try:
            opened = self._reader.open(
                self._owner.keys, device_id, member.public_key, message.content
            )
        except MissingEpochError as problem:
            self._held.append(message)
            self._owner.message_waits(problem)
        except MessageRefusedError as problem:
            self._owner.problem_seen(problem)
        else:
            self._owner.message_opened(device_id, opened)

    def open_held(self) -> None:
        """Look once more at what could not be read: the roster or the keys are others."""
        held = list(self._held)
        self._held.clear()
        for message in held:
            self.received(message)
