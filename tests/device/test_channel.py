"""Channels: two ends, with every way of carrying the bytes between them wrongly."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto
from twisted.trial.unittest import TestCase

from abst import codec
from abst.device.channel import Channel, ChannelState, begins_channel, split_content
from abst.device.peers import Peer
from abst.errors import (
    AbstError,
    Code,
    IdentityError,
    PeerUnreachableError,
    RemoteProtocolError,
    WrongKeyError,
)
from abst.identity import Identity
from abst.packets import (
    CHANNEL_NUMBER_BYTES,
    Application,
    DeviceHello,
    Heartbeat,
    Packet,
)
from abst.tls import ChannelContexts, CheckKey

ALICE: Final = Identity.generate()
BOB: Final = Identity.generate()
CAROL: Final = Identity.generate()
CONTEXTS: Final = {who: ChannelContexts(who) for who in (ALICE, BOB, CAROL)}
NUMBER: Final = b"number 1"

OPENSSL_WITH_MLKEM: Final = 0x30500000


def only(identity: Identity) -> CheckKey:
    """Return the check that accepts one device."""
    return Peer(identity.device_id).check_key


class Ends:
    """Alice's and Bob's ends of a channel, and the contents on their way between them."""

    def __init__(
        self,
        *,
        dialler_checks: CheckKey | None = None,
        acceptor_checks: CheckKey | None = None,
        dialler: Identity = ALICE,
        max_content_bytes: int = 65_000,
    ) -> None:
        self.alice = Channel(
            NUMBER,
            CONTEXTS[dialler].dial(dialler_checks or only(BOB)),
            dialled=True,
            now=0.0,
            max_content_bytes=max_content_bytes,
        )
        self.bob = Channel(
            NUMBER,
            CONTEXTS[BOB].accept(acceptor_checks or only(ALICE)),
            dialled=False,
            now=0.0,
            max_content_bytes=max_content_bytes,
        )
        self.found: dict[Channel, list[Packet]] = {self.alice: [], self.bob: []}

    def give(self, channel: Channel, records: bytes, now: float = 0.0) -> None:
        self.found[channel] += [packet for packet, _ in channel.receive_data(records)]

    def pass_all(self) -> None:
        """Carry everything both ways until nothing is left."""
        moved = True
        while moved:
            moved = False
            for source, target in ((self.alice, self.bob), (self.bob, self.alice)):
                for content in source.contents_to_send():
                    moved = True
                    self.give(target, split_content(content)[1])

    def records_of(self, channel: Channel) -> bytes:
        return b"".join(split_content(content)[1] for content in channel.contents_to_send())


def opened() -> Ends:
    ends = Ends()
    ends.pass_all()
    assert ends.alice.state is ends.bob.state is ChannelState.OPEN
    return ends


def plain_tls(identity: Identity) -> SSL.Connection:
    """Return one end of a connection with a device's key, and without this protocol's name."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(crypto.PKey.from_cryptography_key(identity.private_key))
    context.use_certificate(crypto.X509.from_cryptography(identity.certificate()))
    return SSL.Connection(context, None)


def shake_hands(connection: SSL.Connection, records: bytes) -> None:
    """Take the other end's records and go on with the handshake as far as they allow."""
    if records:
        connection.bio_write(records)
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()


def heartbeat(count: int) -> bytes:
    return codec.encode(Heartbeat(count))


