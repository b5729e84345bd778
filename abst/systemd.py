"""What a service tells systemd: that it is ready, what it is doing, and that it still runs.

The protocol is sd_notify(3): datagrams of ``NAME=value`` lines to the Unix socket that
``NOTIFY_SOCKET`` names. Where nothing is named, nothing is sent. Ports that systemd opens for a
service need nothing of ours: Twisted has the endpoints ``systemd:...`` for them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

STATUS_SECONDS: Final = 30.0
"""How often systemd is told what the service is doing, where no watchdog asks more often."""

PATIENCE_SECONDS: Final = 2.0
"""How long the service waits for systemd to take what it has to know."""

MAX_STATUS_CHARACTERS: Final = 200


def notify_socket(environment: Mapping[str, str]) -> str | None:
    """Return where messages go, as an address of a Unix socket; None for nowhere.

    A name that begins with ``@`` is in Linux's abstract namespace. Sockets of other kinds, which
    systemd gives to virtual machines, are not for a service.
    """
    name = environment.get("NOTIFY_SOCKET", "")
    if name.startswith("/"):
        return name
    if name.startswith("@") and len(name) > 1:
        return "\0" + name[1:]
    return None


def watchdog_seconds(environment: Mapping[str, str], process_id: int) -> float | None:
    """Return within which time the watchdog wants to hear of this process; None for never."""
    if environment.get("WATCHDOG_PID", str(process_id)) != str(process_id):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdecimal() and len(microseconds) <= 20):
        return None
    return int(microseconds) / 1_000_000 or None


def message(**values: str) -> bytes:
    """Return the datagram with these values; each is one line, whatever is in it."""
    lines = (f"{name}={' '.join(value.split())}\n" for name, value in values.items())
    return "".join(lines).encode("utf-8", "replace")


class SystemdNotifier:
    """Tells systemd how a service is, as long as it runs.

    The watchdog is answered from the reactor's timer: a reactor that is stuck answers no more, and
    systemd starts the service again.

    Args:
        clock: the reactor, for its time.
        environment: where systemd has written what it wants.
    """

    log = Logger(namespace="abst.systemd")

    def __init__(self, clock: Any, environment: Mapping[str, str] = os.environ) -> None:
        self._socket = notify_socket(environment)
        self._watchdog_seconds = watchdog_seconds(environment, os.getpid())
        self._beat = LoopingCall(self._tell)
        self._beat.clock = clock
        self._status: Callable[[], str] = str
        self._told = ""

    def ready(self, status: Callable[[], str]) -> None:
        """Say that the service is ready, and from now on what it is doing.

        Args:
            status: returns that in a few words; it is asked now and then.
        """
        if self._socket is None:
            return
        self._status = status
        self._told = self._status_now()
        self._send(PATIENCE_SECONDS, READY="1", STATUS=self._told)
        seconds = STATUS_SECONDS
        if self._watchdog_seconds is not None:
            seconds = min(seconds, self._watchdog_seconds / 2)
        self._beat.start(seconds, now=False)

    def reloading(self) -> None:
        """Say that the configuration is read anew; ``reloaded`` has to follow."""
        if self._beat.running:
            # systemd tells by the time whether this answers what it has asked for.
            microseconds = time.monotonic_ns() // 1000
            self._send(PATIENCE_SECONDS, RELOADING="1", MONOTONIC_USEC=str(microseconds))

    def reloaded(self) -> None:
        """Say that the service is ready again, whether anything has changed or not."""
        if self._beat.running:
            self._told = self._status_now()
            self._send(PATIENCE_SECONDS, READY="1", STATUS=self._told)

    def stopping(self) -> None:
        """Say that the service is about to end, and nothing after that."""
        if self._beat.running:
            self._beat.stop()
            self._send(PATIENCE_SECONDS, STOPPING="1", STATUS="stopping")

    def _tell(self) -> None:
        values: dict[str, str] = {}
        if self._watchdog_seconds is not None:
            values["WATCHDOG"] = "1"
        status = self._status_now()
        if status != self._told:
            values["STATUS"] = self._told = status
        if values:
            # What systemd has no room for now can wait; the reactor cannot.
            self._send(0.0, **values)

    def _status_now(self) -> str:
        return self._status()[:MAX_STATUS_CHARACTERS]

    def _send(self, patience_seconds: float, **values: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(patience_seconds)
                sender.connect(self._socket or "")
                sender.send(message(**values))
        except OSError as error:
            names = ", ".join(values)
            self.log.warn("systemd was not told {names}: {error}", names=names, error=str(error))
