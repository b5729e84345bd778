"""Knocking: who may see the certificate of a listening port, and who learns nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device.knock import MAX_REMEMBERED, RANDOM_BYTES, Door, knock
from abst.identity import Identity
from abst.tls import ChannelContexts, TlsEngine

ALICE, BOB, MALLORY = (Identity.generate() for _ in range(3))
RANDOM: Final = bytes(range(RANDOM_BYTES))


def number(count: int) -> bytes:
    """Return a random part that is as good as any, but counted."""
    return count.to_bytes(RANDOM_BYTES, "big")


class DoorTests(TestCase):
    """What one device admits."""

    def setUp(self) -> None:
        self.door = Door(BOB.device_id)

    def test_a_knock_is_what_the_specification_says(self) -> None:
        found = hashlib.sha256(b"ABST knock 1" + RANDOM + bytes(BOB.device_id)).hexdigest()[:32]
        name = knock(BOB.device_id, RANDOM)
        self.assertEqual(f"000102030405060708090a0b0c0d0e0f.{found}".encode(), name)
        self.assertLess(max(map(len, name.split(b"."))), 64, "a label of a host name")

    def test_who_knows_whom_it_dials_is_admitted(self) -> None:
        self.assertTrue(self.door.admits(knock(BOB.device_id, RANDOM)))

    def test_a_knock_is_good_once(self) -> None:
        name = knock(BOB.device_id, RANDOM)
        self.assertTrue(self.door.admits(name))
        self.assertFalse(self.door.admits(name))
        self.assertFalse(self.door.admits(name.upper()), "the same knock written otherwise")
        self.assertTrue(self.door.admits(knock(BOB.device_id, number(1))))

    def test_a_host_name_has_no_case(self) -> None:
        self.assertTrue(self.door.admits(knock(BOB.device_id, bytes([0xAB] * 16)).upper()))

    def test_a_knock_for_another_device_is_refused_and_uses_nothing_up(self) -> None:
        self.assertFalse(self.door.admits(knock(ALICE.device_id, RANDOM)))
        self.assertTrue(self.door.admits(knock(BOB.device_id, RANDOM)))

    def test_a_knock_for_an_address_is_good_only_there(self) -> None:
        """Who has lured a dialler to himself cannot knock at the device with what he got."""
        name = knock(BOB.device_id, RANDOM, "192.0.2.66:4000")
        self.assertFalse(self.door.admits(name))
        self.assertFalse(self.door.admits(name, ["192.0.2.7:4000", "192.0.2.66:4001"]))
        self.assertTrue(self.door.admits(name, ["192.0.2.7:4000", "192.0.2.66:4000"]))
        self.assertFalse(self.door.admits(name, ["192.0.2.66:4000"]))

    def test_an_address_that_a_person_told_may_be_any(self) -> None:
        self.assertTrue(self.door.admits(knock(BOB.device_id, RANDOM), ["192.0.2.7:4000"]))

    def test_no_name_is_no_knock(self) -> None:
        for name in (None, b"", b".", b"localhost", bytes(65), b"\xff" * 65):
            self.assertFalse(self.door.admits(name))

    def test_what_is_almost_a_knock_is_refused(self) -> None:
        good = knock(BOB.device_id, RANDOM)
        for bad in (
            good[:-1],
            good + b"0",
            good + b".",
            b" " + good[1:],
            b"  " + good[2:],
            good.replace(b".", b"-"),
            good.replace(b".", b""),
            good[:16] + b"." + good[16:32] + good[33:],
            good[33:] + b"." + good[:32],
            good[:-1] + bytes([good[-1] ^ 1]),
            good[:2] + b"\t\t" + good[4:],
        ):
            self.assertFalse(self.door.admits(bad), bad)
        self.assertTrue(self.door.admits(good), "none of them has used it up")

    @given(name=st.one_of(st.binary(max_size=80), st.binary(min_size=65, max_size=65)))
    def test_any_other_bytes_are_refused(self, name: bytes) -> None:
        self.assertFalse(self.door.admits(name))

    spaced = st.text(st.sampled_from("0123456789abcdef. \t\n"), min_size=65, max_size=65)

    @given(name=spaced)
    def test_anything_that_looks_like_hex_is_refused(self, name: str) -> None:
        self.assertFalse(self.door.admits(name.encode()))

    @given(random=st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES), data=st.data())
    def test_every_knock_is_good_and_none_with_a_bit_changed(
        self, random: bytes, data: st.DataObject
    ) -> None:
        door, name = Door(BOB.device_id), knock(BOB.device_id, random)
        at = data.draw(st.integers(0, len(name) - 1))
        changed = bytearray(name)
        changed[at] = data.draw(st.integers(0, 255))
        assume(changed.lower() != name)
        self.assertFalse(door.admits(bytes(changed)))
        self.assertTrue(door.admits(name))
        self.assertFalse(door.admits(name))

    def test_the_last_4096_are_remembered_and_no_more(self) -> None:
        for count in range(MAX_REMEMBERED):
            self.assertTrue(self.door.admits(knock(BOB.device_id, number(count))))
        for count in range(MAX_REMEMBERED):
            self.assertFalse(self.door.admits(knock(BOB.device_id, number(count))))
        self.assertTrue(self.door.admits(knock(BOB.device_id, number(MAX_REMEMBERED))))
        self.assertFalse(self.door.admits(knock(BOB.device_id, number(1))))
        self.assertTrue(self.door.admits(knock(BOB.device_id, number(0))), "the oldest is gone")

    def test_what_is_refused_is_not_remembered(self) -> None:
        first = knock(BOB.device_id, number(0))
        self.assertTrue(self.door.admits(first))
        for count in range(2 * MAX_REMEMBERED):
            self.door.admits(knock(ALICE.device_id, number(count)))
            self.door.admits(number(count))
        self.assertFalse(self.door.admits(first))


class Seen:
    """A check of keys that takes every one, and notes them: a handshake may ask more than once."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()

    def __call__(self, key: bytes) -> None:
        self.keys.add(key)


