"""Arrivals: how many may stand at the door, how long, and who is let in."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from abst import codec
from abst.address import format_host_port
from abst.device.arrivals import MAX_ARRIVALS, MAX_ARRIVALS_PER_HOST, Arrivals
from abst.device.carriers import DIRECT_PIECE_BYTES
from abst.device.channel import HANDSHAKE_SECONDS, Channel, ChannelState
from abst.device.knock import RANDOM_BYTES, Door, knock
from abst.device.pipes import Finished, Pipe, PipeOwner, Producer
from abst.device_id import DeviceID
from abst.errors import NotTrustedError, PeerUnreachableError
from abst.identity import Identity
from abst.packets import DeviceHello, Packet
from abst.tls import ChannelContexts, TlsEngine

ALICE, BOB, MALLORY = (Identity.generate() for _ in range(3))
STEP_BYTES = 100
HERE = "192.0.2.7:4000"


class MemoryPipe:
    """A direct connection whose other end is the test.

    Attributes:
        written: what was sent and not taken yet.
        closed: how often it was closed.
    """

    def __init__(self, address: str) -> None:
        self.address = self.remote = address
        self.local = HERE
        self.owner: PipeOwner | None = None
        self.written = bytearray()
        self.closed = 0

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def finish(self, finished: Finished) -> None:
        self.close()

    def is_stranded(self) -> bool:
        raise NotImplementedError

    def pause(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def register_producer(self, producer: Producer) -> None:
        raise NotImplementedError

    def unregister_producer(self) -> None:
        raise NotImplementedError

    def arrive(self, data: bytes) -> None:
        """Let bytes come; as with a real one, nothing comes after it was closed."""
        if not self.closed:
            assert self.owner is not None
            self.owner.pipe_received(self, data)

    def vanish(self) -> None:
        """Let the other end be gone."""
        if not self.closed:
            assert self.owner is not None
            self.owner.pipe_lost(self, PeerUnreachableError("gone"))

    def take(self) -> bytes:
        """Return what was sent since the last time."""
        taken = bytes(self.written)
        self.written.clear()
        return taken


class House:
    """Bob, to whom they come.

    Attributes:
        arrived: who has proved its key, with the pipe, the channel and the first packets.
        refused: whose keys are refused.
    """

    def __init__(self) -> None:
        self.reactor = Clock()
        self.contexts = ChannelContexts(BOB)
        self.door = Door(BOB.device_id)
        self.arrived: list[tuple[DeviceID, Pipe, Channel, list[Packet]]] = []
        self.refused: list[bytes] = []

    def admits_knock(self, server_name: bytes | None, local: str) -> bool:
        return self.door.admits(server_name, [local])

    def check_visitor(self, key: bytes) -> None:
        if key in self.refused:
            raise NotTrustedError("not you", theirs=False)

    def stream_arrived(
        self, device_id: DeviceID, pipe: Pipe, engine: TlsEngine, plaintext: bytes
    ) -> None:
        raise NotImplementedError

    def device_arrived(
        self, device_id: DeviceID, pipe: Pipe, channel: Channel, found: list[tuple[Packet, int]]
    ) -> None:
        self.arrived.append((device_id, pipe, channel, [packet for packet, _ in found]))


class Visitor:
    """Alice, who dials.

    Attributes:
        pipe: Bob's end of the connection.
        channel: her end of the channel.
    """

    def __init__(self, pipe: MemoryPipe, target: Identity = BOB) -> None:
        self.pipe = pipe
        name = knock(target.device_id, os.urandom(RANDOM_BYTES), HERE)
        engine = ChannelContexts(ALICE).dial(lambda key: None, name)
        self.channel = Channel(
            b"", engine, dialled=True, now=0.0, max_content_bytes=DIRECT_PIECE_BYTES
        )

    def turn(self, step_bytes: int = DIRECT_PIECE_BYTES, but: int = 0) -> None:
        """Send what she has to say, in pieces and maybe without its end, and take the answer."""
        said = b"".join(self.channel.contents_to_send())
        said = said[: len(said) - but]
        for begin in range(0, len(said), step_bytes):
            self.pipe.arrive(said[begin : begin + step_bytes])
        self.channel.receive_data(self.pipe.take())


class Base(TestCase):
    def setUp(self) -> None:
        self.house = House()
        self.clock = self.house.reactor
        self.arrivals = Arrivals(self.house)
        self.ports = 0

    def tearDown(self) -> None:
        """Once all are gone, no timer is left."""
        self.arrivals.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def come(self, host: str = "192.0.2.7") -> MemoryPipe:
        """Let somebody connect from a host."""
        self.ports += 1
        pipe = MemoryPipe(format_host_port(host, 40000 + self.ports))
        self.arrivals.accept(pipe)
        return pipe

    def crowd(self) -> list[MemoryPipe]:
        """Let as many come as may stand at the door."""
        hosts = MAX_ARRIVALS // MAX_ARRIVALS_PER_HOST
        return [
            self.come(f"192.0.2.{host}")
            for host in range(hosts)
            for _ in range(MAX_ARRIVALS_PER_HOST)
        ]


class BoundTests(Base):
    """Whoever connects costs little."""

    def test_one_host_gets_a_few(self) -> None:
        pipes = [self.come() for _ in range(MAX_ARRIVALS_PER_HOST + 2)]
        self.assertEqual([0] * MAX_ARRIVALS_PER_HOST + [1, 1], [pipe.closed for pipe in pipes])
        self.assertIsNone(pipes[-1].owner, "nobody listens to who was sent away")

    def test_another_host_is_still_let_in(self) -> None:
        for host in ("192.0.2.7", "2001:db8::7"):
            for _ in range(MAX_ARRIVALS_PER_HOST + 1):
                self.come(host)
        for host in ("192.0.2.70", "192.0.2.8", "2001:db8::8", "2001:db8::7:7"):
            self.assertFalse(self.come(host).closed, host)
        for host in ("192.0.2.7", "2001:db8::7"):
            self.assertTrue(self.come(host).closed, host)

    def test_there_is_a_bound_for_all(self) -> None:
        self.assertEqual(MAX_ARRIVALS, len(self.crowd()))
        self.assertTrue(self.come("198.51.100.1").closed)
        self.assertTrue(self.come("2001:db8::1").closed)

    def test_who_goes_makes_room(self) -> None:
        crowd = self.crowd()
        self.assertFalse(any(pipe.closed for pipe in crowd))
        crowd[0].vanish()
        self.assertFalse(self.come("198.51.100.1").closed)
        self.assertTrue(self.come("198.51.100.1").closed)
        self.assertTrue(self.come("192.0.2.0").closed)

    def test_who_is_sent_away_makes_room_for_nobody(self) -> None:
        crowd = self.crowd()
        for _ in range(100):
            self.come("198.51.100.1")
        crowd[0].vanish()
        self.assertFalse(self.come("198.51.100.1").closed)
        self.assertTrue(self.come("198.51.100.1").closed)

    def test_who_proves_a_key_makes_room(self) -> None:
        crowd = self.crowd()
        visitor = Visitor(crowd[0])
        visitor.turn()
        visitor.turn()
        self.assertEqual(1, len(self.house.arrived))
        self.assertFalse(self.come("198.51.100.1").closed)


class TimeTests(Base):
    """Whoever says nothing is sent away."""

    def test_who_says_nothing_is_closed_after_ten_seconds(self) -> None:
        pipe = self.come()
        self.clock.advance(HANDSHAKE_SECONDS - 0.01)
        self.assertFalse(pipe.closed)
        self.clock.advance(0.01)
        self.assertEqual(1, pipe.closed)
        self.assertEqual(b"", pipe.take(), "nothing is said to who has said nothing")

    def test_who_talks_slowly_gets_no_more_time(self) -> None:
        pipe = self.come()
        visitor = Visitor(pipe)
        said = b"".join(visitor.channel.contents_to_send())
        for at in range(9):
            pipe.arrive(said[at : at + 1])
            self.clock.advance(1)
        self.assertFalse(pipe.closed)
        self.clock.advance(1)
        self.assertTrue(pipe.closed)

    def test_each_has_a_time_of_its_own(self) -> None:
        first = self.come()
        self.clock.advance(4)
        second = self.come()
        self.clock.advance(6)
        self.assertEqual((1, 0), (first.closed, second.closed))
        self.clock.advance(4)
        self.assertEqual((1, 1), (first.closed, second.closed))

    def test_those_who_waited_make_room(self) -> None:
        self.crowd()
        self.clock.advance(HANDSHAKE_SECONDS)
        self.assertFalse(any(pipe.closed for pipe in self.crowd()))

    def test_who_has_gone_leaves_no_timer(self) -> None:
        self.come().vanish()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_who_has_arrived_is_not_closed_later(self) -> None:
        pipe = self.come()
        visitor = Visitor(pipe)
        visitor.turn()
        visitor.turn()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.arrivals.stop()
        self.assertFalse(pipe.closed)


class DoorTests(Base):
    """Whoever knocks and proves a key is handed on, and nobody else."""

    def arrived(self) -> DeviceID | None:
        """Return who has arrived, if anybody has."""
        if not self.house.arrived:
            return None
        ((device_id, _, _, _),) = self.house.arrived
        return device_id

    def test_who_knocks_and_proves_a_key_arrives(self) -> None:
        pipe = self.come()
        visitor = Visitor(pipe)
        visitor.turn()
        self.assertIsNone(self.arrived(), "it has proved nothing yet")
        self.assertIs(ChannelState.OPEN, visitor.channel.state)
        self.assertEqual(BOB.public_key, visitor.channel.peer_key)
        visitor.turn()
        ((device_id, found, channel, packets),) = self.house.arrived
        self.assertEqual(ALICE.device_id, device_id)
        self.assertIs(pipe, found)
        self.assertIs(ChannelState.OPEN, channel.state)
        self.assertEqual(ALICE.public_key, channel.peer_key)
        self.assertFalse(channel.dialled)
        self.assertEqual([], packets)
        self.assertFalse(pipe.closed)

    def test_what_comes_with_the_proof_is_handed_on(self) -> None:
        """As a rule Hello comes in the same piece."""
        visitor = Visitor(self.come())
        visitor.turn()
        hello = DeviceHello(
            bytes(ALICE.device_id), name="alice", paired=True, session=bytes(16), received=0
        )
        visitor.channel.send(codec.encode(hello))
        visitor.turn()
        self.assertEqual([hello], self.house.arrived[0][3])

    def test_the_pieces_may_be_cut_anywhere(self) -> None:
        for step_bytes in (1, STEP_BYTES):
            self.house.arrived.clear()
            visitor = Visitor(self.come())
            visitor.turn(step_bytes)
            visitor.turn(step_bytes)
            self.assertEqual(ALICE.device_id, self.arrived())

    def test_a_proof_without_its_end_is_none(self) -> None:
        visitor = Visitor(self.come())
        visitor.turn()
        visitor.turn(but=1)
        self.assertIsNone(self.arrived())

    def test_who_knocks_for_another_device_is_closed_and_sees_no_certificate(self) -> None:
        pipe = self.come()
        visitor = Visitor(pipe, MALLORY)
        visitor.turn()
        self.assertTrue(pipe.closed)
        self.assertIs(ChannelState.CLOSED, visitor.channel.state)
        self.assertIsNotNone(visitor.channel.problem, "it is told with an alert")
        self.assertEqual(b"", visitor.channel.peer_key)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_whose_key_is_refused_is_closed(self) -> None:
        self.house.refused.append(ALICE.public_key)
        pipe = self.come()
        visitor = Visitor(pipe)
        visitor.turn()
        visitor.turn()
        self.assertTrue(pipe.closed)
        self.assertIsNone(self.arrived())
        self.assertIsNotNone(visitor.channel.problem)

    def test_who_speaks_http_is_closed_at_once(self) -> None:
        pipe = self.come()
        pipe.arrive(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertTrue(pipe.closed)
        self.assertEqual([], self.clock.getDelayedCalls())

    @given(pieces=st.lists(st.binary(max_size=300), max_size=5))
    def test_any_other_bytes_bring_nobody_in(self, pieces: list[bytes]) -> None:
        pipe = self.come()
        for piece in pieces:
            pipe.arrive(piece)
        self.assertIsNone(self.arrived())
        self.assertLessEqual(len(pipe.take()), 7, "an alert at most")
        pipe.vanish()
        self.assertEqual([], self.clock.getDelayedCalls())


class StopTests(Base):
    def test_stopping_closes_all(self) -> None:
        crowd = self.crowd()
        self.arrivals.stop()
        self.assertEqual([1] * len(crowd), [pipe.closed for pipe in crowd])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stopping_twice_closes_once(self) -> None:
        pipe = self.come()
        self.arrivals.stop()
        self.arrivals.stop()
        self.assertEqual(1, pipe.closed)

    def test_who_comes_after_a_stop_and_a_start_is_let_in(self) -> None:
        self.crowd()
        self.arrivals.stop()
        self.assertFalse(self.come().closed)
