"""What the clients of the message loads share: their task, what they count, and how they are told.

A client is a process of its own, and the run reads its counts from outside at any moment, without
asking it: they stand on a *board*, a page of memory that the run and both clients map. Each cell
has one writer. Messages are numbered: a receiver that misses one, or gets one twice or out of
order, ends, and the run has failed.

Only the standard library is needed here: the clients of a peer may live in a virtual environment
in which nothing else of the benchmarks works.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import time
from pathlib import Path

#: The cells of a board. The run writes the phase, the receiver the next two, the sender the rest.
PHASE, RECEIVER_IS_READY, RECEIVED, SENT, ACKNOWLEDGED, SENDER_IS_DONE = range(6)
#: What the run wants: that messages flow, that their time is noted, that no more are sent.
WARM_UP, MEASURE, STOP = range(3)

SENDER, RECEIVER = "sender", "receiver"
#: A message is done when the library says that it is acknowledged, or when the receiver's
#: application has answered with a message as long.
ACKNOWLEDGEMENT, ANSWER = "acknowledgement", "answer"

#: Where only the server between them acknowledges, a sender must not leave its receiver behind: it
#: looks at the board, which costs it nothing, and waits when so many messages have not arrived.
MOST_AHEAD = 500
AHEAD_SECONDS = 0.002

_CELL_BYTES = 8
_NUMBER_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Task:
    """What a client is to do: written by the run, read by the client from its command line."""

    role: str
    until: str
    #: The most messages that the sender may have out and not done.
    window: int
    size_bytes: int
    board: str
    #: Where the sender leaves the times that it has noted, in seconds, as a list in JSON.
    latencies: str
    #: What the kind of client needs to find its server and the other client.
    where: dict[str, str]

    def to_json(self) -> str:
        """Return the task as one argument of a command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Return the task that :meth:`to_json` wrote."""
        return cls(**json.loads(text))


class Board:
    """A page that several processes see at once; a cell is a number that one of them writes."""

    def __init__(self, file: Path) -> None:
        """Map a file that :meth:`create` has made."""
        with file.open("r+b") as page:
            self.cells = memoryview(mmap.mmap(page.fileno(), 0)).cast("Q")

    @classmethod
    def create(cls, file: Path) -> Board:
        """Make a board of zeros, and map it."""
        file.write_bytes(bytes(_CELL_BYTES * (SENDER_IS_DONE + 1)))
        return cls(file)


class Sending:
    """The sender's side: the next message, and the note that one is done."""

    def __init__(self, task: Task) -> None:
        self._cells = Board(Path(task.board)).cells
        self._file = Path(task.latencies)
        self._padding = os.urandom(task.size_bytes - _NUMBER_BYTES)
        self._is_alone = task.window == 1
        self._latencies: list[float] = []
        self._begun = 0.0

    def take(self) -> bytes | None:
        """Return the next message, to be sent at once; None when there shall be no more."""
        cells = self._cells
        if cells[PHASE] == STOP:
            if cells[SENT] == cells[ACKNOWLEDGED] and not cells[SENDER_IS_DONE]:
                self._file.write_text(json.dumps(self._latencies))
                cells[SENDER_IS_DONE] = 1
            return None
        number = cells[SENT]
        cells[SENT] = number + 1
        if self._is_alone:
            self._begun = time.perf_counter()
        return number.to_bytes(_NUMBER_BYTES, "big") + self._padding

    @property
    def is_ahead(self) -> bool:
        """Whether the sender should give the receiver time."""
        cells = self._cells
        return cells[SENT] - cells[RECEIVED] >= MOST_AHEAD and cells[PHASE] != STOP

    def done(self) -> None:
        """Note that a message is acknowledged, or answered, whichever the task says."""
        cells = self._cells
        cells[ACKNOWLEDGED] += 1
        if self._is_alone and cells[PHASE] == MEASURE:
            self._latencies.append(time.perf_counter() - self._begun)


class Receiving:
    """The receiver's side: count messages, and look that they are the right ones."""

    def __init__(self, task: Task) -> None:
        self._cells = Board(Path(task.board)).cells
        self._size_bytes = task.size_bytes

    def ready(self) -> None:
        """Note that the sender may begin."""
        self._cells[RECEIVER_IS_READY] = 1

    def message(self, payload: bytes) -> None:
        """Count one; end the process if it is not the next one.

        A library may log what its caller's functions raise, and go on.
        """
        number = self._cells[RECEIVED]
        if len(payload) != self._size_bytes or payload[:_NUMBER_BYTES] != number.to_bytes(
            _NUMBER_BYTES, "big"
        ):
            print(f"{payload[:_NUMBER_BYTES]!r}... came, not message {number}", flush=True)
            os._exit(1)
        self._cells[RECEIVED] = number + 1
