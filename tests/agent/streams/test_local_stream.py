"""A stream's bytes on a Unix socket: any split, each way to end, and whatever else may come."""

from __future__ import annotations

import struct
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from abst.agent.streams.local_stream import CLOSE, END, LocalStream
from tests.device.streams.doubles import HalfNotes, Notes, Pusher

HERE: Final = UNIXAddress("/here")
THERE: Final = UNIXAddress("/there")


class Wire(StringTransport):
    """The Unix connection of one side; it notes that it was broken off."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def frame(data: bytes) -> bytes:
    """Return a frame with bytes of the stream."""
    return struct.pack(">I", len(data)) + data


class Side:
    """One side of a stream."""

    def __init__(self, notes: Any = None) -> None:
        self.notes: Any = Notes() if notes is None else notes
        self.wire = Wire()
        self.stream = LocalStream(self.notes, THERE, HERE)
        self.stream.makeConnection(self.wire)

    def written(self) -> bytes:
        """Return, once, what has gone onto the wire."""
        data: bytes = self.wire.value()
        self.wire.clear()
        return data

    def lose(self, kind: type[Exception] = ConnectionDone) -> None:
        """End the Unix connection."""
        self.stream.connectionLost(Failure(kind()))


class BytesTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 50), max_size=30))
    def test_any_split_gives_the_same_bytes(self, pieces: list[bytes], sizes: list[int]) -> None:
        near, far = Side(), Side()
        for piece in pieces:
            near.stream.write(piece)
        near.stream.loseConnection()
        data = near.written()
        for size in [*sizes, len(data)]:
            far.stream.dataReceived(data[:size])
            data = data[size:]
        self.assertEqual(b"".join(pieces), bytes(far.notes.heard))
        self.assertIsInstance(far.notes.ended, ConnectionDone)

    @given(st.binary(max_size=300))
    def test_any_bytes_are_taken(self, data: bytes) -> None:
        side = Side(HalfNotes())
        side.stream.dataReceived(data)
        if side.notes.ended is None:
            side.lose()
        self.assertLessEqual(len(side.notes.heard), max(len(data) - 4, 0))

    def test_nothing_is_no_frame(self) -> None:
        side = Side()
        side.stream.write(b"")
        side.stream.writeSequence([b"", b"x", b"yz"])
        self.assertEqual(frame(b"xyz"), side.written())

    def test_bytes_are_passed_on_before_their_frame_is_whole(self) -> None:
        side = Side()
        side.stream.dataReceived(frame(bytes(1000))[:500])
        self.assertEqual(496, len(side.notes.heard))

    def test_a_length_that_cannot_be_breaks_the_stream_off(self) -> None:
        side = Side()
        side.stream.dataReceived(struct.pack(">I", 2**31) + b"more")
        self.assertTrue(side.wire.aborted)
        self.assertIsInstance(side.notes.ended, ConnectionLost)
        self.assertEqual(b"", bytes(side.notes.heard))

    def test_it_is_a_transport(self) -> None:
        side = Side()
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, side.stream)
        self.assertEqual((HERE, THERE), (side.stream.getHost(), side.stream.getPeer()))


class Pausing(HalfNotes):
    """Takes one piece at a time."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.pauseProducing()


class PauseTests(SynchronousTestCase):
    """Whoever has paused is given nothing, though more has been read already."""

    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 400))
    def test_it_comes_piece_by_piece(self, pieces: list[bytes], size: int) -> None:
        side = Side(Pausing())
        data = b"".join(map(frame, pieces)) + END
        heard = []
        for start in range(0, len(data), size):
            side.stream.dataReceived(data[start : start + size])
            while side.wire.producerState == "paused":
                heard.append(bytes(side.notes.heard))
                side.stream.resumeProducing()
        self.assertEqual(b"".join(pieces), bytes(side.notes.heard))
        self.assertGreaterEqual(len(set(heard)), len(pieces))
        self.assertEqual(["read"], side.notes.halves)

    def test_the_end_waits_behind_the_bytes(self) -> None:
        side = Side(Pausing())
        side.stream.dataReceived(frame(b"one") + frame(b"two") + CLOSE)
        self.assertEqual((b"one", None), (bytes(side.notes.heard), side.notes.ended))
        side.stream.resumeProducing()
        self.assertEqual((b"onetwo", None), (bytes(side.notes.heard), side.notes.ended))
        side.stream.resumeProducing()
        self.assertIsInstance(side.notes.ended, ConnectionDone)

    def test_who_closes_is_given_nothing_more_and_told_later(self) -> None:
        side = Side(Pausing())
        side.stream.dataReceived(frame(b"one") + frame(b"two") + CLOSE)
        side.stream.loseConnection()
        self.assertEqual((b"one", None), (bytes(side.notes.heard), side.notes.ended))
        self.assertTrue(side.wire.aborted)
        side.lose(ConnectionAborted)
        self.assertIsInstance(side.notes.ended, ConnectionDone)


