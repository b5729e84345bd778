"""What the tests of streams share: protocols that take notes, and producers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.device import Device
from abst.testing import MemoryNetwork
from tests.carriers import Behaviour, running_reactor

BIG: Final = bytes(range(256)) * 4096


class Notes(Protocol):
    """Notes what happens to it.

    Attributes:
        heard: what came.
        ended: why it ended, once it has.
    """

    transport: Any

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ended: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.ended is None
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.ended is None
        self.ended = reason.value


@implementer(IHalfCloseableProtocol)
class HalfNotes(Notes):
    """The same, of one that goes on when the other side has said its last."""

    def __init__(self) -> None:
        super().__init__()
        self.halves: list[str] = []

    def readConnectionLost(self) -> None:
        self.halves.append("read")

    def writeConnectionLost(self) -> None:
        self.halves.append("write")


class Echo(Notes):
    """Says everything again."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)


class Built(Factory):
    """Keeps what it has built."""

    noisy = False

    def __init__(self, protocol: Callable[[], Protocol]) -> None:
        self.make = protocol
        self.built: list[Any] = []
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> Protocol:
        self.addresses.append(addr)
        self.built.append(self.make())
        return self.built[-1]  # type: ignore[no-any-return]


@implementer(IPushProducer)
class Pusher:
    """Writes as long as it may."""

    def __init__(self, transport: Any, piece: bytes) -> None:
        self.transport = transport
        self.piece = piece
        self.written = 0
        self.paused = 0
        self.stopped = False
        self.is_paused = False

    def push(self, most: int) -> None:
        """Write until it is told to stop, or that many bytes."""
        while not self.is_paused and not self.stopped and most > 0:
            self.transport.write(self.piece)
            self.written += len(self.piece)
            most -= len(self.piece)

    def pauseProducing(self) -> None:
        self.paused += 1
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def stopProducing(self) -> None:
        self.stopped = True


class Puller:
    """Writes a piece whenever it is asked for one."""

    def __init__(self, transport: Any, pieces: int) -> None:
        self.transport = transport
        self.left = pieces

    def resumeProducing(self) -> None:
        self.left -= 1
        self.transport.write(BIG[:1000])
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        raise AssertionError("it was never stopped")


class World(Behaviour):
    """Two devices, and how a test opens streams between them."""

    path_kind = "direct"
    alice: Device
    bob: Device

    async def begin(self) -> None:
        """Set ``alice`` and ``bob`` up, who trust each other."""
        raise NotImplementedError

    async def until(self, holds: Callable[[], object]) -> None:
        """Let things go on until something is so."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let things go on for a while."""
        raise NotImplementedError

    async def open(
        self,
        near: Callable[[], Protocol] = Notes,
        far: Callable[[], Protocol] = Notes,
        service: str = "notes",
    ) -> tuple[Any, Any]:
        """Return the two protocols of a new stream from Alice to Bob."""
        offered = Built(far)
        port: Any = await self.bob.streams.listen(service, offered)
        try:
            protocol = await self.connect(service, Built(near))
        finally:
            port.stopListening()
        return protocol, offered.built[0]

    async def connect(self, service: str, factory: Factory) -> Any:
        return await self.done(self.alice.streams.connect(self.bob.device_id, service, factory))

    async def done(self, waiting: Deferred[Any]) -> Any:
        found: list[Any] = []
        waiting.addBoth(found.append)
        await self.until(lambda: found)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]

    async def refused(self, kind: type[Exception], service: str = "notes") -> Any:
        """Return the exception with which a stream is refused."""
        try:
            await self.connect(service, Built(Notes))
        except kind as problem:
            return problem
        raise AssertionError("the stream was opened")

    async def nothing_is_left(self) -> None:
        """Wait until neither device holds anything of a stream."""
        streams = (self.alice.streams, self.bob.streams)
        await self.until(lambda: not any(each.open_streams() for each in streams))
        await self.until(lambda: not any(each._openings or each._offered for each in streams))
        assert not any(each._of_peer for each in streams), [each._of_peer for each in streams]


class MemoryWorld(World):
    """Without sockets, and without time."""

    network: MemoryNetwork

    async def until(self, holds: Callable[[], object]) -> None:
        for _ in range(100):
            self.network.settle()
            if holds():
                return
            self.network.advance(0.25, 0.25)
        raise AssertionError("it never came to pass")

    async def pass_time(self, seconds: float) -> None:
        self.network.advance(seconds)


class TcpWorld(World):
    """Real sockets."""

    timeout = 20

    def introduce(self) -> None:
        """Let the two devices trust each other, and start them."""
        for device, other in ((self.alice, self.bob), (self.bob, self.alice)):
            device.trust(other.device_id)
            device.startService()
            self.addCleanup(device.stopService)

    async def until(self, holds: Callable[[], object]) -> None:
        await deferLater(running_reactor(), 0, lambda: None)
        while not holds():
            await deferLater(running_reactor(), 0.002, lambda: None)

    async def pass_time(self, seconds: float) -> None:
        await deferLater(running_reactor(), seconds, lambda: None)
