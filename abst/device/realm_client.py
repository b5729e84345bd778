"""The device's side of the conversation with a realm (spec: realm.md).

Pure: bytes and ``now`` in, events and bytes out. Owns Hello, heartbeats, the realm's limits, and
when silence means that the connection is dead.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Final

from abst import codec, packets
from abst.errors import MEANINGS, Code, RemoteProtocolError
from abst.packets import (
    HEADROOM_BYTES,
    BackHeartbeat,
    Circuit,
    Error,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    GroupMessage,
    Hello,
    Send,
    StillHere,
    ValueChanges,
)

ANSWER_SECONDS: Final = 10.0
"""How long the realm has to answer the first Hello."""

PROBE_SECONDS: Final = 1.0
"""How long it has when this device's network has changed."""

MISSED_HEARTBEATS: Final = 2


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The realm has accepted Hello; its limits are in force.

    Attributes:
        max_content_bytes: the most that one packet carries.
        observed_address: where the realm sees this device, or None.
        nonce: what proofs on this connection are made with.
    """

    max_content_bytes: int
    observed_address: tuple[str, int] | None
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """Bytes came from another device."""

    source_device: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The realm refused or dropped something, or is going to close the connection.

    Attributes:
        error: the packet.
        closes: whether the realm closes after it, as far as this version knows the code.
    """

    error: Error
    closes: bool


@dataclass(frozen=True, slots=True)
class CircuitOffered:
    """Another device has asked for a circuit with this one."""

    circuit: Circuit


@dataclass(frozen=True, slots=True)
class CircuitEnded:
    """The realm has ended a circuit of this device; the packet says which, and why."""

    error: Error


@dataclass(frozen=True, slots=True)
class GroupTold:
    """The realm, or a member through it, says something about a group that was not asked for."""

    peer_group: bytes
    packet: packets.Packet


@dataclass(frozen=True, slots=True)
class Answered:
    """The realm has answered a request, or refused it with an Error."""

    request: int
    packet: packets.Packet


Event = Welcomed | Delivered | Refused | CircuitOffered | CircuitEnded | GroupTold | Answered


