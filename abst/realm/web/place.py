"""Where a realm shows what it shows: a Unix socket, or a port that this machine alone reaches.

Owns what the setting ``web`` may be. Everything there is shown without a question, so a place that
others can reach is refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
)

EXAMPLES: Final = "such as unix:/run/abst/web or tcp:9142:interface=127.0.0.1"

SOCKET_MODE: Final = 0o660
"""Of a Unix socket where the setting names none: for the service's user and group."""

_UNIX = re.compile(r"unix:(?:address=)?(?P<path>/[^:]+)(?::mode=(?P<mode>[0-7]{3}))?")
_TCP = re.compile(r"tcp6?:(?:port=)?(?P<port>\d{1,5})(?::interface=(?P<host>.+))?")


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A Unix socket, for whom its mode lets in."""

    path: Path
    mode: int = SOCKET_MODE

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def endpoint(self, reactor: Any) -> Any:
        """Return what listens there."""
        return UNIXServerEndpoint(reactor, str(self.path), mode=self.mode)

    def make_room(self) -> None:
        """Remove a socket that a killed realm has left; one at which somebody listens stays.

        A file with the number of who listens would not tell: after a restart of the machine, or in
        a container, somebody else has that number.

        Raises:
            OSError: there is one that cannot be removed.
        """
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as visitor:
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                return
            visitor.setblocking(False)
            try:
                visitor.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
            except BlockingIOError:
                pass  # So many visit it that another one has to wait.


@dataclass(frozen=True, slots=True)
class LoopbackPlace:
    """A TCP port of an address that this machine alone reaches."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def endpoint(self, reactor: Any) -> Any:
        """Return what listens there."""
        kind = TCP6ServerEndpoint if ":" in self.host else TCP4ServerEndpoint
        return kind(reactor, self.port, interface=self.host)


Place = UnixPlace | LoopbackPlace


def place_of(description: str) -> Place:
    """Return the place that a setting names.

    Raises:
        ValueError: it names none, or one that others can reach; the text says which.
    """
    if found := _UNIX.fullmatch(description):
        mode = SOCKET_MODE if found["mode"] is None else int(found["mode"], 8)
        return UnixPlace(Path(found["path"]), mode)
    found = _TCP.fullmatch(description)
    if found is None:
        raise ValueError(f"{description!r} is no place for it, {EXAMPLES}")
    port = int(found["port"])
    if port > 65535:
        raise ValueError(f"{port} is no port: they end at 65535")
    # A colon in an endpoint's description is written with a backslash.
    host = (found["host"] or "").replace("\\:", ":").strip("[]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(
            f"{description!r} can be reached from elsewhere, and the page asks nobody who he is; "
            "bind it to this machine with :interface=127.0.0.1, and put a reverse proxy before it"
        )
    return LoopbackPlace(host, port)