class EndTests(SynchronousTestCase):
    """Each way to end, seen from both sides."""

    def test_closing_waits_until_the_other_side_has_read_it(self) -> None:
        side = Side()
        side.stream.write(b"last")
        side.stream.loseConnection()
        self.assertEqual(frame(b"last") + CLOSE, side.written())
        self.assertTrue(side.stream.disconnecting)
        side.stream.dataReceived(frame(b"too late"))
        side.stream.write(b"too late")
        self.assertEqual((b"", b"", None), (side.written(), side.notes.heard, side.notes.ended))
        side.lose()
        self.assertIsInstance(side.notes.ended, ConnectionDone)

    def test_closing_reads_on_where_reading_had_paused(self) -> None:
        side = Side()
        side.stream.pauseProducing()
        self.assertEqual("paused", side.wire.producerState)
        side.stream.loseConnection()
        self.assertEqual("producing", side.wire.producerState)
        side.stream.pauseProducing()
        self.assertEqual("producing", side.wire.producerState)

    def test_who_hears_that_it_is_closed_closes(self) -> None:
        side = Side()
        side.stream.dataReceived(frame(b"last") + CLOSE + frame(b"nonsense"))
        self.assertEqual(b"last", bytes(side.notes.heard))
        self.assertIsInstance(side.notes.ended, ConnectionDone)
        self.assertTrue(side.wire.aborted)
        side.lose(ConnectionAborted)  # ``Notes`` fails when it is told twice.

    def test_a_connection_that_ends_without_a_word_was_broken_off(self) -> None:
        for data in (b"", frame(b"half"), frame(b"half")[:5], END):
            side = Side(HalfNotes())
            side.stream.dataReceived(data)
            side.lose()
            self.assertIsInstance(side.notes.ended, ConnectionLost)
        side = Side(HalfNotes())
        side.stream.loseWriteConnection()
        side.lose()
        self.assertIsInstance(side.notes.ended, ConnectionLost)

    def test_who_aborts_says_nothing(self) -> None:
        side = Side()
        side.stream.abortConnection()
        self.assertEqual(b"", side.written())
        self.assertTrue(side.wire.aborted)
        side.lose(ConnectionAborted)
        self.assertIsInstance(side.notes.ended, ConnectionAborted)

    def test_one_direction_ends_alone(self) -> None:
        side = Side(HalfNotes())
        side.stream.dataReceived(END)
        self.assertEqual(["read"], side.notes.halves)
        side.stream.write(b"still")
        self.assertEqual(frame(b"still"), side.written())
        side.stream.loseWriteConnection()
        self.assertEqual(CLOSE, side.written())

    def test_the_other_direction_goes_on(self) -> None:
        side = Side(HalfNotes())
        side.stream.loseWriteConnection()
        side.stream.loseWriteConnection()
        side.stream.write(b"dropped")
        self.assertEqual(END, side.written())
        side.stream.dataReceived(frame(b"heard") + END)
        self.assertEqual((b"heard", ["read"]), (bytes(side.notes.heard), side.notes.halves))
        self.assertEqual(CLOSE, side.written())

    def test_who_knows_no_half_is_closed_by_the_end_of_one_direction(self) -> None:
        side = Side()
        side.stream.registerProducer(Pusher(side.stream, b""), True)
        side.stream.dataReceived(END)
        self.assertEqual(CLOSE, side.written())
        side.lose()
        self.assertIsInstance(side.notes.ended, ConnectionDone)

    def test_closing_waits_for_the_producer(self) -> None:
        side = Side()
        pusher = Pusher(side.stream, b"x")
        side.stream.registerProducer(pusher, True)
        side.stream.loseConnection()
        pusher.push(1)
        self.assertEqual(frame(b"x"), side.written())
        side.stream.unregisterProducer()
        self.assertEqual(CLOSE, side.written())