class RealmClient:
    """One connection to a realm, from the device's end.

    Args:
        device_id: this device's ID.
        now: the time.
        invitation: what a realm is shown that does not know this device yet, or None.
    """

    def __init__(self, device_id: bytes, now: float, invitation: str | None = None) -> None:
        self._device_id = device_id
        self._invitation = invitation
        self._decoder = codec.Decoder(packets.MAX_VALUE_PACKET_BYTES)
        self._events: deque[Event] = deque()
        self._out: list[bytes] = []
        self._welcomed = False
        self._heartbeat_seconds = ANSWER_SECONDS
        self._max_packet_bytes = packets.MAX_PACKET_BYTES
        self._heard_at = now
        self._heartbeat_at = now
        self._probed_at: float | None = None
        self._requests = 0
        self._asked: set[int] = set()
        self._say_hello(now)

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes as they came from the realm.

        Raises:
            RemoteProtocolError: the realm breaks the protocol; the connection is of no use.
        """
        self._heard_at = now
        self._probed_at = None
        self._decoder.receive_data(data)
        while (found := self._decoder.next_map()) is not None:
            try:
                packet = packets.parse(found, packets.REALM_TO_DEVICE)
            except RemoteProtocolError as problem:
                if problem.code is Code.UNKNOWN_PACKET:
                    continue
                raise
            self._take(packet, now)

    def next_event(self) -> Event | None:
        """Return what happened next, or None."""
        return self._events.popleft() if self._events else None

    def send(self, target_device: bytes, content: bytes) -> None:
        """Queue bytes for another device, at most ``max_content_bytes`` of them."""
        self._out.append(
            codec.encode(Send(self._device_id, target_device, content), self._max_packet_bytes)
        )

    def ask(self, packet: packets.Packet) -> int:
        """Queue a packet that is answered; return the request that the answer repeats.

        Raises:
            LocalProtocolError: the packet is none that a realm takes.
        """
        self._requests += 1
        asking: Any = packet
        self.tell(replace(asking, request=self._requests))
        self._asked.add(self._requests)
        return self._requests

    def tell(self, packet: packets.Packet) -> None:
        """Queue a packet to which no answer is waited for.

        Raises:
            LocalProtocolError: the packet is none that a realm takes.
        """
        is_about_values = packet.packet_id in packets.VALUE_PACKET_IDS
        most = packets.MAX_VALUE_PACKET_BYTES if is_about_values else self._max_packet_bytes
        self._out.append(codec.encode(packet, most))

    def data_to_send(self) -> bytes:
        """Return the bytes to write, b"" when there are none."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def probe(self, now: float) -> None:
        """Ask for an answer now: the network has changed, and the connection may be dead."""
        if self._welcomed:
            self._say_hello(now)
            if self._probed_at is None:
                self._probed_at = now

    def next_deadline(self) -> float:
        """Return when ``handle_deadline`` wants to be called."""
        return min(self._heartbeat_at, self._dead_at())

    def handle_deadline(self, now: float) -> None:
        """Say Hello again when it is time.

        Raises:
            RemoteProtocolError: the realm has been silent for too long.
        """
        if now >= self._dead_at():
            raise RemoteProtocolError(Code.SILENT, MEANINGS[Code.SILENT].sentence)
        if now >= self._heartbeat_at:
            self._say_hello(now)

    def _dead_at(self) -> float:
        if not self._welcomed:
            return self._heard_at + ANSWER_SECONDS
        if self._probed_at is not None:
            return self._probed_at + PROBE_SECONDS
        # A heartbeat is answered, so this much silence means two lost and some travel time.
        return self._heard_at + (MISSED_HEARTBEATS + 0.25) * self._heartbeat_seconds

    def _say_hello(self, now: float) -> None:
        self._requests += 1
        hello = Hello(self._device_id, invitation=self._invitation, request=self._requests)
        self._out.append(codec.encode(hello))
        self._heartbeat_at = now + self._heartbeat_seconds

    def _take(self, packet: packets.Packet, now: float) -> None:
        match packet:
            case BackHeartbeat() as back:
                self._take_back_heartbeat(back, now)
            case Send() if not self._welcomed:
                raise RemoteProtocolError(
                    Code.HELLO_FIRST, "the realm delivers before it has answered Hello"
                )
            case Send() as send:
                self._events.append(Delivered(send.source_device, send.content))
            case Circuit(dials=False) as circuit:
                self._events.append(CircuitOffered(circuit))
            case Error(request=int() as request) if request in self._asked:
                self._answered(request, packet)
            case Error(circuit=bytes()) as error:
                self._events.append(CircuitEnded(error))
            case Error(peer_group=bytes() as peer_group):
                self._events.append(GroupTold(peer_group, packet))
            case Error() as error:
                known = error.code in Code.__members__.values()
                closes = MEANINGS[Code(error.code)].closes if known else False
                self._events.append(Refused(error, closes))
            case (
                GroupEpoch(peer_group=peer_group, request=None)
                | GroupMembers(peer_group=peer_group, request=None)
                | GroupLeft(peer_group=peer_group, request=None)
                | ValueChanges(peer_group=peer_group, request=None)
                | StillHere(peer_group=peer_group)
                | GroupMessage(peer_group=peer_group)
            ):
                self._events.append(GroupTold(peer_group, packet))
            case answer:
                self._answered(getattr(answer, "request", None), packet)

    def _answered(self, request: int | None, packet: packets.Packet) -> None:
        if request is not None and request in self._asked:
            self._asked.discard(request)
            self._events.append(Answered(request, packet))

    def _take_back_heartbeat(self, back: BackHeartbeat, now: float) -> None:
        self._heartbeat_seconds = max(0.1, min(float(back.heartbeat_seconds), 3600.0))
        # A realm that asks for more heartbeats than before also gives up sooner.
        self._heartbeat_at = min(self._heartbeat_at, now + self._heartbeat_seconds)
        if self._welcomed:
            return
        self._welcomed = True
        self._invitation = None
        self._heartbeat_at = now + self._heartbeat_seconds
        # Told once: whoever sends has cut its bytes to fit, and cannot do so again.
        told = int(back.limits.get("packet_bytes", packets.MAX_PACKET_BYTES))
        self._max_packet_bytes = max(1024, min(told, packets.MAX_PACKET_BYTES))
        self._events.append(
            Welcomed(
                self._max_packet_bytes - HEADROOM_BYTES,
                _observed(back.observed_address),
                back.nonce,
            )
        )


def _observed(told: list[Any] | None) -> tuple[str, int] | None:
    """Return where the realm says that it sees this device, if it is an address at all."""
    if told is None:
        return None
    try:
        return str(ipaddress.ip_address(str(told[0]))), int(told[1])
    except ValueError:
        return None
