"""A channel: TLS 1.3 between two devices over whatever carries bytes (spec: channel.md).

Pure but for OpenSSL: bytes and packets in, bytes and packets out. Owns the framing inside realm
packets (channel number, then TLS bytes), the handshake, and the encoding of device packets. What
packets mean, and who may send which, is decided by its owner.
"""

from __future__ import annotations

import enum
from typing import Final

from abst import codec, packets
from abst.errors import AbstError, Code, PeerUnreachableError, RemoteProtocolError
from abst.packets import CHANNEL_NUMBER_BYTES, HEADROOM_BYTES, MAX_PACKET_BYTES, Packet
from abst.tls import TLS_HANDSHAKE_BYTE, TlsEngine

HANDSHAKE_SECONDS: Final = 10.0


class ChannelState(enum.Enum):
    """How far a channel has come."""

    HANDSHAKE = "TLS handshake"
    OPEN = "open"
    CLOSED = "closed"


class Channel:
    """One end of one channel.

    Attributes:
        number: 8 bytes, chosen by the dialler; names the channel inside realm packets.
        dialled: whether this end dialled, and so is the TLS client.
        state: how far it has come.
        problem: why it was closed, or None.
        peer_key: the other end's DER SubjectPublicKeyInfo, once open.
        opened_at: when it was dialled or accepted.
        is_closed_there: the other end has closed it in an orderly way.
    """

    def __init__(
        self,
        number: bytes,
        engine: TlsEngine,
        *,
        dialled: bool,
        now: float,
        max_content_bytes: int = MAX_PACKET_BYTES - HEADROOM_BYTES,
    ) -> None:
        self.number = number
        self.dialled = dialled
        self.state = ChannelState.HANDSHAKE
        self.problem: AbstError | None = None
        self.opened_at = now
        self.is_closed_there = False
        self._engine = engine
        self._decoder = codec.Decoder()
        self._max_piece_bytes = max_content_bytes - CHANNEL_NUMBER_BYTES
        self._plaintext: list[bytes] = []
        if dialled:
            engine.start()

    @property
    def peer_key(self) -> bytes:
        """The other end's DER SubjectPublicKeyInfo; b"" before the channel is open."""
        return self._engine.peer_key

    def exporter(self) -> bytes:
        """Return 32 bytes that only this channel's two ends know."""
        return self._engine.exporter()

    def receive_data(self, records: bytes) -> list[tuple[Packet, int]]:
        """Take TLS bytes; return the packets that they complete, each with its size in bytes.

        A broken packet or connection closes the channel; ``problem`` says why.
        """
        if self.state is ChannelState.CLOSED:
            return []
        return self.receive_plaintext(self._engine.receive_data(records))

    def receive_plaintext(self, plaintext: bytes) -> list[tuple[Packet, int]]:
        """Take what TLS has decrypted; ``receive_data`` does, unless somebody else has done so."""
        found: list[tuple[Packet, int]] = []
        if self._engine.established and self.state is ChannelState.HANDSHAKE:
            self.state = ChannelState.OPEN
        try:
            if plaintext:
                self._decoder.receive_data(plaintext)
            while True:
                before = self._decoder.consumed_bytes
                packet = self._decoder.next_map()
                if packet is None:
                    break
                size = self._decoder.consumed_bytes - before
                found.append((packets.parse_between_devices(packet), size))
        except RemoteProtocolError as problem:
            self.close(problem)
        if self._engine.closed:
            self.is_closed_there = self.state is ChannelState.OPEN and self._engine.problem is None
            self.close(self._engine.problem or PeerUnreachableError("the other side closed"))
        return found

    def send(self, packet: bytes) -> None:
        """Queue an encoded packet; ``contents_to_send`` encrypts what has gathered as one."""
        self._plaintext.append(packet)

    def contents_to_send(self) -> list[bytes]:
        """Return what to put into realm packets, each with this channel's number in front."""
        if self._plaintext and self.state is ChannelState.OPEN:
            self._engine.send(b"".join(self._plaintext))
            self._plaintext.clear()
        records = self._engine.data_to_send()
        step = self._max_piece_bytes
        return [
            self.number + records[begin : begin + step] for begin in range(0, len(records), step)
        ]

    def discard_unsent(self) -> None:
        """Take back what ``send`` has queued and nothing has encrypted yet."""
        self._plaintext.clear()

    def close(self, problem: AbstError | None = None) -> None:
        """End the channel; what was queued before is still in ``contents_to_send``."""
        if self.state is ChannelState.CLOSED:
            return
        if self._plaintext and self.state is ChannelState.OPEN:
            self._engine.send(b"".join(self._plaintext))
            self._plaintext.clear()
        if not self._engine.ended:
            # To answer the other side's end would come to a channel that it has forgotten.
            self._engine.close()
        self.state = ChannelState.CLOSED
        self.problem = problem


def split_content(content: bytes) -> tuple[bytes, bytes]:
    """Return the channel number and the TLS bytes of a realm packet's content.

    Raises:
        RemoteProtocolError: it is too short for a number.
    """
    if len(content) < CHANNEL_NUMBER_BYTES:
        raise RemoteProtocolError(Code.MALFORMED, "content: no channel number")
    return content[:CHANNEL_NUMBER_BYTES], content[CHANNEL_NUMBER_BYTES:]


def begins_channel(records: bytes) -> bool:
    """Tell whether TLS bytes of an unknown channel are a dial: a handshake record."""
    return records.startswith(TLS_HANDSHAKE_BYTE)
