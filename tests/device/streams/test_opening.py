"""The beginning of a stream, with a dialler who does what none should do."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.device import DeviceFactory
from abst.device.key_check import proof, trust_key
from abst.device.knock import RANDOM_BYTES, knock
from abst.device.pipes import Pipe
from abst.device.streams.opening import MAX_OPENING_BYTES, OPENING_SECONDS
from abst.device.streams.stream import LINGER_SECONDS
from abst.identity import Identity
from abst.packets import STREAM_ACCEPTOR, Leg, OpenStream, StreamOpened, parse
from abst.testing import MemoryNetwork
from abst.tls import STREAM_ALPN, ChannelContexts, TlsEngine
from tests.device.doubles import Ear
from tests.device.streams.doubles import Built, Notes


class RawEnd:
    """One end of a stream's connection that is played by hand."""

    def __init__(self, network: MemoryNetwork, pipe: Pipe, engine: TlsEngine) -> None:
        self.pipe = pipe
        self.engine = engine
        self.heard = bytearray()
        self.lost: Exception | None = None
        self._network = network
        pipe.owner = self

    def say(self, data: bytes) -> None:
        """Send bytes inside TLS, and let them come."""
        self.engine.send(data)
        self.flush()
        self._network.settle()

    def flush(self) -> None:
        """Send what TLS has to say."""
        records = self.engine.data_to_send()
        if records:
            self.pipe.write(records)

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        self.heard += self.engine.receive_data(data)
        self.flush()

    def pipe_lost(self, pipe: Pipe, problem: Exception) -> None:
        self.lost = problem

    @property
    def is_over(self) -> bool:
        """Whether the device has closed."""
        return self.lost is not None or self.engine.ended