class HandshakeTests(TestCase):
    """Two devices that know each other."""

    def test_both_ends_open_and_know_each_other(self) -> None:
        ends = opened()
        self.assertEqual(BOB.public_key, ends.alice.peer_key)
        self.assertEqual(ALICE.public_key, ends.bob.peer_key)
        self.assertIsNone(ends.alice.problem)
        self.assertIsNone(ends.bob.problem)

    def test_before_it_is_open_nothing_is_known(self) -> None:
        ends = Ends()
        self.assertEqual(b"", ends.alice.peer_key)
        self.assertIs(ChannelState.HANDSHAKE, ends.bob.state)

    def test_both_ends_export_the_same_secret_and_another_channel_another_one(self) -> None:
        ends, others = opened(), opened()
        self.assertEqual(ends.alice.exporter(), ends.bob.exporter())
        self.assertEqual(32, len(ends.alice.exporter()))
        self.assertNotEqual(ends.alice.exporter(), others.alice.exporter())

    def test_what_is_sent_early_waits_for_the_handshake(self) -> None:
        ends = Ends()
        ends.alice.send(heartbeat(7))
        ends.bob.send(heartbeat(8))
        ends.pass_all()
        self.assertEqual([Heartbeat(7)], ends.found[ends.bob])
        self.assertEqual([Heartbeat(8)], ends.found[ends.alice])

    def test_a_hello_goes_with_every_field(self) -> None:
        ends = opened()
        hello = DeviceHello(
            bytes(ALICE.device_id),
            "Alice's",
            True,
            bytes(16),
            3,
            realms=["abst://realm.example:42278/"],
        )
        ends.alice.send(codec.encode(hello))
        ends.pass_all()
        self.assertEqual([hello], ends.found[ends.bob])

    def test_the_key_exchange_is_post_quantum_where_openssl_offers_it(self) -> None:
        connection: Any = opened().alice._engine._connection
        if SSL.OPENSSL_VERSION_NUMBER < OPENSSL_WITH_MLKEM:
            raise SkipTest(f"{SSL.OpenSSL_version(SSL.OPENSSL_VERSION)!r} has no X25519MLKEM768")
        if not hasattr(connection, "get_group_name"):
            raise SkipTest("this pyOpenSSL does not tell the group")
        self.assertEqual("X25519MLKEM768", connection.get_group_name())

    def test_it_is_tls_1_3(self) -> None:
        connection: Any = opened().alice._engine._connection
        self.assertEqual("TLSv1.3", connection.get_protocol_version_name())

    @settings(max_examples=25)
    @given(st.data())
    def test_any_split_of_the_bytes_gives_the_same(self, data: st.DataObject) -> None:
        ends = Ends()
        packets = [heartbeat(count) for count in range(5)]
        ends.alice.send(b"".join(packets))
        ends.bob.send(codec.encode(Application(9, bytes(40_000))))
        moved = True
        while moved:
            moved = False
            for source, target in ((ends.alice, ends.bob), (ends.bob, ends.alice)):
                records = ends.records_of(source)
                moved = moved or bool(records)
                cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=6).map(sorted))
                for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
                    ends.give(target, records[begin:end])
        self.assertEqual([Heartbeat(count) for count in range(5)], ends.found[ends.bob])
        self.assertEqual([Application(9, bytes(40_000))], ends.found[ends.alice])

    def test_byte_by_byte_is_enough(self) -> None:
        ends = Ends()
        ends.alice.send(heartbeat(1))
        moved = True
        while moved:
            moved = False
            for source, target in ((ends.alice, ends.bob), (ends.bob, ends.alice)):
                for byte in ends.records_of(source):
                    moved = True
                    ends.give(target, bytes([byte]))
        self.assertEqual([Heartbeat(1)], ends.found[ends.bob])


