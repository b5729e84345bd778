"""The examples in tests/vectors/rosters.json: the code says what they say."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import TestCase

from abst.device.groups.entries import (
    STATEMENT_FIELDS,
    parse_entry,
    raw_key_of,
    sign_entry,
)
from abst.device.groups.roster import Roster
from abst.device.groups.roster_news import pack_news, read_news
from abst.errors import RemoteProtocolError
from abst.identity import Identity

VECTORS = Path(__file__).parent.parent.parent / "vectors" / "rosters.json"


def written(value: Any) -> Any:
    """Return a value as the file writes it."""
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return [written(item) for item in value]
        case _:
            return value


class RosterVectorTests(TestCase):
    def setUp(self) -> None:
        self.vectors = json.loads(VECTORS.read_text("utf-8"))
        self.devices = [
            Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(entry["private_key"])))
            for entry in self.vectors["devices"]
        ]
        self.keys = [raw_key_of(device) for device in self.devices]

    def test_devices(self) -> None:
        for entry, device, key in zip(
            self.vectors["devices"], self.devices, self.keys, strict=True
        ):
            self.assertEqual(entry["public_key"], key.hex())
            self.assertEqual(entry["device_id"], device.device_id.hex())

    def test_entries_are_read(self) -> None:
        self.assertEqual([*STATEMENT_FIELDS], [entry["kind"] for entry in self.vectors["entries"]])
        for vector in self.vectors["entries"]:
            entry = parse_entry(bytes.fromhex(vector["bytes"]))
            made, fields = STATEMENT_FIELDS[vector["kind"]]
            self.assertIsInstance(entry.statement, made)
            for name in ("sha256", "signer", "previous", "number", "standing"):
                self.assertEqual(vector[name], written(getattr(entry, name)), vector["name"])
            said = {item.name: written(getattr(entry.statement, item.name)) for item in fields}
            self.assertEqual(vector["statement"], said)

    def test_entries_are_written(self) -> None:
        """Whoever says the same, in the same order, signs the same bytes."""
        for vector in self.vectors["rosters"]:
            group_id, founder = (bytes.fromhex(vector[name]) for name in ("group_id", "founder"))
            known = {}
            for data in map(bytes.fromhex, vector["entries"]):
                entry = parse_entry(data)
                known[entry.sha256] = entry
                if entry.statement is None or vector["name"] == "entries of another kind are kept":
                    continue
                again = sign_entry(
                    self.devices[self.keys.index(entry.signer)],
                    group_id,
                    founder,
                    entry.statement,
                    previous=known.get(entry.previous),
                    standing=entry.standing,
                )
                self.assertEqual(entry, again, vector["name"])

    def test_rosters(self) -> None:
        for vector in self.vectors["rosters"]:
            entries = [bytes.fromhex(data) for data in vector["entries"]]
            passed_over = [bytes.fromhex(item["bytes"]) for item in vector["passed_over"]]
            one_by_one = self.roster(vector)
            for entry in entries:
                self.assertEqual([entry], one_by_one.merge([entry]), vector["name"])
                self.assertEqual([], one_by_one.merge(passed_over))
            backwards = self.roster(vector)
            self.assertEqual(len(entries), len(backwards.merge([*passed_over, *entries[::-1]])))
            for roster in (one_by_one, backwards):
                self.assertEqual(vector, {**vector, **self.outcome(roster, vector)})
                for item in vector["passed_over"]:
                    self.assertEqual([], roster.merge([bytes.fromhex(item["bytes"])]), item["name"])

    def test_news(self) -> None:
        for vector in self.vectors["news"]:
            content = bytes.fromhex(vector["bytes"])
            said: list[str] | None = None
            with contextlib.suppress(RemoteProtocolError):
                said = [entry.hex() for entry in read_news(content)]
            self.assertEqual(vector["entries"], said, vector["name"])

    def test_news_are_written(self) -> None:
        first = self.vectors["news"][0]
        said = pack_news([bytes.fromhex(entry) for entry in first["entries"]])
        self.assertEqual(first["bytes"], said.hex())

    def roster(self, vector: dict[str, Any]) -> Roster:
        return Roster(bytes.fromhex(vector["group_id"]), bytes.fromhex(vector["founder"]))

    def outcome(self, roster: Roster, vector: dict[str, Any]) -> dict[str, Any]:
        epoch_keys = [bytes.fromhex(key) for key in vector["epoch_keys"]]
        members = [
            {
                "device": self.keys.index(member.public_key),
                "name": member.name,
                "generation": member.generation,
            }
            for member in roster.members().values()
        ]
        return {
            "digest": roster.digest().hex(),
            "members": sorted(members, key=lambda member: member["device"]),
            "were_members": [
                number
                for number, device in enumerate(self.devices)
                if roster.was_member(device.device_id) == self.keys[number]
            ],
            "group_name": roster.name(),
            "realms": list(roster.realms()),
            "have_to_move": [
                number
                for number, key in enumerate(self.keys)
                if roster.pending_removals(key, epoch_keys)
            ],
        }
