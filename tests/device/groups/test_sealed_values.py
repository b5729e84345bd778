"""Sealed values: what a member reads in one, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgpack
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device.groups.keys import derive
from abst.device.groups.sealed_values import ValueWord, epoch_of, open_value, seal
from abst.errors import DishonestRealmError, GroupError, MissingEpochError
from abst.packets import MAX_EPOCHS, MAX_NAME_BYTES, MAX_SEALED_VALUE_BYTES, MAX_VALUE_BYTES
from tests.device.groups.doubles import group_keys, member, raw_key

ALICE, BOB = member(1), member(2)
SALT = bytes(range(16))
WORD = ValueWord(
    ALICE.device_id, b"light/kitchen", b"on", 3, 9, bytes(range(32)), 1_700_000_000_000
)
MAP = {
    "writer": bytes(ALICE.device_id),
    "name": b"light/kitchen",
    "value": b"on",
    "replaces": 3,
    "revision": 9,
    "head": bytes(range(32)),
    "milliseconds": 1_700_000_000_000,
}


def roster(device_id: bytes) -> bytes | None:
    """Return the key of a member."""
    found: dict[bytes, bytes] = {who.device_id: raw_key(who) for who in (ALICE, BOB)}
    return found.get(device_id)


class SealedValueTests(TestCase):
    def setUp(self) -> None:
        self.keys = group_keys(2)
        self.hidden = self.keys.hidden_name(WORD.name)

    def open(self, sealed: bytes, hidden: bytes | None = None) -> ValueWord:
        return open_value(self.keys, hidden or self.hidden, sealed, roster)

    def seal_bytes(self, rest: bytes, hidden: bytes | None = None) -> bytes:
        """Seal whatever is signed by Alice: what a member could do that does not keep to rules."""
        header = self.keys.epoch.to_bytes(4, "big") + SALT
        associated = self.keys.group_id + (hidden or self.hidden) + header
        signature = ALICE.private_key.sign(b"ABST group value 1" + associated + rest)
        key = derive(self.keys.value_key(self.keys.epoch), SALT, b"ABST group value 1")
        return header + ChaCha20Poly1305(key).encrypt(bytes(12), signature + rest, associated)

    def assert_refused(self, kind: str, sealed: bytes, hidden: bytes | None = None) -> None:
        error = self.assertRaises(DishonestRealmError, self.open, sealed, hidden)
        self.assertEqual(kind, error.kind)
        self.assertNotIn("kitchen", str(error))

    def test_what_was_sealed_is_read(self) -> None:
        for word in (WORD, replace(WORD, value=None), replace(WORD, value=b"", seconds=60)):
            sealed = seal(self.keys, ALICE, word, SALT)
            self.assertEqual(word, self.open(sealed))
            self.assertEqual(1, epoch_of(sealed))

    def test_the_form_is_as_written(self) -> None:
        self.assertEqual(self.seal_bytes(msgpack.packb(MAP)), seal(self.keys, ALICE, WORD, SALT))

    def test_unknown_keys_are_ignored(self) -> None:
        self.assertEqual(WORD, self.open(self.seal_bytes(msgpack.packb({**MAP, "new": [1]}))))

    def test_the_realm_reads_neither_name_nor_value(self) -> None:
        sealed = seal(self.keys, ALICE, replace(WORD, value=b"a long secret value"), SALT)
        for secret in (b"light", b"secret", bytes(ALICE.device_id)):
            self.assertNotIn(secret, sealed)

    def test_the_largest_value_fits(self) -> None:
        name, value, most = bytes([1]) * MAX_NAME_BYTES, bytes(MAX_VALUE_BYTES), 2**63 - 1
        largest = ValueWord(ALICE.device_id, name, value, most, most, bytes(32), most, most)
        sealed = seal(self.keys, ALICE, largest, SALT)
        self.assertLessEqual(len(sealed), MAX_SEALED_VALUE_BYTES)
        self.assertEqual(largest, self.open(sealed, self.keys.hidden_name(largest.name)))

    def test_what_others_would_refuse_is_not_sealed(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"value": bytes(MAX_VALUE_BYTES + 1)},
            {"name": b""},
            {"name": bytes(MAX_NAME_BYTES + 1)},
            {"writer": BOB.device_id},
            {"head": b""},
            {"revision": -1},
            {"milliseconds": 2**63},
        ]
        for fields in wrong:
            self.assertRaises(GroupError, seal, self.keys, ALICE, replace(WORD, **fields), SALT)
        self.assertRaises(GroupError, seal, self.keys, ALICE, WORD, SALT[:-1])

    def test_a_value_under_another_name(self) -> None:
        """Its seal covers the name; a member's own lie about it is found inside."""
        other = self.keys.hidden_name(b"door")
        self.assert_refused("forged", seal(self.keys, ALICE, WORD, SALT), other)
        self.assert_refused("wrong_name", self.seal_bytes(msgpack.packb(MAP), other), other)

    def test_a_writer_who_never_was_a_member(self) -> None:
        stranger = member(9)
        word = replace(WORD, writer=stranger.device_id)
        self.assert_refused("forged", seal(self.keys, stranger, word, SALT))

    def test_a_member_cannot_write_for_another(self) -> None:
        self.assert_refused(
            "forged", self.seal_bytes(msgpack.packb({**MAP, "writer": bytes(BOB.device_id)}))
        )

    def test_a_malformed_word(self) -> None:
        for key in MAP:
            if key != "value":
                short = {name: item for name, item in MAP.items() if name != key}
                self.assert_refused("forged", self.seal_bytes(msgpack.packb(short)))
            wrongs: list[Any] = ["text", -1, 1.0, True, [], bytes(MAX_VALUE_BYTES + 1)]
            for wrong in wrongs:
                self.assert_refused("forged", self.seal_bytes(msgpack.packb({**MAP, key: wrong})))
        good = msgpack.packb(MAP)
        for rest in (b"", b"\x93\1\2\3", good[:-1], good + b"\0", b"\xc1", b"\xdf" + b"\xff" * 9):
            self.assert_refused("forged", self.seal_bytes(rest))

    def test_an_epoch_that_is_not_held_is_named(self) -> None:
        newer = self.keys.with_next(bytes(32))
        sealed = seal(newer, ALICE, WORD, SALT)
        error = self.assertRaises(MissingEpochError, self.open, sealed)
        self.assertEqual(2, error.epoch)
        self.keys = newer
        self.assertEqual(WORD, self.open(sealed))
        self.assert_refused("forged", MAX_EPOCHS.to_bytes(4, "big") + sealed[4:])

    def test_old_epochs_stay_readable(self) -> None:
        sealed = seal(self.keys.until(0), ALICE, WORD, SALT)
        self.assertEqual((0, WORD), (epoch_of(sealed), self.open(sealed)))

    def test_every_byte_counts(self) -> None:
        sealed = seal(self.keys, ALICE, WORD, SALT)
        for at in range(len(sealed)):
            changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            with self.assertRaises((DishonestRealmError, MissingEpochError)):
                self.open(changed)

    def test_one_that_is_larger_than_any_is_not_even_read(self) -> None:
        self.assert_refused("forged", bytes(MAX_SEALED_VALUE_BYTES + 1))

    def test_a_salt_makes_it_another_one(self) -> None:
        both = {
            hashlib.sha256(seal(self.keys, ALICE, WORD, bytes([n]) * 16)).digest() for n in (1, 2)
        }
        self.assertEqual(2, len(both))

    @settings(max_examples=50)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused(self, content: bytes) -> None:
        self.setUp()
        for sealed in (content, bytes(4) + content):
            with self.assertRaises((DishonestRealmError, MissingEpochError)):
                self.open(sealed)
        self.assert_refused("forged", self.seal_bytes(content))
