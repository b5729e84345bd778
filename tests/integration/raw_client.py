"""A device that may do everything wrong: bytes over a TLS connection of the standard library."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import tempfile
import threading
import time
from types import TracebackType

from cryptography.hazmat.primitives.serialization import Encoding

from abst import codec
from abst.identity import Identity
from abst.packets import (
    MAX_VALUE_PACKET_BYTES,
    REALM_TO_DEVICE,
    BackHeartbeat,
    Error,
    Hello,
    Packet,
    Send,
    parse,
)

ALPN = "abst-realm/1"
PATIENCE_SECONDS = 20.0


@functools.cache
def identities(number: int) -> list[Identity]:
    """Return that many identities, the same ones every time."""
    return [Identity.generate() for _ in range(number)]


def client_context(
    identity: Identity | None,
    *,
    alpn: str | None = ALPN,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """Return a context that shows an identity's certificate and believes every server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    if identity is not None:
        pem = identity.to_pem() + identity.certificate().public_bytes(Encoding.PEM)
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def client_hello() -> bytes:
    """Return the first bytes that a TLS client sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client_context(None).wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


class RawDevice:
    """One connection to a realm's port on this machine. A context manager that closes it."""

    def __init__(
        self, port: int, identity: Identity | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        self.identity = identity
        self.device_id = b"" if identity is None else bytes(identity.device_id)
        self._decoder = codec.Decoder(MAX_VALUE_PACKET_BYTES)
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket = (context or client_context(identity)).wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def __enter__(self) -> RawDevice:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, *pieces: bytes | Packet) -> None:
        """Send each piece as a TLS record of its own."""
        for piece in pieces:
            self.socket.sendall(codec.encode(piece) if isinstance(piece, Packet) else piece)

    def send_to(self, target: bytes, content: bytes, request: int | None = None) -> None:
        """Send a packet to another device."""
        self.send(Send(self.device_id, target, content, request))

    def receive(self) -> Packet:
        """Return the next packet.

        Raises:
            EOFError: the realm has closed the connection in order.
            OSError: it has ended otherwise.
        """
        while True:
            found = self._decoder.next_map()
            if found is not None:
                return parse(found, REALM_TO_DEVICE)
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._decoder.receive_data(data)

    def receive_error(self) -> Error:
        """Return the next packet, which is an error."""
        packet = self.receive()
        assert isinstance(packet, Error), packet
        return packet

    def hello(self) -> BackHeartbeat:
        """Say Hello, and return the answer."""
        self.send(Hello(self.device_id))
        answer = self.receive()
        assert isinstance(answer, BackHeartbeat), answer
        return answer

    def rest(self) -> list[Packet]:
        """Return all packets that come until the realm has closed the connection in order."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.receive())
        return found

    def close(self) -> None:
        """Close the connection without a word in TLS."""
        self.socket.close()

    def reset(self) -> None:
        """Cut the connection off, as a process that crashes does."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


def join(port: int, identity: Identity) -> RawDevice:
    """Return a connection on which Hello has been answered."""
    device = RawDevice(port, identity)
    try:
        device.hello()
    except BaseException:
        device.close()
        raise
    return device


class Bystanders:
    """Two devices that talk to each other in a thread, and note how it goes.

    Attributes:
        rounds: how often a packet has gone there and another one back.
        slowest_seconds: the longest that this has taken.
        problem: what went wrong, or None.
    """

    PAUSE_SECONDS = 0.003

    def __init__(self, port: int) -> None:
        alice, bob = identities(102)[100:]
        self._alice, self._bob = join(port, alice), join(port, bob)
        self.rounds = 0
        self.slowest_seconds = 0.0
        self.problem: Exception | None = None
        self._stopped = threading.Event()
        self._advanced = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self.PAUSE_SECONDS):
                begun = time.monotonic()
                self._pass_on(self._alice, self._bob)
                self._pass_on(self._bob, self._alice)
                with self._advanced:
                    self.rounds += 1
                    self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
                    self._advanced.notify_all()
        except Exception as problem:
            with self._advanced:
                self.problem = problem
                self._advanced.notify_all()

    def _pass_on(self, source: RawDevice, target: RawDevice) -> None:
        packet = Send(source.device_id, target.device_id, b"round %d" % self.rounds)
        source.send(packet)
        received = target.receive()
        assert received == packet, received

    def check(self, rounds: int = 3) -> None:
        """Wait for some more rounds; raise if there is none or something is wrong."""
        with self._advanced:
            wanted = self.rounds + rounds
            self._advanced.wait_for(
                lambda: self.problem is not None or self.rounds >= wanted, PATIENCE_SECONDS
            )
            if self.problem is not None:
                raise AssertionError("the bystanders were disturbed") from self.problem
            assert self.rounds >= wanted, "the bystanders do not get through"

    def stop(self) -> None:
        """End the conversation and close both connections."""
        self._stopped.set()
        self._thread.join(PATIENCE_SECONDS)
        self._alice.close()
        self._bob.close()
