"""A realm inside another application: here an echo server, which has a port of its own."""

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.wire import Echo

from abst.address import RealmAddress
from abst.identity import Identity
from abst.realm import RealmFactory

USAGE = "usage: python examples/embedded_realm.py KEY_FILE"
HERE = "tcp:0:interface=127.0.0.1"  # Port 0: any that is free.


async def main(reactor: Any, key_file: str) -> None:
    echo = await serverFromString(reactor, HERE).listen(Factory.forProtocol(Echo))
    realm = RealmFactory(reactor, Identity.load_or_create(Path(key_file)))
    port: Any = await serverFromString(reactor, HERE).listen(realm)
    print("echo:", echo.getHost())
    print(RealmAddress("127.0.0.1", port.getHost().port, realm.identity.pin), flush=True)
    reactor.addSystemEventTrigger("before", "shutdown", realm.stop)
    await Deferred()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(USAGE)
    react(main, sys.argv[1:])
