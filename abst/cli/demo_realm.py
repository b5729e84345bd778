"""The realm of the demonstration: a real one that also keeps a copy of what it reads.

``python -m abst.cli.demo_realm STATE RECORD REPORT`` prints the link for its first device, runs
until SIGTERM or the end of its input, and then writes what it counted. The copy is taken above TLS:
what lies on the wire is encrypted once more and would prove less.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any, Final

MAX_RECORD_BYTES: Final = 64 * 1024 * 1024


class Record:
    """The copy, and who was there.

    Args:
        file: where the copy goes.
        room_bytes: how much of it there may be.

    Attributes:
        received_bytes: how much the realm has read, which may be more than the copy holds.
        device_ids: who has connected.
    """

    def __init__(self, file: IO[bytes], room_bytes: int = MAX_RECORD_BYTES) -> None:
        self._file = file
        self._room_bytes = room_bytes
        self.received_bytes = 0
        self.device_ids: set[str] = set()

    def add(self, data: bytes) -> None:
        """Keep what was read, as long as there is room."""
        self.received_bytes += len(data)
        self._file.write(data[: self._room_bytes])
        self._room_bytes -= min(self._room_bytes, len(data))

    def close(self) -> None:
        """Write the rest."""
        self._file.close()


def run(state: Path, record_file: Path, report_file: Path) -> None:
    """Run the realm until it is told to stop."""
    from twisted.internet import reactor as any_reactor
    from twisted.internet.stdio import StandardIO

    from abst.realm.config import Config
    from abst.realm.service import RealmService

    reactor: Any = any_reactor
    record = Record(record_file.open("wb"))
    config = Config(listen=("tcp:0:interface=127.0.0.1",), state=state)
    service = RealmService(reactor, config)
    service.startService()
    factory = service.factory
    assert factory is not None
    # Nobody is accepted before the reactor runs.
    factory.protocol = recording_protocol(record)

    def report() -> None:
        record.close()
        counted = {
            **factory.realm.counters.as_map(),
            "received_bytes": record.received_bytes,
            "device_ids": sorted(record.device_ids),
        }
        report_file.write_text(json.dumps(counted), encoding="utf-8")

    def stop() -> Any:
        return service.stopService().addCallback(lambda _: report())

    StandardIO(_until_end_of_input(reactor), reactor=reactor)
    reactor.addSystemEventTrigger("before", "shutdown", stop)
    reactor.run()


def recording_protocol(record: Record) -> Any:
    """Return a ``RealmProtocol`` that copies everything it reads."""
    from abst.device_id import DeviceID
    from abst.realm import RealmProtocol

    class RecordingProtocol(RealmProtocol):
        """A device's connection, with an open ear."""

        def handshakeCompleted(self) -> None:
            """Note who it is."""
            super().handshakeCompleted()
            if self.conversation.device_id is not None:
                record.device_ids.add(str(DeviceID(self.conversation.device_id)))

        def dataReceived(self, data: bytes) -> None:
            """Copy, then relay."""
            record.add(data)
            super().dataReceived(data)

    return RecordingProtocol


def _until_end_of_input(reactor: Any) -> Any:
    """Return a protocol that stops the reactor when whoever started this is gone."""
    from twisted.internet.protocol import Protocol, connectionDone
    from twisted.python.failure import Failure

    class UntilEndOfInput(Protocol):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            if reactor.running:
                reactor.stop()

    return UntilEndOfInput()


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:4]))
