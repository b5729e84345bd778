"""The examples of groups' keys, messages, and values: the code says what they say, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from abst.device.groups.keys import GroupKeys, derive
from abst.device.groups.messages import MessageReader, MessageRefusedError, MessageWriter
from abst.device.groups.sealed_values import ValueWord, open_value, seal
from abst.device_id import DeviceID
from abst.errors import DishonestRealmError, MissingEpochError
from abst.group_proofs import allows_move, proves
from abst.value_history import next_head
from tests.device.groups.doubles import raw_key
from tests.test_vectors import identities

VECTORS = Path(__file__).parent.parent.parent / "vectors"
IDENTITIES = identities()
ROSTER: dict[bytes, bytes] = {who.device_id: raw_key(who) for who in IDENTITIES[:2]}


def load(file: str, key: str) -> list[dict[str, Any]]:
    """Return the entries of one list."""
    found: list[dict[str, Any]] = json.loads((VECTORS / file).read_text("utf-8"))[key]
    return found


def keys_of(entry: dict[str, Any]) -> GroupKeys:
    """Return the keys of the group that an entry is about."""
    return GroupKeys(tuple(map(bytes.fromhex, entry["seeds"])))


class GroupTests(TestCase):
    def test_keys(self) -> None:
        for entry in load("groups.json", "keys"):
            keys = keys_of(entry)
            epochs = [
                {
                    "public_key": keys.public_key(epoch).hex(),
                    "message_key": keys.message_key(epoch).hex(),
                    "value_key": keys.value_key(epoch).hex(),
                }
                for epoch in range(keys.epoch + 1)
            ]
            found = {
                "name": entry["name"],
                "seeds": [seed.hex() for seed in keys.seeds],
                "group_id": keys.group_id.hex(),
                "name_key": keys.name_key.hex(),
                "epochs": epochs,
            }
            self.assertEqual(entry, found)

    def test_proofs_and_moves_are_right(self) -> None:
        for entry in load("groups.json", "proofs"):
            key, proof, nonce, device_id, group_id = (
                bytes.fromhex(entry[field])
                for field in ("key", "proof", "nonce", "device_id", "peer_group")
            )
            epoch = entry["epoch"]
            about = {"nonce": nonce, "device_id": device_id, "group": group_id, "key": key}
            self.assertTrue(proves(proof, **about, epoch=epoch), entry["name"])
            self.assertFalse(proves(proof, **about, epoch=epoch + 1), entry["name"])
        for entry in load("groups.json", "moves"):
            key, signature, group_id, new_key = (
                bytes.fromhex(entry[field])
                for field in ("present_key", "signature", "peer_group", "key")
            )
            right = allows_move(
                signature, group=group_id, epoch=entry["epoch"], key=new_key, present_key=key
            )
            self.assertTrue(right, entry["name"])

    def test_messages_are_sealed_so(self) -> None:
        for entry in load("groups.json", "messages"):
            if entry["refused"] is not None:
                continue
            keys, sender = keys_of(entry), IDENTITIES[entry["sender"]]
            writer = MessageWriter(sender, entry["stream"])
            writer.counter, writer.place = entry["counter"], entry["place"]
            sealed = writer.seal(
                keys,
                bytes.fromhex(entry["content"]),
                entry["revision"],
                bytes.fromhex(entry["head"]),
                entry["kind"],
            )
            self.assertEqual(entry["bytes"], sealed.hex(), entry["name"])
            info = b"ABST group stream 1" + sender.device_id
            key = derive(keys.message_key(keys.epoch), sealed[4:12], info)
            self.assertEqual(entry["stream_key"], key.hex(), entry["name"])

    def test_messages_are_read_so(self) -> None:
        for entry in load("groups.json", "messages"):
            sender = IDENTITIES[entry["sender"]]
            last = [] if entry["last"] is None else [(sender.device_id, *entry["last"])]
            reader = MessageReader(IDENTITIES[entry["receiver"]].device_id, last)
            found: dict[str, Any] = {"refused": None}
            try:
                opened = reader.open(
                    *(keys_of(entry), sender.device_id, raw_key(sender)),
                    bytes.fromhex(entry["bytes"]),
                )
            except MessageRefusedError as error:
                found = {"refused": error.kind}
            except MissingEpochError as error:
                found = {"refused": "missing_epoch", "epoch": error.epoch}
            else:
                (heard,) = reader.rows()
                self.assertEqual(entry["place"] + (entry["kind"] == 0), heard[-1], entry["name"])
                found |= {
                    "kind": opened.kind,
                    "content": opened.content.hex(),
                    "missing": opened.missing,
                    "revision": opened.revision,
                    "head": opened.head.hex(),
                    "stream": opened.stream,
                    "counter": opened.counter,
                }
            self.assertEqual(found, {key: entry[key] for key in found}, entry["name"])

    def test_every_way_to_refuse_a_message_has_a_vector(self) -> None:
        kinds = {entry["refused"] for entry in load("groups.json", "messages")}
        self.assertEqual({None, "replayed", "forged", "missing_epoch"}, kinds)


class ValueTests(TestCase):
    def test_names(self) -> None:
        for entry in load("values.json", "names"):
            keys = GroupKeys((bytes.fromhex(entry["seed"]),))
            hidden = keys.hidden_name(bytes.fromhex(entry["value_name"]))
            self.assertEqual(entry["hidden_name"], hidden.hex(), entry["name"])

    def test_histories(self) -> None:
        for entry in load("values.json", "history"):
            before, name, digest = (
                bytes.fromhex(entry[field]) for field in ("before", "value_name", "hash")
            )
            head = next_head(before, entry["revision"], name, digest)
            self.assertEqual(entry["head"], head.hex(), entry["name"])

    def word(self, entry: dict[str, Any]) -> ValueWord:
        """Return the word that an entry is about."""
        written = entry["word"]
        return ValueWord(
            DeviceID(bytes.fromhex(written["writer"])),
            bytes.fromhex(written["name"]),
            None if written["value"] is None else bytes.fromhex(written["value"]),
            written["replaces"],
            written["revision"],
            bytes.fromhex(written["head"]),
            written["milliseconds"],
            written["seconds"],
        )

    def test_values_are_sealed_so(self) -> None:
        for entry in load("values.json", "values"):
            if entry["refused"] is None:
                keys, salt = keys_of(entry), bytes.fromhex(entry["salt"])
                sealed = seal(keys, IDENTITIES[entry["writer"]], self.word(entry), salt)
                self.assertEqual(entry["bytes"], sealed.hex(), entry["name"])
                key = derive(keys.value_key(keys.epoch), salt, b"ABST group value 1")
                self.assertEqual(entry["key"], key.hex(), entry["name"])

    def test_values_are_read_so(self) -> None:
        for entry in load("values.json", "values"):
            hidden, sealed = map(bytes.fromhex, (entry["hidden_name"], entry["bytes"]))
            refused: str | None = None
            try:
                word = open_value(keys_of(entry), hidden, sealed, ROSTER.get)
            except DishonestRealmError as error:
                refused = error.kind
            except MissingEpochError:
                refused = "missing_epoch"
            else:
                self.assertEqual(self.word(entry), word, entry["name"])
            self.assertEqual(entry["refused"], refused, entry["name"])

    def test_every_way_to_refuse_a_value_has_a_vector(self) -> None:
        kinds = {entry["refused"] for entry in load("values.json", "values")}
        self.assertEqual({None, "forged", "wrong_name", "missing_epoch"}, kinds)
