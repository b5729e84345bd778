"""Connections to the realm's port that do not begin with TLS (spec: realm.md, "Connections").

Owns what they may begin with: the token of a circuit's leg. Everything else is told, in the
language that was spoken as far as that can be seen, that it is at the wrong door.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from abst import codec, packets
from abst.errors import Code, RemoteProtocolError
from abst.framing import Frame
from abst.realm.gate import Place
from abst.realm.legs import Farewell, Leg, error_bytes, hand_over
from abst.realm.story import Story

MAP_FIRST_BYTES: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""The bytes that begin a MessagePack map, and so a plain leg."""

HTTP_METHODS: Final = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"DELE", b"PATC")

HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port is an ABST realm. It is no web server.\n"
)


class PlainConnection(Protocol):
    """Whoever speaks plain text to the realm's port, until that one has said what for.

    Args:
        factory: the realm's.
        story: what the log says of it.
        place: what the connection counts as at the gate.
    """

    transport: Any

    def __init__(self, factory: Any, story: Story, place: Place) -> None:
        self._factory = factory
        self._story = story
        self._place = place
        self._begun = bytearray()
        self._frame = Frame(
            packets.MAX_LEG_BYTES, codec.MAX_MAP_ITEMS, codec.MAX_ARRAY_ITEMS, codec.MAX_DEPTH
        )
        self._is_done = False

    def connectionMade(self) -> None:
        """Take the connection over; the time for the first packet begins."""
        factory = self._factory
        hand_over(self.transport, self)
        factory.newcomers.add(self)
        factory.leg_came(self.transport, self._place)
        due = factory.now() + factory.realm.limits.hello_seconds
        factory.realm.deadlines.add(due, self._look_for_packet)
        factory.settle()

    def dataReceived(self, data: bytes) -> None:
        """Collect the first packet, and do what it says."""
        self._begun += data
        if self._begun[0] not in MAP_FIRST_BYTES:
            self._refuse_language()
            return
        try:
            end = self._frame.find_end(self._begun)
            if end is not None:
                first, rest = bytes(self._begun[:end]), bytes(self._begun[end:])
                self._receive(codec.decode(first), rest)
        except RemoteProtocolError as error:
            self.refuse(error.code)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Be gone."""
        self._leave()
        self._factory.leg_gone(self.transport)

    def _receive(self, packet: dict[Any, Any], rest: bytes) -> None:
        if packets.id_of(packet) != packets.Leg.packet_id:
            self.refuse(Code.TLS_REQUIRED)
            return
        leg = packets.parse(packet, packets.LEG_TO_REALM)
        assert isinstance(leg, packets.Leg)
        factory = self._factory
        seat = factory.realm.circuits.claim(leg.token, None, factory.now())
        if seat is None:
            self.refuse(Code.WRONG_TOKEN)
            return
        self._leave()
        Leg(factory, self.transport, seat, rest, self._story)
        factory.settle()

    def _look_for_packet(self, now: float) -> None:
        if not self._is_done:
            self.refuse(Code.HELLO_LATE)

    def _refuse_language(self) -> None:
        if bytes(self._begun[:4]) in HTTP_METHODS:
            self._leave()
            Farewell(self._factory, self.transport, HTTP_ANSWER)
        else:
            self.refuse(Code.TLS_REQUIRED)

    def refuse(self, code: Code) -> None:
        """Say why nothing comes of it, and close."""
        self._factory.realm.counters.refused_legs[code] += 1
        self._story.refused_leg(code)
        self._leave()
        Farewell(self._factory, self.transport, error_bytes(code))

    def _leave(self) -> None:
        self._is_done = True
        self._factory.newcomers.discard(self)
