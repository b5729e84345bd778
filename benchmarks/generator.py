"""The generator's loop: it waits for its connections, hands what arrived on, and notes the time."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import TracebackType

from benchmarks.conversation import Conversation
from benchmarks.errors import PacketsLost
from benchmarks.process import ServerProcess
from benchmarks.servers import Server

_TURN_SECONDS = 0.1
_STALL_SECONDS = 10.0


def _ignore(_: int) -> None:
    pass


class Generator:
    """All connections to one server. Use it as a context manager, and it closes them."""

    def __init__(self, server: Server, process: ServerProcess) -> None:
        self.server = server
        self.process = process
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Conversation, Callable[[int], None]]] = {}
        self._next_keepalive = time.monotonic() + server.keepalive_seconds

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for conversation, _ in self._watched.values():
            conversation.close()
        self._epoll.close()

    def connect(self) -> Conversation:
        """Return a new peer's connection, greeted. Raises: ServerFailed."""
        conversation = Conversation(self.server, self.process.port, len(self._watched), self._epoll)
        self._watched[conversation.descriptor] = (conversation, _ignore)
        return conversation

    def watch(self, conversation: Conversation, react: Callable[[int], None]) -> None:
        """Call ``react`` with the number of packets that came, whenever something happened."""
        self._watched[conversation.descriptor] = (conversation, react)

    def turn(self, timeout_seconds: float = 0.0) -> bool:
        """Wait for something to happen, see to it, and tell whether anything did."""
        events = self._epoll.poll(timeout_seconds)
        for descriptor, event in events:
            conversation, react = self._watched[descriptor]
            if event & select.EPOLLOUT:
                conversation.flush()
            react(conversation.receive() if event & ~select.EPOLLOUT else 0)
        if time.monotonic() >= self._next_keepalive:
            self._next_keepalive += self.server.keepalive_seconds
            for conversation, _ in self._watched.values():
                conversation.keep_alive()
        return bool(events)

    def run(self, seconds: float) -> None:
        """Turn for that long. Raises: ServerFailed, PacketsLost."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.turn(min(left, _TURN_SECONDS))

    def run_until(self, is_done: Callable[[], bool]) -> None:
        """Turn until it is done. Raises: PacketsLost, when for some seconds nothing happens."""
        last_event = time.monotonic()
        while not is_done():
            if self.turn(_TURN_SECONDS):
                last_event = time.monotonic()
            elif time.monotonic() - last_event > _STALL_SECONDS:
                self.process.check()
                raise PacketsLost(
                    f"{self.server.name} delivers nothing for {_STALL_SECONDS} s, and not all "
                    "that was sent has arrived"
                )
