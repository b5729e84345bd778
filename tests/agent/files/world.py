"""A sender and a receiver of files without a network: real disks, real databases, bytes in memory.

Owns how bytes go from one to the other: in pieces of any size, and up to any byte.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from abst.agent.files.draft import Draft
from abst.agent.files.drafts import Drafts
from abst.agent.files.outgoing import Item
from abst.agent.files.receiver import GATHER_SECONDS, FileReceiverFactory
from abst.agent.files.shipment import Observer, Shipment
from abst.agent.files.tree import TransferError
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Arrived, Records, Sending
from abst.database import Database
from abst.device.streams.stream import StreamAddress
from abst.device_id import DeviceID
from abst.errors import AbstError, PeerUnreachableError
from abst.identity import Identity

ALICE: Final = Identity.generate().device_id
BOB: Final = Identity.generate().device_id
MAX_TURNS: Final = 100_000


class End:
    """One end's transport: what is written waits until somebody carries it over."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.other: End
        self.written = bytearray()
        self.closing = False
        self.lost = False
        self.paused = False
        self.producer: Any = None
        self.most_waiting = 0

    def write(self, data: bytes) -> None:
        if not self.closing and not self.lost:
            self.written += data
            self.most_waiting = max(self.most_waiting, len(self.written))
            if self.producer is not None and len(self.written) >= 65536:
                self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.cut()

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def cut(self) -> None:
        """Break both directions."""
        for end in (self, self.other):
            end.lose(ConnectionLost())

    def lose(self, problem: Exception) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(problem))


@dataclass
class MemoryStreams:
    """Opens streams to a factory; ``Device.streams`` without a network."""

    factory: Callable[[], IProtocolFactory]
    refuses: AbstError | None = None

    def __post_init__(self) -> None:
        self.ends: list[End] = []
        self.opened = 0

    def connect(
        self, device_id: DeviceID, service: str, factory: IProtocolFactory
    ) -> Deferred[IProtocol]:
        if self.refuses is not None:
            return fail(self.refuses)
        ours, theirs = End(), End()
        ours.other, theirs.other = theirs, ours
        theirs.protocol = self.factory().buildProtocol(StreamAddress(ALICE, service))
        ours.protocol = factory.buildProtocol(StreamAddress(BOB, service))
        self.ends += [ours, theirs]
        self.opened += 1
        for end in (theirs, ours):
            end.protocol.makeConnection(end)
        return succeed(ours.protocol)

    def carry(self, size: int) -> int:
        """Carry at most so many bytes each way; return how many that were."""
        carried = 0
        for end in list(self.ends):
            if end.lost or end.other.lost:
                continue
            if end.written and not end.other.paused:
                data = bytes(end.written[:size])
                del end.written[:size]
                carried += len(data)
                end.other.protocol.dataReceived(data)
            if not end.written and end.producer is not None:
                end.producer.resumeProducing()
            if end.closing and not end.written:
                end.other.lose(ConnectionDone())
                end.lose(ConnectionDone())
                carried += 1
        self.ends = [end for end in self.ends if not end.lost]
        return carried

    def cut(self) -> None:
        """Break every stream."""
        for end in list(self.ends):
            end.cut()
        self.ends.clear()