class RefusalTests(TestCase):
    """Whoever is not who was expected."""

    def assert_refused(self, ends: Ends, refuser: Channel, other: Channel) -> None:
        ends.alice.send(heartbeat(1))
        ends.bob.send(heartbeat(2))
        ends.pass_all()
        self.assertIs(ChannelState.CLOSED, refuser.state)
        self.assertIsInstance(refuser.problem, WrongKeyError)
        self.assertEqual([], ends.found[refuser])
        self.assertIs(ChannelState.CLOSED, other.state)
        self.assertIsInstance(other.problem, IdentityError)

    def test_the_dialler_refuses_another_device(self) -> None:
        ends = Ends(dialler_checks=only(CAROL))
        self.assert_refused(ends, ends.alice, ends.bob)
        problem = ends.alice.problem
        assert isinstance(problem, WrongKeyError)
        self.assertEqual(str(CAROL.device_id), problem.expected)
        self.assertEqual(str(BOB.device_id), problem.found)
        self.assertEqual([], ends.found[ends.bob])

    def test_the_acceptor_refuses_another_device(self) -> None:
        ends = Ends(dialler=CAROL)
        self.assert_refused(ends, ends.bob, ends.alice)
        problem = ends.bob.problem
        assert isinstance(problem, WrongKeyError)
        self.assertEqual(str(CAROL.device_id), problem.found)

    def test_the_dialler_refuses_another_key_than_the_pinned_one(self) -> None:
        pinned = Peer(BOB.device_id, "Bob", CAROL.public_key)
        ends = Ends(dialler_checks=pinned.check_key)
        self.assert_refused(ends, ends.alice, ends.bob)
        self.assertIn("Bob", str(ends.alice.problem))

    def test_the_acceptor_refuses_another_key_than_the_pinned_one(self) -> None:
        pinned = Peer(ALICE.device_id, "Alice", CAROL.public_key)
        ends = Ends(acceptor_checks=pinned.check_key)
        self.assert_refused(ends, ends.bob, ends.alice)

    def test_the_right_pinned_key_is_accepted(self) -> None:
        ends = Ends(dialler_checks=Peer(BOB.device_id, "", BOB.public_key).check_key)
        ends.pass_all()
        self.assertIs(ChannelState.OPEN, ends.alice.state)

    def test_a_server_that_speaks_another_protocol_is_refused(self) -> None:
        """A web server has no business here, even with the right key."""
        ends = Ends()
        server = plain_tls(BOB)
        server.set_accept_state()
        shake_hands(server, ends.records_of(ends.alice))
        ends.give(ends.alice, server.bio_read(65536))
        self.assertIs(ChannelState.CLOSED, ends.alice.state)
        self.assertIn("ALPN", str(ends.alice.problem))

    def test_a_dialler_that_speaks_another_protocol_is_refused(self) -> None:
        ends = Ends()
        client = plain_tls(ALICE)
        client.set_connect_state()
        shake_hands(client, b"")
        ends.give(ends.bob, client.bio_read(65536))
        shake_hands(client, ends.records_of(ends.bob))
        client.send(heartbeat(1))
        ends.give(ends.bob, client.bio_read(65536))
        self.assertIs(ChannelState.CLOSED, ends.bob.state)
        self.assertIn("ALPN", str(ends.bob.problem))
        self.assertEqual([], ends.found[ends.bob])

    def test_random_bytes_are_refused(self) -> None:
        ends = Ends()
        ends.give(ends.bob, b"\x16\x03\x01\xff\xffGET / HTTP/1.1\r\n\r\n" * 9)
        self.assertIs(ChannelState.CLOSED, ends.bob.state)
        ends.give(ends.alice, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertIs(ChannelState.CLOSED, ends.alice.state)
        self.assertIsInstance(ends.alice.problem, AbstError)


class TamperingTests(TestCase):
    """A realm that changes what it carries gains nothing: the channel ends."""

    def setUp(self) -> None:
        self.ends = opened()
        self.pieces = []
        for count in range(3):
            self.ends.alice.send(heartbeat(count))
            self.pieces.append(self.ends.records_of(self.ends.alice))

    def assert_closed(self, *wanted: Packet) -> None:
        bob = self.ends.bob
        self.assertIs(ChannelState.CLOSED, bob.state)
        self.assertIsInstance(bob.problem, AbstError)
        self.assertEqual(list(wanted), self.ends.found[bob])
        for piece in self.pieces:
            self.ends.give(bob, piece)
        self.assertEqual(list(wanted), self.ends.found[bob])

    def carry(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.ends.give(self.ends.bob, piece)

    def test_a_dropped_piece(self) -> None:
        self.carry(self.pieces[1])
        self.assert_closed()

    def test_a_replayed_piece(self) -> None:
        self.carry(self.pieces[0], self.pieces[0])
        self.assert_closed(Heartbeat(0))

    def test_pieces_in_another_order(self) -> None:
        self.carry(self.pieces[0], self.pieces[2], self.pieces[1])
        self.assert_closed(Heartbeat(0))

    def test_a_piece_of_another_channel(self) -> None:
        other = opened()
        other.alice.send(heartbeat(9))
        self.carry(other.records_of(other.alice))
        self.assert_closed()

    @given(st.data())
    def test_any_changed_bit(self, data: st.DataObject) -> None:
        self.setUp()
        changed = bytearray(self.pieces[0])
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        self.carry(bytes(changed), *self.pieces[1:])
        self.assertEqual([], self.ends.found[self.ends.bob])
        # A length that became larger leaves the record waiting for bytes that never come.
        if self.ends.bob.state is not ChannelState.CLOSED:
            self.assertIn(at, (3, 4))

    def test_the_other_end_learns_of_it(self) -> None:
        self.carry(self.pieces[1])
        self.ends.pass_all()
        self.assertIs(ChannelState.CLOSED, self.ends.alice.state)


class PacketTests(TestCase):
    """What the packets inside may be."""

    def setUp(self) -> None:
        self.ends = opened()

    def send(self, *encoded: bytes) -> list[Packet]:
        for packet in encoded:
            self.ends.alice.send(packet)
        self.ends.pass_all()
        return self.ends.found[self.ends.bob]

    def assert_refused(self, code: Code) -> None:
        problem = self.ends.bob.problem
        assert isinstance(problem, RemoteProtocolError), problem
        self.assertEqual(code, problem.code)
        self.assertIs(ChannelState.CLOSED, self.ends.bob.state)

    def test_no_messagepack(self) -> None:
        self.assertEqual([], self.send(b"\xc1"))
        self.assert_refused(Code.MALFORMED)

    def test_what_came_before_a_broken_packet_counts(self) -> None:
        self.assertEqual([Heartbeat(1)], self.send(heartbeat(1), b"\xc1", heartbeat(2)))
        self.assert_refused(Code.MALFORMED)

    def test_a_heartbeat_without_its_count(self) -> None:
        self.assertEqual([], self.send(b"\x82\xa9packet_id\x00\xa7content\x80"))
        self.assert_refused(Code.MALFORMED)

    def test_a_packet_larger_than_any_may_be(self) -> None:
        self.assertEqual([], self.send(b"\x82\xa9packet_id\x09\xa7content\xc6\x00\x02\x00\x00"))
        self.ends.alice.send(bytes(70_000))
        self.ends.pass_all()
        self.assert_refused(Code.TOO_LARGE)

    def test_sizes_are_those_of_the_encoding(self) -> None:
        first, second = heartbeat(3), codec.encode(Application(255, "x" * 1000))
        self.ends.alice.send(first + second)
        records = self.ends.records_of(self.ends.alice)
        found = self.ends.bob.receive_data(records)
        self.assertEqual([len(first), len(second)], [size for _, size in found])

    def test_what_was_not_encrypted_yet_can_be_taken_back(self) -> None:
        self.ends.alice.send(heartbeat(3))
        self.ends.alice.discard_unsent()
        self.assertEqual([], self.ends.alice.contents_to_send())

    def test_closing_is_told_after_what_was_queued(self) -> None:
        problem = PeerUnreachableError("enough")
        self.ends.alice.send(heartbeat(3))
        self.ends.alice.close(problem)
        self.ends.alice.close(PeerUnreachableError("a second reason"))
        self.ends.pass_all()
        self.assertEqual([Heartbeat(3)], self.ends.found[self.ends.bob])
        self.assertIs(ChannelState.CLOSED, self.ends.bob.state)
        self.assertIs(problem, self.ends.alice.problem)

    def test_a_closed_channel_neither_sends_nor_takes(self) -> None:
        self.ends.bob.send(heartbeat(1))
        late = self.ends.records_of(self.ends.bob)
        self.ends.alice.close()
        self.ends.records_of(self.ends.alice)
        self.ends.alice.send(heartbeat(3))
        self.assertEqual([], self.ends.alice.contents_to_send())
        self.assertEqual([], self.ends.alice.receive_data(late))


class FramingTests(TestCase):
    """How a channel's bytes stand in realm packets."""

    @settings(max_examples=20)
    @given(st.integers(64, 65_000), st.integers(0, 60_000))
    def test_no_content_is_larger_than_the_realm_takes(self, most: int, size: int) -> None:
        ends = Ends(max_content_bytes=most)
        packet = Application(9, bytes(size))
        ends.alice.send(codec.encode(packet))
        moved = True
        while moved:
            moved = False
            for source, target in ((ends.alice, ends.bob), (ends.bob, ends.alice)):
                for content in source.contents_to_send():
                    moved = True
                    self.assertLessEqual(len(content), most)
                    number, records = split_content(content)
                    self.assertEqual(NUMBER, number)
                    self.assertTrue(records)
                    ends.give(target, records)
        self.assertEqual([packet], ends.found[ends.bob])

    def test_packets_that_gathered_go_as_one(self) -> None:
        ends = opened()
        for count in range(50):
            ends.alice.send(heartbeat(count))
        self.assertEqual(1, len(ends.alice.contents_to_send()))
        self.assertEqual([], ends.alice.contents_to_send())

    def test_a_content_begins_with_the_channel_number(self) -> None:
        self.assertEqual((b"12345678", b"rest"), split_content(b"12345678rest"))
        self.assertEqual((b"12345678", b""), split_content(b"12345678"))
        for size in range(CHANNEL_NUMBER_BYTES):
            error = self.assertRaises(RemoteProtocolError, split_content, bytes(size))
            self.assertEqual(Code.MALFORMED, error.code)

    def test_only_a_handshake_record_begins_a_channel(self) -> None:
        ends = Ends()
        self.assertTrue(begins_channel(ends.records_of(ends.alice)))
        for records in (b"", b"\x17\x03\x03", b"\x15\x03\x03", b"GET /"):
            self.assertFalse(begins_channel(records))
