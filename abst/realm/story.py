"""What the log says of the connections of a realm, each line with the connection's number.

Owns the sentences, how a device and an address are shown in them, and how many of them strangers
can cause: what comes from a device that is not here yet is worth a few lines a minute and no more,
however many connections it makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from abst.errors import Code
from abst.packets import Error

STRANGERS_LINES: Final = 20
"""How many lines about connections that no device was here by are written in each period."""

STRANGERS_SECONDS: Final = 60.0


def short_id(device_id: bytes | None) -> str:
    """Return as much of a device ID as tells a realm's devices apart."""
    return "unknown" if device_id is None else device_id[:4].hex()


class Stories:
    """Begins the story of each connection.

    Args:
        log: takes the lines.
        now: returns the seconds of a clock that goes on evenly.

    Attributes:
        shows_addresses: whether the log says where connections come from.
        own_devices: the realm's own, which come and go all the time; only 'debug' logs that.
    """

    def __init__(self, log: Logger, now: Callable[[], float]) -> None:
        self.log = log
        self.shows_addresses = False
        self.own_devices: Container[bytes] = ()
        self._now = now
        self._numbers = itertools.count(1)
        self._period_ends = 0.0
        self._lines = 0

    def begin(self) -> Story:
        """Return the story of a connection that has just been made."""
        return Story(self, next(self._numbers))

    def level_for(self, device: bytes) -> Any:
        """Return how much it matters that a device comes or goes."""
        return LogLevel.debug if device in self.own_devices else LogLevel.info

    def level_for_stranger(self) -> Any:
        """Return how much one more line about a stranger matters."""
        now = self._now()
        if now >= self._period_ends:
            if self._lines > STRANGERS_LINES:
                self.log.info(
                    "{count} connections more came to nothing; 'debug' logs each",
                    count=self._lines - STRANGERS_LINES,
                )
            self._period_ends = now + STRANGERS_SECONDS
            self._lines = 0
        self._lines += 1
        return LogLevel.info if self._lines <= STRANGERS_LINES else LogLevel.debug


class Story:
    """The story of one connection.

    Attributes:
        number: the connection's, which every line has.
        remote: the other end's host and port as the realm sees them, or None.
    """

    __slots__ = ("_device", "_stories", "number", "remote")

    def __init__(self, stories: Stories, number: int) -> None:
        self._stories = stories
        self._device: bytes | None = None
        self.number = number
        self.remote: tuple[str, int] | None = None

    def arrived(self, device: bytes, here: int) -> None:
        """Tell that the device's Hello was accepted.

        Args:
            device: its ID.
            here: how many devices are here now.
        """
        self._device = device
        level = self._stories.level_for(device)
        self._say(level, "device {device} is here, {here} in all", device, here=here)

    def told(self, error: Error) -> None:
        """Tell what the device is told of a packet, or of all of them; the connection stays."""
        text = "it is told {code}"
        about = {} if error.about is None else {"packet": error.about}
        if about:
            text += " about packet {packet}"
        self._say(LogLevel.debug, text, self._device, error.code, **about)

    def ended(self, device: bytes | None, code: Code | None, reason: Failure) -> None:
        """Tell that the connection is over.

        Args:
            device: what the certificate has proved, if it got so far.
            code: why the realm closed it; None when it did not.
            reason: what the transport says.
        """
        if self._device is not None:
            why = "it closed" if code is None else code
            level = self._stories.level_for(self._device)
            self._say(level, "device {device} is gone ({why})", device, code, why=why)
        elif code is not None:
            level = self._stories.level_for_stranger()
            self._say(level, "device {device} was not let in ({code})", device, code)
        elif not reason.check(ConnectionDone):
            text = "it ended before Hello ({why})"
            self._say(LogLevel.debug, text, device, why=str(reason.value))

    # As a circuit's leg.

    def became_leg(self, device: bytes) -> None:
        """Tell that it is a leg from now on, and whose."""
        self._device = device
        self._say(LogLevel.debug, "it is a leg of device {device}", device)

    def refused_leg(self, code: Code) -> None:
        """Tell that nothing comes of it as a leg, if it is one at all."""
        if self._device is None:
            level = self._stories.level_for_stranger()
            self._say(level, "it was not let in ({code})", None, code)
        else:
            self._say(LogLevel.debug, "nothing comes of the leg ({code})", self._device, code)

    def joined(self, other: Story) -> None:
        """Tell that the circuit with another connection has begun."""
        text = "a circuit joins it and connection {other_connection}"
        self._say(LogLevel.info, text, self._device, other_connection=other.number)

    def parted(self, other: Story, code: Code | None, count: int) -> None:
        """Tell that the circuit is over.

        Args:
            other: the story of its other leg.
            code: why the realm ended it; None when it did not.
            count: how many bytes it has carried.
        """
        self._say(
            LogLevel.info,
            "its circuit with connection {other_connection} is over ({why}), {bytes} bytes",
            self._device,
            code,
            why="it closed" if code is None else code,
            other_connection=other.number,
            bytes=count,
        )

    def _say(
        self,
        level: LogLevel,
        text: str,
        device: bytes | None,
        code: str | None = None,
        **values: Any,
    ) -> None:
        if code is not None:
            values["code"] = code
        start = "connection {connection}: "
        if self._stories.shows_addresses and self.remote is not None:
            start = "connection {connection} from {remote}: "
            values["remote"] = f"{self.remote[0]} port {self.remote[1]}"
        self._stories.log.emit(
            level, start + text, connection=self.number, device=short_id(device), **values
        )
