"""The keys of groups: what follows from the seeds, and which seeds are not taken."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import TestCase

from abst.device.groups.keys import GroupKeys
from abst.device_id import DeviceID
from abst.errors import GroupError, MissingEpochError
from abst.group_proofs import allows_move, proves
from abst.identity import Identity
from abst.packets import MAX_EPOCHS, MAX_NAME_BYTES
from tests.device.groups.doubles import group_keys, member

NONCE = bytes(range(32))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256, written from RFC 5869."""
    pseudorandom_key = hmac.digest(salt, secret, "sha256")
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")


class DerivedTests(TestCase):
    def test_the_group_has_the_id_of_a_device_with_its_first_key(self) -> None:
        keys = group_keys(3)
        first = Identity(Ed25519PrivateKey.from_private_bytes(keys.seeds[0]))
        self.assertEqual(first.device_id, keys.group_id)
        self.assertIsInstance(keys.group_id, DeviceID)
        self.assertEqual(first.private_key.public_key().public_bytes_raw(), keys.public_key(0))

    def test_keys_are_derived_as_written(self) -> None:
        keys = group_keys(2)
        for epoch, seed in enumerate(keys.seeds):
            salt = bytes(keys.group_id)
            self.assertEqual(hkdf(seed, salt, b"ABST group messages 1"), keys.message_key(epoch))
            self.assertEqual(hkdf(seed, salt, b"ABST group values 1"), keys.value_key(epoch))
        name_key = hkdf(keys.seeds[0], bytes(keys.group_id), b"ABST group names 1")
        self.assertEqual(name_key, keys.name_key)
        hidden = hmac.new(name_key, b"light/kitchen", hashlib.sha256).digest()
        self.assertEqual(hidden, keys.hidden_name(b"light/kitchen"))

    def test_a_name_looks_the_same_in_every_epoch_and_another_in_every_group(self) -> None:
        one, later, other = group_keys(), group_keys(2), group_keys(group=101)
        self.assertEqual(one.hidden_name(b"a"), later.hidden_name(b"a"))
        self.assertNotEqual(one.hidden_name(b"a"), other.hidden_name(b"a"))

    def test_names_have_a_length(self) -> None:
        keys = group_keys()
        keys.hidden_name(bytes(MAX_NAME_BYTES))
        for name in (b"", bytes(MAX_NAME_BYTES + 1)):
            self.assertRaises(GroupError, keys.hidden_name, name)

    def test_an_epoch_that_is_not_held_is_named(self) -> None:
        keys = group_keys(2)
        for ask in (keys.public_key, keys.message_key, keys.value_key, keys.until):
            for epoch in (2, MAX_EPOCHS):
                error = self.assertRaises(MissingEpochError, ask, epoch)
                self.assertEqual(epoch, error.epoch)

    def test_no_key_is_shown(self) -> None:
        keys = group_keys(2)
        keys.message_key(0)
        shown = f"{keys!r} {keys}"
        self.assertEqual(f"<GroupKeys of {keys.group_id}, epoch 1>", repr(keys))
        for secret in (*keys.seeds, keys.message_key(0)):
            self.assertNotIn(repr(secret), shown)
            self.assertNotIn(secret.hex(), shown)


class EpochTests(TestCase):
    def test_a_new_group_is_in_epoch_0(self) -> None:
        keys = GroupKeys.create(lambda count: bytes([7]) * count)
        self.assertEqual((0, (bytes([7]) * 32,)), (keys.epoch, keys.seeds))

    def test_a_next_epoch_leaves_the_group_what_it_is(self) -> None:
        keys = group_keys()
        moved = keys.with_next(bytes(32))
        self.assertEqual((0, 1), (keys.epoch, moved.epoch))
        self.assertEqual(keys.group_id, moved.group_id)
        self.assertEqual(keys, moved.until(0))
        self.assertNotEqual(moved.message_key(0), moved.message_key(1))

    def test_seeds_of_another_member_are_added(self) -> None:
        all_keys = group_keys(4)
        self.assertEqual(all_keys, all_keys.until(1).extended_by(list(all_keys.seeds)))

    def test_older_news_change_nothing(self) -> None:
        keys = group_keys(3)
        self.assertIs(keys, keys.extended_by(keys.seeds[:1]))
        self.assertIs(keys, keys.extended_by(keys.seeds))

    def test_seeds_of_another_group_or_another_branch_are_refused(self) -> None:
        keys = group_keys(2)
        other = keys.until(0).with_next(bytes(32))
        for seeds in (group_keys(3, group=101).seeds, other.seeds, (*other.seeds, bytes(32))):
            self.assertRaises(GroupError, keys.extended_by, seeds)

    def test_seeds_that_are_none_are_refused(self) -> None:
        keys = group_keys()
        for seeds in ((), (bytes(31),), (bytes(32),) * (MAX_EPOCHS + 1)):
            self.assertRaises(GroupError, GroupKeys, seeds)
        self.assertRaises(GroupError, keys.with_next, bytes(33))
        self.assertRaises(GroupError, keys.extended_by, (*keys.seeds, bytes(1)))

    def test_there_are_so_many_epochs_and_no_more(self) -> None:
        keys = GroupKeys(tuple(number.to_bytes(32, "big") for number in range(MAX_EPOCHS)))
        self.assertEqual(MAX_EPOCHS - 1, keys.epoch)
        self.assertRaises(GroupError, keys.with_next, bytes(32))


class SignatureTests(TestCase):
    def test_a_proof_is_good_for_what_it_was_made_for_alone(self) -> None:
        keys = group_keys(2)
        device_id = member(1).device_id
        right: dict[str, Any] = {
            "nonce": NONCE,
            "device_id": device_id,
            "group": keys.group_id,
            "epoch": 1,
        }
        key, proof = keys.public_key(1), keys.proof(NONCE, device_id)
        self.assertTrue(proves(proof, key=key, **right))
        wrong = {
            "nonce": bytes(32),
            "device_id": member(2).device_id,
            "group": group_keys(group=101).group_id,
            "epoch": 0,
        }
        for name, value in wrong.items():
            self.assertFalse(proves(proof, key=key, **{**right, name: value}), name)
        self.assertFalse(proves(proof, key=keys.public_key(0), **right))
        self.assertFalse(proves(bytes(64), key=key, **right))
        self.assertFalse(proves(proof[:-1], key=key, **right))
        self.assertFalse(proves(proof, key=key[:-1], **right))

    def test_a_move_is_signed_by_the_epoch_before_it(self) -> None:
        keys = group_keys(2)
        new_key = keys.public_key(1)
        signature = keys.until(0).move_signature(new_key)
        group_id = keys.group_id
        first = keys.public_key(0)
        right: dict[str, Any] = {"group": group_id, "epoch": 1, "key": new_key}
        self.assertTrue(allows_move(signature, present_key=first, **right))
        self.assertFalse(allows_move(signature, present_key=new_key, **right))
        wrong = {"group": member(1).device_id, "epoch": 2, "key": first}
        for name, value in wrong.items():
            changed = {**right, name: value}
            self.assertFalse(allows_move(signature, present_key=first, **changed), name)
