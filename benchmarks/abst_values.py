"""A realm on the work of the value loads: the values of one peer group.

The limit on how often a device may ask is lifted: by itself it is 1,000 times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from benchmarks.abst_group import AbstGroup, wait_for_answer
from benchmarks.abst_realm import pack
from benchmarks.conversation import Conversation, Counter
from benchmarks.errors import ServerFailed
from benchmarks.value_servers import VALUE

_HELLO, _JOIN, _PUT, _GET, _CHANGED, _WATCH = 0, 4, 8, 9, 11, 12


class AbstValues(AbstGroup):
    """A realm, and one group whose values are asked for."""

    limits = {"value_requests_per_second": 1_000_000}

    def open(self, conversations: Sequence[Conversation]) -> None:
        """Have all of them join the group, which the first one makes."""
        self.join(conversations[0], conversations[1:])

    def put(self, name: bytes, number: int) -> bytes:
        """Return Put value."""
        return self._request(_PUT, number, {"name": name, "value": VALUE})

    def get(self, name: bytes, number: int) -> bytes:
        """Return Get value."""
        return self._request(_GET, number, {"name": name})

    def puts_answered(self) -> Counter:
        """Count Value put."""
        return _Answers(_PUT, lambda content: content["revision"] > 0)

    def gets_answered(self) -> Counter:
        """Count Value found."""
        return _Answers(_GET, lambda content: content.get("value") == VALUE)

    def watch(self, watcher: Conversation, name: bytes) -> Counter:
        """Watch the group, and count the changes; see :class:`ValueServer`."""
        watcher.send(self._request(_WATCH, 0, {}))
        wait_for_answer(watcher, _WATCH)
        return _Changes(name)

    def _request(self, packet_id: int, number: int, content: dict[str, object]) -> bytes:
        request = {"packet_id": packet_id, "request": number, "peer_group": self.group}
        return pack({**request, "content": content})


class _Answers:
    """Counts one kind of answer, in the order of the requests' numbers."""

    answer = b""

    def __init__(self, packet_id: int, is_right: Callable[[dict[str, Any]], bool]) -> None:
        self._packet_id = packet_id
        self._is_right = is_right
        self._unpacker = msgpack.Unpacker()
        self._next = 0

    def feed(self, data: bytes) -> int:
        """Return how many requests are answered. Raises: ServerFailed."""
        before = self._next
        self._unpacker.feed(data)
        for packet in self._unpacker:
            packet_id = packet["packet_id"]
            if packet_id == self._packet_id and packet.get("request") == self._next:
                if not self._is_right(packet["content"]):
                    raise ServerFailed(f"the realm answers with something else: {packet}")
                self._next += 1
            elif packet_id not in (_HELLO, _JOIN):
                raise ServerFailed(f"request {self._next} is answered with {str(packet)[:300]}")
        return self._next - before


class _Changes:
    """Counts the changes of one name that a watcher is told."""

    answer = b""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._unpacker = msgpack.Unpacker()

    def feed(self, data: bytes) -> int:
        """Return how many changes have come. Raises: ServerFailed."""
        changes = 0
        self._unpacker.feed(data)
        for packet in self._unpacker:
            if packet["packet_id"] == _CHANGED:
                for _, name, _, value in packet["content"]["changes"]:
                    if (name, value) != (self._name, VALUE):
                        raise ServerFailed(f"a watcher is told something else: {packet}")
                    changes += 1
            elif packet["packet_id"] not in (_HELLO, _JOIN):
                raise ServerFailed(f"the realm sends {str(packet)[:300]}")
        return changes
