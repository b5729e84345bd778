"""Carriers: what takes a channel's bytes to the other device and back.

Two kinds: packets through a realm, shared by all channels on that link, and a direct connection,
which carries one channel. A channel's owner sees no difference but ``path``.
"""

from __future__ import annotations

from typing import Final, Protocol

from abst.device.link import Link
from abst.device.paths import Path
from abst.device.pipes import Pipe

DIRECT_PIECE_BYTES: Final = 1 << 20
"""A direct connection takes pieces of any size; this is what ``Channel`` is told."""


class Carrier(Protocol):
    """What a channel needs of what carries it."""

    @property
    def path(self) -> Path:
        """How a session over it is shown."""

    @property
    def slot(self) -> object:
        """What it goes over: a new channel over the same link replaces an older one."""

    def send(self, contents: list[bytes]) -> None:
        """Send pieces of the channel, as ``Channel.contents_to_send`` gives them."""

    def close(self) -> None:
        """Let the channel go, and have the other side know."""


class RealmCarrier:
    """A channel through a realm."""

    def __init__(self, link: Link, device_id: bytes, number: bytes) -> None:
        self.link = link
        self._device_id = device_id
        self._number = number

    @property
    def path(self) -> Path:
        """How a session over it is shown."""
        return self.link.path

    @property
    def slot(self) -> object:
        """The link."""
        return self.link

    def send(self, contents: list[bytes]) -> None:
        """Send pieces of the channel."""
        for content in contents:
            self.link.send(self._device_id, content)
        self.link.flush()

    def close(self) -> None:
        """Send a reset."""
        if self.link.is_up:
            self.send([self._number])


class DirectCarrier:
    """A channel on a direct connection of its own."""

    slot: object = None

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.path = Path("direct", address=pipe.address)

    def send(self, contents: list[bytes]) -> None:
        """Send pieces of the channel."""
        self.pipe.write(b"".join(contents))

    def close(self) -> None:
        """Close the connection."""
        self.pipe.close()