class HostileDiallerTests(SynchronousTestCase):
    """Bob, and a dialler who does what none should do."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.lan = self.network.lan()
        self.bob = self.network.device("bob", DeviceFactory(), lan=self.lan.port())
        self.alice = Identity.generate()
        self.bob.trust(self.alice.device_id)
        self.offered = Built(Notes)
        self.bob.streams.listen("notes", self.offered)
        self.network.settle()

    def dial(self, identity: Identity | None = None) -> RawEnd:
        """Return a connection whose handshake is done."""
        place = self.lan.port()
        place.start(_Deaf())
        address = self.bob.own_addresses()[0]
        pipe = self.lan.connect(place, address)
        assert pipe is not None
        name = knock(self.bob.device_id, os.urandom(RANDOM_BYTES), address)
        contexts = ChannelContexts(identity or self.alice)
        end = RawEnd(self.network, pipe, contexts.dial(lambda key: None, name, alpn=STREAM_ALPN))
        end.engine.start()
        end.flush()
        self.network.settle()
        return end

    def open_stream(self, end: RawEnd, service: str = "notes") -> bytes:
        """Return the packet that asks for a service, with a good proof."""
        key = trust_key(self.bob.device_id, self.alice.device_id)
        return codec.encode(OpenStream(service, proof(key, end.engine.exporter(), by_dialler=True)))

    def assert_gone(self, end: RawEnd) -> None:
        """Bob has closed, and holds nothing any more."""
        self.network.settle()
        self.assertTrue(end.is_over)
        self.assertEqual([], self.offered.built)
        self.assertEqual(({}, set()), (self.bob.streams._of_peer, self.bob.streams._openings))

    def test_a_good_one(self) -> None:
        end = self.dial()
        end.say(self.open_stream(end) + b"and more")
        self.assertEqual(b"and more", bytes(self.offered.built[0].heard))
        decoder = codec.Decoder()
        decoder.receive_data(bytes(end.heard))
        answer = parse(decoder.next_map() or {}, STREAM_ACCEPTOR)
        assert isinstance(answer, StreamOpened)
        key = trust_key(self.bob.device_id, self.alice.device_id)
        self.assertEqual(proof(key, end.engine.exporter(), by_dialler=False), answer.mac)

    def test_one_whose_packet_comes_byte_by_byte(self) -> None:
        end = self.dial()
        for byte in self.open_stream(end) + b"after":
            end.say(bytes([byte]))
        self.assertEqual(b"after", bytes(self.offered.built[0].heard))

    def test_one_who_says_nothing(self) -> None:
        end = self.dial()
        self.network.advance(OPENING_SECONDS - 1)
        self.assertFalse(end.is_over)
        self.network.advance(2)
        self.assert_gone(end)

    def test_one_who_never_comes_to_an_end(self) -> None:
        end = self.dial()
        end.say(b"\x81\xa9packet_id\xc6\x00\x10\x00\x00" + bytes(MAX_OPENING_BYTES))
        self.assert_gone(end)

    def test_one_who_speaks_something_else(self) -> None:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\xc1", b"\x80", codec.encode(Leg(bytes(32)))):
            end = self.dial()
            end.say(words)
            self.assert_gone(end)

    def test_one_who_proves_nothing(self) -> None:
        end = self.dial()
        end.say(codec.encode(OpenStream("notes", bytes(32))))
        self.assertIn(b"wrong_pairing", end.heard)
        self.assert_gone(end)

    def test_one_who_repeats_the_proof_of_another_connection(self) -> None:
        first = self.dial()
        overheard = self.open_stream(first)
        second = self.dial()
        second.say(overheard)
        self.assertIn(b"wrong_pairing", second.heard)
        first.pipe.abort()
        self.assert_gone(second)

    def test_one_who_sends_the_acceptors_proof(self) -> None:
        end = self.dial()
        key = trust_key(self.bob.device_id, self.alice.device_id)
        mac = proof(key, end.engine.exporter(), by_dialler=False)
        end.say(codec.encode(OpenStream("notes", mac)))
        self.assertIn(b"wrong_pairing", end.heard)
        self.assert_gone(end)

    def test_a_stranger(self) -> None:
        end = self.dial(Identity.generate())
        self.assert_gone(end)

    def test_one_who_leaves_at_once(self) -> None:
        end = self.dial()
        end.engine.close()
        end.flush()
        self.assert_gone(end)

    def test_one_whose_handshake_is_none(self) -> None:
        place = self.lan.port()
        place.start(_Deaf())
        pipe = self.lan.connect(place, self.bob.own_addresses()[0])
        assert pipe is not None
        ear = Ear()
        pipe.owner = ear
        pipe.write(b"\x16\x03\x01" + bytes(600))
        self.network.advance(OPENING_SECONDS + 1)
        self.assertEqual(({}, set()), (self.bob.streams._of_peer, self.bob.streams._openings))

    def test_one_who_cuts_a_record_short(self) -> None:
        end = self.dial()
        end.say(self.open_stream(end))
        end.engine.send(b"half of this")
        end.pipe.write(end.engine.data_to_send()[:10])
        end.pipe.close()
        self.network.settle()
        self.assertIsInstance(self.offered.built[0].ended, ConnectionLost)
        self.assertEqual(b"", bytes(self.offered.built[0].heard))

    def test_one_who_does_not_take_the_end(self) -> None:
        end = self.dial()
        end.say(self.open_stream(end))
        (notes,) = self.offered.built
        notes.transport.loseConnection()
        self.network.advance(LINGER_SECONDS - 1)
        self.assertIsNone(notes.ended)
        end.say(b"I go on and on")
        self.network.advance(2)
        self.assertIsInstance(notes.ended, ConnectionDone)
        self.assertTrue(end.is_over)
        self.assertEqual(b"", bytes(notes.heard))


class _Deaf:
    """Is in a network, and takes nothing."""

    device_id = Identity.generate().device_id

    def pipe_accepted(self, pipe: Pipe) -> None:
        pipe.owner = Ear()

    def announcement_seen(self, announcement: Any) -> None:
        pass

    def network_changed(self) -> None:
        pass
