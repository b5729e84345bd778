"""A bounded pool of pipes, through which the kernel moves what it splices.

Owns how many there are and how much they hold. A pipe is lent for as long as bytes are in it, so
that circuits on which nothing goes cost neither descriptors nor memory. One of them, a large one,
is the reserve: whoever gets it gives it back in the same turn, and keeps in memory what its reader
does not take; so those who wait for their readers never leave the others without a pipe.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

MAX_PIPES: Final = 256
LARGE_PIPES: Final = 32
"""How many of them are large: users without privileges have 64 MiB for all their pipes."""

LARGE_BYTES: Final = 1024 * 1024

F_SETPIPE_SZ: Final = 1031
"""fcntl.F_SETPIPE_SZ of Linux."""


class Pipe:
    """The numbers of a pipe's two ends."""

    __slots__ = ("reading", "writing")

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def enlarge(self) -> None:
        """Let it hold more, where the kernel allows that."""
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(self.writing, F_SETPIPE_SZ, LARGE_BYTES)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reading)
        os.close(self.writing)


class Pipes:
    """Pipes to be lent, made when they are needed.

    Args:
        most: how many there may be.

    Attributes:
        kept_bytes: how much is kept in memory that was in the reserve.
    """

    def __init__(self, most: int = MAX_PIPES) -> None:
        self._most = most
        self._made = 0
        # The large ones are made first, and the last one given back goes out first.
        self._idle: list[Pipe] = []
        self._reserve: Pipe | None = None
        self.kept_bytes = 0

    def __len__(self) -> int:
        return self._made

    def take(self) -> Pipe | None:
        """Lend an empty pipe, the reserve if it is the last one; None when there is none at all."""
        if self._reserve is None:
            self._reserve = self._make()
        if self._idle:
            return self._idle.pop()
        return self._make() or self._reserve

    def is_reserve(self, pipe: Pipe | None) -> bool:
        """Tell whether this is a pipe that has to be given back in the same turn."""
        return pipe is not None and pipe is self._reserve

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back that is empty."""
        if pipe is not self._reserve:
            self._idle.append(pipe)

    def throw_away(self, pipe: Pipe) -> None:
        """Close a pipe in which there is something left."""
        if pipe is self._reserve:
            self._reserve = None
        pipe.close()
        self._made -= 1

    def close_idle(self) -> None:
        """Close every pipe that is not lent."""
        while self._idle:
            self.throw_away(self._idle.pop())
        if self._reserve is not None:
            self.throw_away(self._reserve)

    def _make(self) -> Pipe | None:
        if self._made >= self._most:
            return None
        try:
            pipe = Pipe()
        except OSError:
            # No descriptor is left, which others need more.
            return None
        self._made += 1
        if self._made <= LARGE_PIPES:
            pipe.enlarge()
        return pipe
