"""The servers of the value loads: what keeps a value, and says so once the disk has it.

A server says how its requests look, and counts their answers. The names are 32 bytes, the values
100, and both are canned: what an ABST device puts is sealed before, and the realm sees no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from benchmarks.conversation import Conversation, Counter
from benchmarks.servers import Server

#: How many names there are; every one has a value before anything is measured.
NAMES = 1_000
VALUE = hashlib.shake_256(b"value").digest(100)
_NAMES = [hashlib.sha256(b"%d" % number).digest() for number in range(NAMES)]


class ValueServer(Server, Protocol):
    """One kind of server that keeps values. A connection's requests are numbered from 0."""

    def open(self, conversations: Sequence[Conversation]) -> None:
        """Make connections ready for requests. Raises: ServerFailed."""

    def put(self, name: bytes, number: int) -> bytes:
        """Return the request that keeps ``VALUE`` under a name."""

    def get(self, name: bytes, number: int) -> bytes:
        """Return the request for what is under a name."""

    def puts_answered(self) -> Counter:
        """Return what counts the answers to a connection's puts, from the first one on."""

    def gets_answered(self) -> Counter:
        """Return what counts the answers to gets, of which each has to bring ``VALUE``."""

    def watch(self, watcher: Conversation, name: bytes) -> Counter:
        """Have a connection told of every change of a name; return what counts the changes.

        Raises: ServerFailed.
        """


def name_of(number: int) -> bytes:
    """Return one of the names, in turns."""
    return _NAMES[number % NAMES]