class Notes(Observer):
    """What a sender was told."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.hashes: dict[str, bytes] = {}
        self.problems: list[TransferError] = []
        self.progress: list[tuple[str, int]] = []
        self._seen: set[bytes] = set()

    def progressed(self, item: Item) -> None:
        self.progress.append((item.name, item.got_bytes))

    def stored(self, item: Item, name: str, sha256: bytes) -> None:
        assert item.transfer not in self._seen
        self._seen.add(item.transfer)
        self.names[item.name] = name
        self.hashes[item.name] = sha256

    def failed(self, item: Item, problem: TransferError) -> None:
        self.problems.append(problem)


class World:
    """Alice sends to Bob.

    Args:
        folder: everything is in here.
    """

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.outside = folder / "outside"
        self.inbox = folder / "inbox"
        self.outside.mkdir(parents=True)
        self._folder = folder
        self._databases: list[Database] = []
        self.stored: list[str] = []
        self.streams = MemoryStreams(lambda: self.receivers)
        self.shipments: list[Shipment] = []
        self.start_receiver()
        self.start_sender()

    def close(self) -> None:
        """Leave nothing open."""
        for shipment in self.shipments:
            shipment.stop()
        self.streams.cut()
        for database in self._databases:
            database.close()

    def _records(self, name: str) -> Records:
        database = Database(self._folder / name, DATABASE_KIND, MIGRATIONS)
        self._databases.append(database)
        return Records(database)

    def start_receiver(self) -> None:
        """Start the receiver, as after a crash."""
        self.receiver_records = self._records("receiver.sqlite3")
        self.drafts = Drafts(self.inbox)
        for draft in self.drafts.recover({bytes(ALICE)}):
            if self.receiver_records.arrived(bytes(ALICE), draft.offer.transfer) is None:
                self._stored(bytes(ALICE), draft)
            self.receiver_records.commit()
            self.drafts.settle(draft)
        self.receivers = FileReceiverFactory(
            self.clock, self.drafts, self.receiver_records, self._stored, maybeDeferred
        )

    def start_sender(self) -> None:
        """Start the sender, as after a crash; it goes on with what was on its way."""
        self.sender_records = self._records("sender.sqlite3")
        sending = self.sender_records.sending(bytes(BOB))
        self.notes = Notes()
        if sending:
            self.ship([Item(one.transfer, one.path, is_offered=True) for one in sending])

    def crash_sender(self) -> None:
        """End the sender without a word, and start it again."""
        for shipment in self.shipments:
            shipment.stop()
        self.shipments.clear()
        self.streams.cut()
        self._databases.pop(self._databases.index(self.sender_records._database)).close()
        self.start_sender()

    def crash_receiver(self) -> None:
        """End the receiver without a word, and start it again."""
        drafts = self.drafts
        self.streams.cut()
        del drafts
        self._databases.pop(self._databases.index(self.receiver_records._database)).close()
        self.start_receiver()

    def _stored(self, device_id: bytes, draft: Draft) -> None:
        arrived = Arrived(draft.offer.transfer, draft.stored_as, draft.sha256)
        self.receiver_records.add_arrived(device_id, arrived)
        self.stored.append(draft.stored_as)

    def send(self, *paths: Path) -> Shipment:
        """Begin to send."""
        items = [Item(os.urandom(16), path) for path in paths]
        for item in items:
            self.sender_records.begin_sending(bytes(BOB), Sending(item.transfer, item.path))
        self.sender_records.commit()
        return self.ship(items)

    def ship(self, items: list[Item]) -> Shipment:
        """Begin to send items that are on record."""
        shipment = Shipment(
            self.clock,
            BOB,
            items,
            self.streams,
            self.sender_records,
            maybeDeferred,
            lambda device_id: Deferred(lambda _: None),
            self.notes,
        )
        self.shipments.append(shipment)
        shipment.start()
        return shipment

    def settle(self, sizes: Iterable[int] = repeat(1 << 20), until_bytes: int = 1 << 62) -> int:
        """Carry bytes in pieces of these sizes until nothing moves; return how many there were."""
        carried = 0
        pieces: Iterator[int] = iter(sizes)
        for _ in range(MAX_TURNS):
            size = min(next(pieces, 1 << 20), until_bytes - carried)
            moved = self.streams.carry(size) if size > 0 else 0
            carried += moved
            if not moved:
                self.clock.advance(GATHER_SECONDS)
                waits = any(end.written or end.closing for end in self.streams.ends)
                if not waits or carried >= until_bytes:
                    return carried
        raise AssertionError("it does not come to rest")

    def finish(self, seconds: float = 200.0) -> None:
        """Carry bytes and let time go by until everything is settled."""
        for _ in range(int(seconds)):
            self.settle()
            if all(not shipment.unsettled() for shipment in self.shipments):
                self.settle()
                return
            self.clock.advance(1)
        raise AssertionError("it is not settled")

    def wait(self) -> None:
        """Let a little time go by: until a stream that broke is opened again."""
        self.clock.pump([0.25] * 8)

    def away(self) -> None:
        """Let the peer be unreachable from now on."""
        self.streams.refuses = PeerUnreachableError("it is away")
        self.streams.cut()

    def back(self) -> None:
        """Let it be there again."""
        self.streams.refuses = None

    def names(self) -> list[str]:
        """Return everything in the inbox, drafts and journals included."""
        return sorted(os.listdir(self.inbox)) if self.inbox.exists() else []


def tree(path: Path) -> dict[str, Any]:
    """Return everything that has to be kept of a file or a folder, by its place."""
    found = {}
    for place in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
        status = place.lstat()
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            continue
        content = None if place.is_dir() else place.read_bytes()
        key = str(place.relative_to(path))
        found[key] = (stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns, content)
    return found
