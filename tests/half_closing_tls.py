"""A TLS client that ends each direction alone, and never waits where a plain socket would not.

The standard library's waits for both directions at once, and loses what a full socket interrupts.
It stands where ``tests.plays`` expects a socket.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

PATIENCE_SECONDS = 20.0


class HalfClosingTls:
    """A connection whose handshake is done.

    Args:
        connection: the TCP socket.
        context: what the TLS client is made from.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._unsent = b""
        self._has_ended = False
        connection.setblocking(False)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wait()
            else:
                break
        self._flush()

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._tls.write(data)
        self._flush_all()

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send everything, or nothing while an earlier piece has not gone out whole."""
        self._flush()
        if self._unsent:
            raise BlockingIOError
        self._tls.write(data)
        self._flush()
        return len(data)

    def recv(self, size: int) -> bytes:
        """Return what has come, nothing after ``close_notify``; another end is an error."""
        while True:
            try:
                data = self._tls.read(size)
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLWantReadError:
                self._wait()
                continue
            if not data:
                self._flush_all()
            return data

    def shutdown(self, how: int) -> None:
        """End this direction."""
        self._has_ended = True
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Set an option, of which the only one is that closing is a reset."""
        self._has_ended = True
        self._socket.setsockopt(level, option, value)

    def close(self) -> None:
        """Close in order."""
        if not self._has_ended:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_WR)
        self._socket.close()

    def _wait(self) -> None:
        """Wait until something has come, and send meanwhile what waits."""
        self._flush()
        writing = [self._socket] if self._unsent else []
        readable, _, _ = select.select([self._socket], writing, [], PATIENCE_SECONDS)
        if readable:
            data = self._socket.recv(65536)
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
        elif not writing:
            raise TimeoutError

    def _flush(self) -> None:
        """Send what the socket takes."""
        self._unsent += self._outgoing.read()
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _flush_all(self) -> None:
        self._flush()
        while self._unsent:
            if not select.select([], [self._socket], [], PATIENCE_SECONDS)[1]:
                raise TimeoutError
            self._flush()
