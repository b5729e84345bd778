"""How a stream begins, once something carries it (spec: streams.md, "Opening one").

Owns the TLS handshake on a pipe, and the one packet from each side that comes before the
application's bytes: which service, and the proof that both still hold the pairing. Ends with a
stream, or with the one problem that kept it from being opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from abst import codec, packets
from abst.device.key_check import matching_key, proof
from abst.device.leg_pipe import meeting_seconds
from abst.device.peers import Peer, printable
from abst.device.pipes import Pipe
from abst.device.streams.carried import Carried
from abst.device_id import DeviceID
from abst.errors import (
    MEANINGS,
    AbstError,
    Code,
    NotTrustedError,
    PeerUnreachableError,
    RemoteProtocolError,
    StreamError,
    explain,
)
from abst.packets import (
    MAX_REASON_CHARACTERS,
    STREAM_ACCEPTOR,
    STREAM_DIALLER,
    Circuit,
    OpenStream,
    Packet,
    StreamOpened,
    StreamRefused,
)

MAX_OPENING_BYTES: Final = 1024
OPENING_SECONDS: Final = 10.0


def circuit_opening_seconds(circuit: Circuit) -> float:
    """Return how long a stream on a circuit may take to open: the other end may come late."""
    return meeting_seconds(circuit) + OPENING_SECONDS


class OpeningOwner(Protocol):
    """This device."""

    device_id: DeviceID
    reactor: Any

    def peer_of(self, device_id: bytes) -> Peer | None:
        """Return a device that is trusted or whose pairing is pending, or None."""

    def pairing_proved(self, device_id: DeviceID, key: bytes) -> None:
        """Note with which pairing's key the other device has passed a Key check."""


class Opening:
    """What both ends have in common while a stream is opened.

    Args:
        owner: this device.
        carried: what carries it.
        device_id: the other device.
        seconds: how long it may take.
        known: the packets that the other side may send.
        dialled: whether this side has dialled.

    Attributes:
        is_untouched: not one byte has come.
    """

    def __init__(
        self,
        owner: OpeningOwner,
        carried: Carried,
        device_id: DeviceID,
        seconds: float,
        known: Mapping[int, type[Packet]],
        *,
        dialled: bool,
    ) -> None:
        self.carried = carried
        self.device_id = device_id
        self._owner = owner
        self._known = known
        self._dialled = dialled
        self._decoder = codec.Decoder(MAX_OPENING_BYTES)
        self._received = bytearray()
        self._is_over = False
        self.is_untouched = True
        self._timer = owner.reactor.callLater(seconds, self._late)
        carried.pipe.owner = self

    # What the ends do in their own ways.

    def established(self) -> None:
        """The handshake is done."""
        raise NotImplementedError

    def packet_received(self, packet: Packet, rest: bytes) -> None:
        """The other side's packet has come, with what it has sent behind it."""
        raise NotImplementedError

    def failed(self, problem: AbstError) -> None:
        """No stream comes of it."""
        raise NotImplementedError

    # The pipe tells.

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        """Go on with the handshake, and take the packet behind it."""
        self.is_untouched = False
        engine = self.carried.engine
        was_established = engine.established
        plaintext = engine.receive_data(data)
        self.carried.flush()
        if engine.established and not was_established:
            self.established()
        self.take(plaintext)

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        """Fail: the connection is gone."""
        self.give_up(problem)

    def take(self, plaintext: bytes) -> None:
        """Take what the other side has said inside TLS."""
        if self._is_over:
            return
        try:
            if plaintext:
                self._take(plaintext)
        except RemoteProtocolError as problem:
            self.give_up(problem)
        engine = self.carried.engine
        if engine.problem is not None:
            self.give_up(engine.problem)
        elif engine.ended and not self._is_over:
            self.give_up(PeerUnreachableError("the other side closed"))

    def _take(self, plaintext: bytes) -> None:
        # What is behind the packet is the application's, and has no bound of ours.
        room = MAX_OPENING_BYTES - len(self._received)
        self._received += plaintext
        self._decoder.receive_data(plaintext[:room])
        found = self._decoder.next_map()
        if found is not None:
            packet = packets.parse(found, self._known)
            rest = bytes(self._received[self._decoder.consumed_bytes :])
            self.packet_received(packet, rest)
        elif len(self._received) >= MAX_OPENING_BYTES:
            raise RemoteProtocolError(
                Code.TOO_LARGE, f"a stream's first packet has at most {MAX_OPENING_BYTES} bytes"
            )

    def _late(self) -> None:
        self.give_up(PeerUnreachableError(f"{self._peer_name()} does not answer"))

    def give_up(self, problem: AbstError) -> None:
        """Close, and say why."""
        if not self._is_over:
            self.leave()
            self.carried.pipe.abort()
            self.failed(problem)

    def leave(self) -> None:
        """Have no more to do with the pipe."""
        self._is_over = True
        if self._timer.active():
            self._timer.cancel()

    # Key check.

    def proofs(self) -> list[bytes]:
        """Return this side's proofs, newest pairing first.

        Raises:
            NotTrustedError: the peer has been forgotten meanwhile.
        """
        keys = self._keys()
        if not keys:
            raise NotTrustedError("this device does not trust the other one", theirs=False)
        exporter = self.carried.engine.exporter()
        return [proof(key, exporter, by_dialler=self._dialled) for key in keys]

    def check(self, mac: bytes, older: bytes | None) -> bool:
        """Tell whether the other side holds the pairing, and note it."""
        proofs = [mac] if older is None else [mac, older]
        exporter = self.carried.engine.exporter()
        key = matching_key(self._keys(), exporter, proofs, by_dialler=not self._dialled)
        if key is not None:
            self._owner.pairing_proved(self.device_id, key)
        return key is not None

    def _keys(self) -> list[bytes]:
        peer = self._owner.peer_of(self.device_id)
        return [] if peer is None else peer.pairing_keys(self._owner.device_id)

    def _peer_name(self) -> str:
        return str(self._owner.peer_of(self.device_id) or self.device_id)

    def say(self, packet: Packet) -> None:
        """Send a packet."""
        self.carried.engine.send(codec.encode(packet))
        self.carried.flush()