class HandshakeTests(TestCase):
    """Knocking at a real TLS server."""

    def setUp(self) -> None:
        self.port = ChannelContexts(BOB)
        self.door: Callable[[bytes | None], bool] = Door(BOB.device_id).admits
        self.server_saw, self.client_saw = Seen(), Seen()

    def dial(
        self,
        server_name: bytes | None,
        *,
        identity: Identity = ALICE,
        wants_knock: bool = True,
    ) -> tuple[TlsEngine, TlsEngine, bytes]:
        """Let two engines talk until neither has more; return them, and what the server said."""
        client = ChannelContexts(identity).dial(self.client_saw, server_name)
        server = self.port.accept(self.server_saw, self.door if wants_knock else None)
        client.start()
        said = b""
        while sent := client.data_to_send():
            server.receive_data(sent)
            answer = server.data_to_send()
            said += answer
            client.receive_data(answer)
        return client, server, said

    def assert_shut(self, server_name: bytes | None) -> None:
        """Check that nobody learns anything with a server name."""
        client, server, said = self.dial(server_name)
        self.assertEqual((set(), set()), (self.client_saw.keys, self.server_saw.keys))
        self.assertTrue(server.closed)
        self.assertTrue(client.closed)
        self.assertFalse(client.established or server.established)
        self.assertIsNotNone(client.problem)
        # One alert record in plain text, and so neither a certificate nor a ServerHello.
        self.assertEqual((b"\x15", 7), (said[:1], len(said)))

    def test_who_knocks_gets_in(self) -> None:
        client, server, _ = self.dial(knock(BOB.device_id, os.urandom(RANDOM_BYTES)))
        self.assertTrue(client.established and server.established)
        self.assertEqual({BOB.public_key}, self.client_saw.keys)
        self.assertEqual({ALICE.public_key}, self.server_saw.keys)
        self.assertEqual((BOB.public_key, ALICE.public_key), (client.peer_key, server.peer_key))
        self.assertEqual(client.exporter(), server.exporter())
        client.send(b"hello")
        self.assertEqual(b"hello", server.receive_data(client.data_to_send()))
        server.send(b"and back")
        self.assertEqual(b"and back", client.receive_data(server.data_to_send()))

    def test_a_scanner_without_a_name_sees_no_certificate(self) -> None:
        self.assert_shut(None)

    def test_a_scanner_with_any_name_sees_no_certificate(self) -> None:
        for name in (b"localhost", b"example.org", b"a" * 65, b"0" * 32 + b"." + b"0" * 32):
            self.assert_shut(name)

    def test_who_wants_another_device_sees_no_certificate(self) -> None:
        self.assert_shut(knock(MALLORY.device_id, os.urandom(RANDOM_BYTES)))

    def test_who_repeats_a_knock_sees_no_certificate(self) -> None:
        name = knock(BOB.device_id, os.urandom(RANDOM_BYTES))
        self.dial(name)
        self.client_saw.keys.clear()
        self.server_saw.keys.clear()
        self.assert_shut(name)

    def test_a_wrong_knock_changes_nothing_for_the_next_one(self) -> None:
        self.assert_shut(None)
        client, server, _ = self.dial(knock(BOB.device_id, os.urandom(RANDOM_BYTES)))
        self.assertTrue(client.established and server.established)

    def test_the_certificate_itself_is_not_in_what_is_said(self) -> None:
        """In TLS 1.3 it is encrypted; who knocks is sent it, and an overhearer does not see it."""
        _, _, said = self.dial(knock(BOB.device_id, os.urandom(RANDOM_BYTES)))
        self.assertNotIn(BOB.public_key[-32:], said)

    def test_who_knows_nothing_about_knocking_admits_nobody(self) -> None:
        self.door = lambda name: False
        self.assert_shut(knock(BOB.device_id, os.urandom(RANDOM_BYTES)))

    def test_over_a_realm_nobody_knocks(self) -> None:
        client, server, _ = self.dial(None, wants_knock=False)
        self.assertTrue(client.established and server.established)

    @given(garbage=st.binary(min_size=1, max_size=200))
    def test_any_other_bytes_get_no_certificate(self, garbage: bytes) -> None:
        server = self.port.accept(self.server_saw, self.door)
        server.receive_data(garbage)
        self.assertLessEqual(len(server.data_to_send()), 7)
        self.assertFalse(server.established)
        self.assertEqual(set(), self.server_saw.keys)
