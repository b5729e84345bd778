"""One end of the bulk that goes through circuits: ``send BOARD FD...`` or ``receive BOARD FD...``.

The two ends are a process each, and cost as little as possible, so that the relay between them is
what limits. Every circuit carries one block again and again, each from another place in it. The
receiver compares the first bytes of each circuit with what they must be, and from then on has the
kernel count bytes and throw them away (``MSG_TRUNC``). It wants to be woken for many bytes at once
(``SO_RCVLOWAT``): to wake it falls to the relay, which on the loopback interface does the kernel's
work for both ends, and never has to wake a process on another machine.
"""

from __future__ import annotations

import random
import select
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.message_client import (
    PHASE,
    RECEIVED,
    RECEIVER_IS_READY,
    SENDER_IS_DONE,
    SENT,
    STOP,
    Board,
)

_BLOCK_BYTES = 1024 * 1024
_COMPARED_BYTES = 4 * _BLOCK_BYTES
_GATHERED_BYTES = 256 * 1024
_TURN_SECONDS = 0.1
# A prime: the beginnings of no two circuits are alike.
_SHIFT_BYTES = 10_007


class _Stream:
    """What one circuit carries: how far it is."""

    def __init__(self, descriptor: int, number: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.socket.setblocking(False)
        self.position = number * _SHIFT_BYTES % _BLOCK_BYTES
        self.uncompared_bytes = _COMPARED_BYTES

    def advance(self, length_bytes: int) -> None:
        """Go that far in the block, and around."""
        self.position = (self.position + length_bytes) % _BLOCK_BYTES


def _gather(streams: Sequence[_Stream], least_bytes: int) -> None:
    """Be woken when so many bytes have come on a circuit."""
    for stream in streams:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least_bytes)


def _twice_the_block() -> memoryview:
    """Return the block and once more the block: a whole one begins everywhere in the first."""
    return memoryview(random.Random(0).randbytes(_BLOCK_BYTES) * 2)


def _poll(streams: Sequence[_Stream], wanted: int) -> tuple[select.epoll, dict[int, _Stream]]:
    epoll = select.epoll()
    watched = {stream.socket.fileno(): stream for stream in streams}
    for descriptor in watched:
        epoll.register(descriptor, wanted)
    return epoll, watched


def send(board: Board, streams: Sequence[_Stream]) -> None:
    """Send on every circuit whatever goes into it, until the run says stop; count it."""
    cells, block = board.cells, _twice_the_block()
    epoll, watched = _poll(streams, select.EPOLLOUT)
    while cells[PHASE] != STOP:
        for descriptor, _ in epoll.poll(_TURN_SECONDS):
            stream = watched[descriptor]
            sent = stream.socket.send(block[stream.position : stream.position + _BLOCK_BYTES])
            stream.advance(sent)
            cells[SENT] += sent
    cells[SENDER_IS_DONE] = 1
    # What is on its way must arrive while the connections still stand.
    select.select([], [], [])


def receive(board: Board, streams: Sequence[_Stream]) -> None:
    """Take whatever comes out of every circuit, until the process is ended; count it."""
    cells, block = board.cells, _twice_the_block()
    epoll, watched = _poll(streams, select.EPOLLIN)
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    _gather(streams, _GATHERED_BYTES)
    cells[RECEIVER_IS_READY] = 1
    while True:
        if cells[PHASE] == STOP:
            _gather(streams, 1)
        for descriptor, _ in epoll.poll(_TURN_SECONDS):
            stream = watched[descriptor]
            if stream.uncompared_bytes > 0:
                received = stream.socket.recv_into(buffer)
                if buffer[:received] != block[stream.position : stream.position + received]:
                    sys.exit("what came through a circuit is not what was sent")
                stream.advance(received)
                stream.uncompared_bytes -= received
            else:
                received = stream.socket.recv_into(buffer, _BLOCK_BYTES, socket.MSG_TRUNC)
            if not received:
                sys.exit("a circuit has ended")
            cells[RECEIVED] += received


def main(role: str, board: str, *descriptors: str) -> None:
    """Do one end's part until the process is ended."""
    streams = [_Stream(int(each), number) for number, each in enumerate(descriptors)]
    {"send": send, "receive": receive}[role](Board(Path(board)), streams)


if __name__ == "__main__":
    main(*sys.argv[1:])
