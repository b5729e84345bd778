"""Two devices with streams between them, and the gates through which programs use them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from abst.agent.streams.gate import MAX_CONNECTIONS, Gate
from abst.agent.streams.gate_lines import SOCKET_NAME
from abst.agent.streams.single import SingleFactory
from abst.device import Device, DeviceFactory
from abst.device.lan import LocalNetwork
from abst.identity import Identity
from tests.carriers import running_reactor

SECONDS = 20.0


class Raw(Protocol):
    """A program that says what the test says.

    Attributes:
        said: everything that the agent has said.
        is_gone: whether the agent has closed the connection.
    """

    transport: Any

    def __init__(self) -> None:
        self.said = b""
        self.is_gone = False

    def dataReceived(self, data: bytes) -> None:
        self.said += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_gone = True


class StreamTestCase(TestCase):
    """A test with the devices Alice and Bob, who trust each other and meet on loopback.

    Attributes:
        alice: one device.
        bob: the other one.
        homes: the folders of both, by name, with the sockets of their gates.
        gates: the gates of both, by name.
    """

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        self.reactor: Any = running_reactor()
        # A socket's path has at most 107 bytes, so this is not in trial's folder.
        folder = Path(tempfile.mkdtemp(prefix="abst-test-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, folder)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._stop()))
        self.homes = {name: folder / name for name in ("alice", "bob")}
        self.gates: dict[str, Gate] = {}
        self.ports: dict[str, Any] = {}
        self.alice, self.bob = (self.make_device() for _ in range(2))
        for device, other, name in ((self.alice, self.bob, "bob"), (self.bob, self.alice, "alice")):
            device.trust(other.device_id, name)
            device.startService()
        for device, other in ((self.alice, self.bob), (self.bob, self.alice)):
            device.peers.add_address(other.device_id, other.own_addresses()[0])
        for name in ("alice", "bob"):
            self.homes[name].mkdir(mode=0o700)
            self.start_agent(name)

    async def _stop(self) -> None:
        for name in tuple(self.ports):
            await self.stop_agent(name)
        await self.alice.stopService()
        await self.bob.stopService()

    def make_device(self) -> Device:
        lan = LocalNetwork(self.reactor, interface="127.0.0.1", announces=False)
        return Device(self.reactor, Identity.generate(), DeviceFactory(), lan=lan)

    def start_agent(self, name: str, **settings: Any) -> None:
        """Open a device's gate, as the agent does."""
        device = self.alice if name == "alice" else self.bob
        self.gates[name] = Gate(self.reactor, device, **settings)
        path = str(self.homes[name] / SOCKET_NAME)
        self.ports[name] = self.reactor.listenUNIX(path, self.gates[name], backlog=MAX_CONNECTIONS)

    async def stop_agent(self, name: str) -> None:
        """Close a device's gate, as the agent does when it stops."""
        port = self.ports.pop(name)
        await port.stopListening()
        self.gates[name].stop()
        await self.until(lambda: not self.gates[name].connection_count)

    async def raw(self, line: bytes = b"", name: str = "alice") -> Raw:
        """Return a connection to a gate on which something has been said."""
        endpoint = UNIXClientEndpoint(self.reactor, str(self.homes[name] / SOCKET_NAME))
        raw = Raw()
        await endpoint.connect(SingleFactory(raw))
        raw.transport.write(line)
        self.addCleanup(raw.transport.abortConnection)
        return raw

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; trial's timeout ends it."""
        while not holds():
            await deferLater(self.reactor, 0.002, lambda: None)

    async def turns(self, count: int) -> None:
        """Let things go on for a little."""
        for _ in range(count):
            await deferLater(self.reactor, 0.002, lambda: None)

    async def fails(self, waiting: Deferred[Any], kind: type[Exception], *words: str) -> None:
        """Assert that something fails, and what is said about it."""
        try:
            result = await waiting
        except kind as problem:
            for word in words:
                self.assertIn(word, str(problem))
        else:
            self.fail(f"no failure but {result!r}")