Opened = Callable[[Carried, bytes], None]
"""Called with what carries a stream that is open, and what came behind the other's packet."""


class DialledOpening(Opening):
    """The dialler's end.

    Args:
        owner: this device.
        carried: what carries it.
        device_id: the other device.
        seconds: how long it may take.
        shaken: called when the handshake is done: the dialler may have tried several ways.
        failed: called when no stream comes of it.
    """

    def __init__(
        self,
        owner: OpeningOwner,
        carried: Carried,
        device_id: DeviceID,
        seconds: float,
        shaken: Callable[[DialledOpening], None],
        failed: Callable[[DialledOpening, AbstError], None],
    ) -> None:
        super().__init__(owner, carried, device_id, seconds, STREAM_ACCEPTOR, dialled=True)
        self._shaken = shaken
        self._failed = failed
        self._service = ""
        self._opened: Opened | None = None
        carried.engine.start()
        carried.flush()

    def open(
        self,
        service: str,
        opened: Opened,
        failed: Callable[[DialledOpening, AbstError], None],
    ) -> None:
        """Ask for a service; only once the handshake is done.

        Args:
            service: its name.
            opened: called when the acceptor has agreed.
            failed: called when no stream comes of it, from now on.
        """
        self._service = service
        self._opened = opened
        self._failed = failed
        try:
            self.say(OpenStream(service, *self.proofs()))
        except NotTrustedError as problem:
            self.give_up(problem)

    def established(self) -> None:
        """The handshake is done."""
        self._shaken(self)

    def packet_received(self, packet: Packet, rest: bytes) -> None:
        """Take the acceptor's answer."""
        match packet:
            case _ if self._opened is None:
                self.give_up(RemoteProtocolError(Code.MALFORMED, "an answer before the question"))
            case StreamOpened():
                if self.check(packet.mac, packet.older):
                    self.leave()
                    self._opened(self.carried, rest)
                else:
                    self.give_up(_wrong_pairing(self._peer_name()))
            case StreamRefused():
                self.give_up(self._refusal(packet))

    def failed(self, problem: AbstError) -> None:
        """No stream comes of it."""
        self._failed(self, problem)

    def _refusal(self, refused: StreamRefused) -> AbstError:
        if refused.code == Code.WRONG_PAIRING:
            return _wrong_pairing(self._peer_name())
        why = explain(printable(refused.code), printable(refused.reason))
        return StreamError(f"{self._peer_name()}: {self._service}: {why}", printable(refused.code))


Decide = Callable[[str, Peer], Code | Opened]
"""Called with the name of a service and who asks: returns why not, or what takes the stream."""


class AcceptedOpening(Opening):
    """The acceptor's end.

    Args:
        owner: this device.
        carried: what carries it.
        device_id: the other device.
        seconds: how long it may take.
        decide: says what becomes of a dialler who holds the pairing.
        over: called when it is over, with why no stream came of it, or None.
    """

    def __init__(
        self,
        owner: OpeningOwner,
        carried: Carried,
        device_id: DeviceID,
        seconds: float,
        decide: Decide,
        over: Callable[[AcceptedOpening, AbstError | None], None],
    ) -> None:
        super().__init__(owner, carried, device_id, seconds, STREAM_DIALLER, dialled=False)
        self._decide = decide
        self._over = over

    def established(self) -> None:
        """The handshake is done; the dialler speaks first."""

    def packet_received(self, packet: Packet, rest: bytes) -> None:
        """Answer the dialler."""
        assert isinstance(packet, OpenStream)
        peer = self._owner.peer_of(self.device_id)
        if peer is None or not self.check(packet.mac, packet.older):
            self._refuse(Code.WRONG_PAIRING)
            return
        decision = self._decide(packet.service, peer)
        if isinstance(decision, Code):
            self._refuse(decision)
            return
        self.say(StreamOpened(*self.proofs()))
        self.leave()
        self._over(self, None)
        decision(self.carried, rest)

    def failed(self, problem: AbstError) -> None:
        """No stream comes of it."""
        self._over(self, problem)

    def _refuse(self, code: Code) -> None:
        self.say(StreamRefused(str(code), MEANINGS[code].sentence[:MAX_REASON_CHARACTERS]))
        self.carried.engine.close()
        self.carried.flush()
        self.leave()
        self.carried.pipe.close()
        self._over(self, StreamError(MEANINGS[code].sentence, str(code)))


def _wrong_pairing(peer: str) -> NotTrustedError:
    return NotTrustedError(f"{peer}: {explain(Code.WRONG_PAIRING)}", theirs=False)
