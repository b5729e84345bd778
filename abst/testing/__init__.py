"""An in-memory realm and devices, for the tests of applications.

The realm, the links' protocol, the channels' TLS and the sessions are the real ones; only sockets
and the clock are not. Nothing happens between calls: ``MemoryNetwork.settle`` passes packets until
all is quiet, ``MemoryNetwork.advance`` lets time go by.

    network = MemoryNetwork()
    alice = network.device("alice", ChatFactory())
    bob = network.device("bob", ChatFactory())
    network.introduce(alice, bob)
    connected = alice.connect(bob.device_id)
    network.settle()
    protocol = network.result(connected)
"""

from abst.testing.lan import MemoryLan, MemoryLanPort
from abst.testing.network import MemoryNetwork
from abst.testing.pipes import MemoryPipe
from abst.testing.realm import MemoryLink, MemoryRealm

__all__ = ["MemoryLan", "MemoryLanPort", "MemoryLink", "MemoryNetwork", "MemoryPipe", "MemoryRealm"]
