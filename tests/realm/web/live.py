"""A realm's service that shows itself, and somebody who looks at it over a real connection."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Final, NamedTuple

from twisted.trial.unittest import TestCase

from abst.realm.access import Mode
from abst.realm.config import Config
from abst.realm.service import RealmService
from abst.realm.web.place import LoopbackPlace, UnixPlace, place_of
from abst.realm.web.service import RealmWeb
from tests.carriers import running_reactor, until

PATIENCE_SECONDS: Final = 20.0
LOOPBACK: Final = "tcp:0:interface=127.0.0.1"


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: the number in its first line.
        headers: by their names in small letters.
        body: what follows them.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def read_answer(data: bytes) -> Answer:
    """Return the one answer that the bytes are."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return Answer(int(first.split()[1]), headers, body)


class LiveCase(TestCase):
    """A real service on loopback; the tests run in threads."""

    web: str | None = LOOPBACK
    settings: dict[str, Any] = {}

    def setUp(self) -> Any:
        self.state = Path(self.mktemp()).resolve()
        config = Config(
            listen=(LOOPBACK,), state=self.state, web=self.web, access=Mode.OPEN, **self.settings
        )
        self.service = RealmService(running_reactor(), config, lambda line: None)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    @property
    def realm_port(self) -> int:
        """The port for devices."""
        return self.service.addresses[0].port

    @property
    def shown(self) -> RealmWeb:
        """What it shows, as soon as it does."""
        until(lambda: self.service._web.port is not None, "it to be shown")
        return self.service._web

    def connect(self) -> socket.socket:
        """Connect to where it is shown."""
        assert self.web is not None and self.shown.port is not None
        place = place_of(self.web)
        if isinstance(place, UnixPlace):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(str(place.path))
            return connection
        assert isinstance(place, LoopbackPlace)
        where: Any = self.shown.port.getHost()
        return socket.create_connection((place.host, where.port), PATIENCE_SECONDS)

    def send(self, request: bytes) -> Answer:
        """Send a request, and return what is answered until the connection ends."""
        data = bytearray()
        with self.connect() as connection:
            connection.sendall(request)
            while piece := connection.recv(65536):
                data += piece
        return read_answer(bytes(data))

    def ask(self, path: str, method: str = "GET", host: str | None = "localhost") -> Answer:
        """Ask for something."""
        lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
        if host is not None:
            lines.append(f"Host: {host}")
        return self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
