"""One connection of the load generator, and the check of every byte that comes from it.

A connection is cheap, so that the generator does not limit the server: one ``recv`` takes all that
waits, however many TLS records it is, and the stream of packets that should come is known
beforehand, so that checking it is a comparison of memory.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from benchmarks.certificates import key_type_of
from benchmarks.errors import PacketsLost, ServerFailed
from benchmarks.servers import Foreign, Server

#: What :meth:`Conversation.security` says of a connection without it.
NO_TLS = "no TLS"

_READ_BYTES = 128 * 1024
_RECORD_BYTES = 16 * 1024
_FOREIGN_BYTES = 64 * 1024
_CONNECT_SECONDS = 20.0

# The generator is one thread: one buffer serves all connections.
_buffer = bytearray(_READ_BYTES)
_view = memoryview(_buffer)


class Counter(Protocol):
    """Counts what comes in a stream, and fails on what should not.

    Attributes:
        answer: what the stream asks to be answered; whoever feeds takes it.
    """

    answer: bytes

    def feed(self, data: bytes) -> int:
        """Return how many packets ``data`` completes. Raises: ServerFailed, PacketsLost."""


class PacketCounter:
    """Count the packets in a stream that should be one packet's bytes again and again.

    All packets of a stream are the same, so their order and a loss that is made good by a
    repetition are not seen; any other byte is.
    """

    def __init__(self, packet: bytes, foreign: Callable[[bytes], Foreign | None]) -> None:
        """Expect ``packet``, or none if it is empty; ``foreign`` reads what is not a packet."""
        self._packet = packet
        self._pattern = packet * (_READ_BYTES // len(packet) + 2) if packet else b""
        self._foreign = foreign
        self._phase = 0
        self._held = b""
        #: What the foreign bytes ask to be answered; whoever feeds takes it.
        self.answer = b""

    def feed(self, data: bytes) -> int:
        """Return how many packets ``data`` completes. Raises: ServerFailed, PacketsLost."""
        if not self._held and self._pattern.startswith(data, self._phase):
            whole, self._phase = divmod(self._phase + len(data), len(self._packet))
            return whole
        return self._feed_mixed(data)

    def _feed_mixed(self, data: bytes) -> int:
        data = self._packet[: self._phase] + self._held + data
        self._phase, self._held = 0, b""
        whole = offset = 0
        while offset < len(data):
            if self._packet and data.startswith(self._packet, offset):
                whole += 1
                offset += len(self._packet)
                continue
            rest = data[offset:]
            if self._packet.startswith(rest):
                self._phase = len(rest)
                break
            foreign = self._foreign(rest)
            if foreign is None:
                if len(rest) > _FOREIGN_BYTES:
                    raise PacketsLost(f"what arrives makes no sense: {rest[:50]!r}...")
                self._held = rest
                break
            offset += foreign.length_bytes
            self.answer += foreign.answer
        return whole


class Conversation:
    """A peer's connection: greeted by the server, then non-blocking."""

    def __init__(self, server: Server, port: int, peer: int, epoll: select.epoll) -> None:
        """Connect, shake hands and greet, waiting for each. Raises: ServerFailed."""
        self.peer = peer
        #: What the server has answered to the greeting.
        self.greeting_answer = b""
        self._counter: Counter = PacketCounter(b"", server.foreign)
        self._server = server
        self._epoll = epoll
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = server.context(peer).wrap_bio(self._incoming, self._outgoing)
        self._unsent = b""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_SECONDS)
        try:
            self._greet()
        except (OSError, ServerFailed) as error:
            self._socket.close()
            raise ServerFailed(f"{server.name} does not greet peer {peer}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.descriptor = self._socket.fileno()
        epoll.register(self.descriptor, select.EPOLLIN)

    @property
    def is_blocked(self) -> bool:
        """Tell whether the kernel has not taken all that was sent yet."""
        return bool(self._unsent)

    def security(self) -> str:
        """Return what TLS negotiated: version, cipher suite, and the server's kind of key."""
        cipher = self._tls.cipher()
        certificate = self._tls.getpeercert(binary_form=True)
        if cipher is None or certificate is None:
            return NO_TLS
        return f"{self._tls.version()} {cipher[0]}, server's key {key_type_of(certificate)}"

    def expect(self, packet: bytes) -> None:
        """Expect nothing but this packet from now on, any number of times."""
        self.count_with(PacketCounter(packet, self._server.foreign))

    def count_with(self, counter: Counter) -> None:
        """Have a counter read what comes from now on."""
        self._counter = counter

    def wait_for(self, is_answer: Callable[[bytes], bool]) -> bytes:
        """Wait until what comes is the whole answer to what was sent; return it.

        Raises: ServerFailed.
        """
        self._socket.settimeout(_CONNECT_SECONDS)
        try:
            return self._read_answer(is_answer, time.monotonic() + _CONNECT_SECONDS)
        except OSError as error:
            text = f"{self._server.name} does not answer peer {self.peer}: {error}"
            raise ServerFailed(text) from error
        finally:
            self._socket.setblocking(False)

    def send(self, data: bytes) -> None:
        """Encrypt ``data``, and hand the kernel as much as it takes."""
        self._tls.write(data)
        self.flush()

    def flush(self) -> None:
        """Hand the kernel what it did not take before; be woken if it still does not take it."""
        was_blocked = self.is_blocked
        self._unsent += self._outgoing.read()
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            raise ServerFailed(f"{self._server.name} closed peer {self.peer}: {error}") from error
        if self.is_blocked != was_blocked:
            wanted = select.EPOLLIN | (select.EPOLLOUT if self.is_blocked else 0)
            self._epoll.modify(self.descriptor, wanted)

    def receive(self) -> int:
        """Read what has come, and return how many packets it completes.

        Raises: ServerFailed, PacketsLost.
        """
        chunks = []
        try:
            self._incoming.write(_view[: self._read_socket()])
            while self._incoming.pending:
                chunks.append(self._tls.read(_RECORD_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            raise ServerFailed(f"{self._server.name} closed peer {self.peer}: {error}") from error
        if not chunks:
            return 0
        whole = self._counter.feed(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if self._counter.answer:
            self.send(self._counter.answer)
            self._counter.answer = b""
        return whole

    def keep_alive(self) -> None:
        """Send what keeps the server from taking this peer for lost."""
        if data := self._server.keepalive(self.peer):
            self.send(data)

    def close(self) -> None:
        """Close the connection without a word."""
        self._socket.close()

    def _read_socket(self) -> int:
        length = self._socket.recv_into(_buffer)
        if not length:
            raise ConnectionResetError("end of file")
        return length

    def _greet(self) -> None:
        """Do the handshake and the greeting on the socket, which still blocks."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        self._until_done(self._tls.do_handshake, deadline)
        self._tls.write(self._server.greeting(self.peer))
        self.greeting_answer = self._read_answer(self._server.is_greeted, deadline)

    def _read_answer(self, is_answer: Callable[[bytes], bool], deadline: float) -> bytes:
        answer = b""
        while not answer or not is_answer(answer):
            answer += self._until_done(lambda: self._tls.read(_RECORD_BYTES), deadline) or b""
        return answer

    def _until_done(self, step: Callable[[], bytes | None], deadline: float) -> bytes | None:
        """Repeat a step of TLS, moving bytes between it and the socket, until it has succeeded."""
        while time.monotonic() < deadline:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._outgoing.read())
                self._incoming.write(_view[: self._read_socket()])
            else:
                self._socket.sendall(self._outgoing.read())
                return result
        raise TimeoutError(f"no answer after {_CONNECT_SECONDS} s")
