"""A receiver that answers wrongly, or too early: the sender comes to an end, and says why."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol

from abst.agent.files.packets import (
    ASK,
    BLOCK_BYTES,
    DROP,
    FROM_SENDER,
    GOT,
    ITEM,
    REFUSED,
    STAND,
    STORED,
    WELCOME,
    Splitter,
    encode,
)
from abst.agent.files.shipment import Shipment
from tests.agent.files.test_files import FilesTestCase


class Answering(Protocol):
    """The receiving end of a stream, by hand."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self._splitter = Splitter(FROM_SENDER)

    def dataReceived(self, data: bytes) -> None:
        for piece in self._splitter.receive_data(data):
            if isinstance(piece, tuple):
                self.heard.append(piece[0])

    def ids(self) -> list[int]:
        return [packet["packet_id"] for packet in self.heard]


class LyingReceiverTests(FilesTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.streams: list[Answering] = []

        def build() -> Answering:
            self.streams.append(Answering())
            return self.streams[-1]

        self.world.receivers = Factory.forProtocol(build)  # type: ignore[assignment]
        self.path = self.file(os.urandom(3 * BLOCK_BYTES))
        self.sha256 = hashlib.sha256(self.path.read_bytes()).digest()
        self.shipment = self.world.send(self.path)
        (item,) = self.shipment.unsettled()
        self.transfer = item.transfer

    def say(self, *packets: bytes) -> None:
        transport: Any = self.streams[-1].transport
        transport.write(b"".join(packets))
        self.world.settle()

    def assert_over(self, shipment: Shipment, *words: str) -> None:
        self.successResultOf(shipment.finished)
        for word in words:
            self.assertIn(word, self.problem())
        self.assertEqual([], self.world.sender_records.sending(bytes(shipment.device_id)))

    def test_stored_with_a_name_that_plays_with_a_terminal(self) -> None:
        self.world.settle()
        self.say(
            encode(STORED, transfer=self.transfer, name="\x1b]0;evil\x07a", sha256=self.sha256)
        )
        self.assert_over(self.shipment)
        self.assertEqual({"file.bin": "]0;evila"}, self.world.notes.names)

    def test_stored_as_something_else(self) -> None:
        self.world.settle()
        self.say(encode(STORED, transfer=self.transfer, name="a", sha256=bytes(32)))
        self.assert_over(self.shipment, "something else")

    def test_refused_in_the_middle_stops_the_reading(self) -> None:
        self.world.settle(until_bytes=BLOCK_BYTES // 2)
        self.say(encode(REFUSED, transfer=self.transfer, reason="the disk\x1b[2J is full"))
        self.assert_over(self.shipment, "the disk[2J is full")
        self.assertNotIn(DROP, self.streams[0].ids())

    def test_everything_refused(self) -> None:
        self.say(encode(REFUSED, transfer=bytes(16), reason="too many"))
        self.assert_over(self.shipment, "too many")

    def test_answers_about_what_nobody_sends(self) -> None:
        other = bytes(range(16))
        self.say(
            encode(STAND, transfer=other, entries=5, offset=5, sha256=bytes(32)),
            encode(GOT, transfer=other, size=2**50),
            encode(GOT, transfer=self.transfer, size=2**50),
            encode(STORED, transfer=other, name="", sha256=bytes(32)),
            encode(REFUSED, transfer=other, reason=""),
            encode(WELCOME, unfinished=[other, self.transfer]),
        )
        self.assertEqual(3 * BLOCK_BYTES, self.shipment.sent_bytes)
        drops = [p["transfer"] for p in self.streams[0].heard if p["packet_id"] == DROP]
        self.assertEqual([other], drops)
        self.assertNoResult(self.shipment.finished)

    def test_a_stand_that_cannot_be(self) -> None:
        for entries, offset in ((0, 2**50), (1, 0), (2**31, 0), (0, 3 * BLOCK_BYTES + 1)):
            self.world.settle(until_bytes=BLOCK_BYTES)
            self.world.streams.cut()
            self.world.wait()
            self.world.settle()
            self.assertIn(ASK, self.streams[-1].ids())
            stand = encode(
                STAND, transfer=self.transfer, entries=entries, offset=offset, sha256=bytes(32)
            )
            self.say(stand)
            self.assertRegex(self.problem(), "changed|shorter")
            self.world.notes.problems.clear()
            self.assertEqual([DROP], [p for p in self.streams[-1].ids() if p == DROP])
            self.shipment = self.world.send(self.path)
            (item,) = self.shipment.unsettled()
            self.transfer = item.transfer

    def test_a_receiver_that_has_lost_everything_gets_it_anew(self) -> None:
        self.world.settle(until_bytes=BLOCK_BYTES)
        self.world.streams.cut()
        self.world.wait()
        empty = hashlib.sha256().digest()
        self.world.settle()
        self.say(encode(STAND, transfer=self.transfer, entries=0, offset=0, sha256=empty))
        (item,) = [p for p in self.streams[-1].heard if p["packet_id"] == ITEM]
        self.assertFalse(item["resumes"])

    def test_bytes_that_are_no_answer_end_the_stream_and_not_the_transfer(self) -> None:
        self.say(b"\xc1")
        self.assertNoResult(self.shipment.finished)
        self.world.wait()
        self.assertEqual(2, len(self.streams))

    def test_a_receiver_that_closes_is_tried_again(self) -> None:
        self.world.settle(until_bytes=BLOCK_BYTES)
        for end in list(self.world.streams.ends):
            end.lose(ConnectionDone())
        self.world.wait()
        self.assertEqual(2, len(self.streams))
        self.assertNoResult(self.shipment.finished)
