"""Pipes: a connection that one channel or one stream has to itself.

What a channel and a stream need of it, whatever it is made of: a TCP connection to the other device
(``tcp_pipe``), a leg to a realm (``leg_pipe``), or nothing but memory (``abst.testing``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from abst.errors import AbstError

Finished = Callable[[AbstError | None], None]
"""Called once a connection is closed, with why something was not taken, or None."""


class PipeOwner(Protocol):
    """Whoever a pipe belongs to."""

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        """Bytes came."""

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        """The connection is gone."""


class Producer(Protocol):
    """Whoever writes much into a pipe."""

    def pauseProducing(self) -> None:
        """So much waits to be sent that no more should be written for now."""

    def resumeProducing(self) -> None:
        """Nothing waits any more."""

    def stopProducing(self) -> None:
        """The connection is gone."""


class Pipe(Protocol):
    """A connection.

    Attributes:
        address: the other end's ``HOST:PORT``, as it was dialled or as it has come.
        remote: the same, as the network knows it.
        local: this end's ``HOST:PORT``.
        owner: who is told; None until somebody has taken it, which has to be at once.
    """

    address: str
    remote: str
    local: str
    owner: PipeOwner | None

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def close(self) -> None:
        """Close soon, once what was written has come; the owner hears nothing more."""

    def abort(self) -> None:
        """Break the connection, so that the other end knows; what was written may be lost.

        The owner hears nothing more.
        """

    def finish(self, finished: Finished) -> None:
        """Close once what was written is out, however long that takes.

        For when nothing more is going to come. The owner hears nothing more; ``finished`` is called
        once the connection is closed, with why something was not taken, or None.
        """

    def is_stranded(self) -> bool:
        """Tell whether this machine has lost the address of this end, so that nothing comes."""

    def pause(self) -> None:
        """Read nothing until ``resume``, so that the other end has to wait."""

    def resume(self) -> None:
        """Read again."""

    def register_producer(self, producer: Producer) -> None:
        """Tell somebody when to stop writing and when to go on."""

    def unregister_producer(self) -> None:
        """Tell nobody any more."""
