"""Announcements: what a stranger reads in one, who recognises it, and what is not believed."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.device.announcement import (
    HASH_BYTES,
    INSTANCE_BYTES,
    MAX_STRING_BYTES,
    NONCE_BYTES,
    Announcement,
    OpenAnnouncement,
    announcement_hash,
    fitting_name,
    parse,
    recognise,
)
from abst.device_id import DeviceID
from abst.identity import Identity
from abst.packets import MAX_COUNT, MAX_NAME_CHARACTERS
from tests.test_spec import numbers, page, plain, table

VECTORS = Path(__file__).parent.parent / "vectors" / "discovery.json"
ALICE = Identity.generate().device_id
BOB = Identity.generate().device_id
INSTANCE = "0123456789abcdef"

_texts = st.text(max_size=300)
_values = st.none() | st.binary(max_size=300) | _texts.map(lambda text: text.encode("utf-8"))
_hex = st.binary(min_size=7, max_size=9).map(lambda data: data.hex().encode())
_properties = st.fixed_dictionaries(
    {},
    optional={
        b"v": st.sampled_from([b"1", b"2", b"", None]),
        b"n": _hex | _values,
        b"h": _hex | _values,
        b"id": st.just(str(ALICE).encode()) | _values,
        b"name": _values,
        b"number": st.integers().map(lambda number: str(number).encode()) | _values,
        b"more": _values,
    },
)
_instances = st.just(INSTANCE) | _texts


def draw(seed: int) -> random.Random:
    """Return randomness that a test can repeat."""
    return random.Random(seed)


class AnnouncementTests(SynchronousTestCase):
    def test_who_knows_the_id_recognises_it(self) -> None:
        found = Announcement.make(ALICE, draw(1).randbytes)
        self.assertTrue(found.matches(ALICE))
        self.assertFalse(found.matches(BOB))
        self.assertEqual(ALICE, recognise(found, [BOB, ALICE]))
        self.assertIsNone(recognise(found, [BOB]))
        self.assertIsNone(recognise(found, []))

    def test_a_stranger_reads_nothing_of_the_device(self) -> None:
        """Neither the ID, nor anything that two announcements of one device have in common."""
        source = draw(2).randbytes
        first, second = (Announcement.make(ALICE, source) for _ in range(2))
        said = [
            {found.instance.encode(), *found.properties().values()} for found in (first, second)
        ]
        self.assertEqual({b"1"}, said[0] & said[1])
        for text in (str(ALICE).encode(), ALICE.hex().encode(), bytes(ALICE)):
            self.assertFalse(any(text in value for value in said[0] | said[1]))

    def test_the_hash_is_the_specifications(self) -> None:
        found = Announcement.make(ALICE, draw(3).randbytes)
        whole = hashlib.sha256(b"ABST announcement 1" + found.nonce + bytes(ALICE)).digest()
        self.assertEqual(whole[:8], found.hash)
        self.assertEqual((8, 8, 8), (HASH_BYTES, NONCE_BYTES, INSTANCE_BYTES))

    def test_it_is_read_as_it_is_written(self) -> None:
        found = Announcement.make(ALICE, draw(4).randbytes)
        self.assertEqual(found, parse(found.instance, found.properties()))
        self.assertEqual(found, parse(found.instance, {**found.properties(), b"more": b"words"}))


class OpenAnnouncementTests(SynchronousTestCase):
    @given(_texts, st.none() | st.integers(0, MAX_COUNT))
    def test_it_is_read_as_it_is_written(self, name: str, number: int | None) -> None:
        found = OpenAnnouncement.make(ALICE, name, number, draw(5).randbytes)
        self.assertEqual(found, parse(found.instance, found.properties()))
        self.assertEqual(ALICE, recognise(found, [BOB, ALICE]))
        for key, value in found.properties().items():
            self.assertLessEqual(len(key) + 1 + len(value), MAX_STRING_BYTES)

    def test_no_name_and_no_number(self) -> None:
        found = OpenAnnouncement.make(ALICE, "", None, draw(6).randbytes)
        self.assertEqual({b"v", b"id"}, set(found.properties()))

    @given(_texts)
    def test_names_are_printable_and_short(self, name: str) -> None:
        found = fitting_name(name)
        self.assertTrue(found.isprintable())
        self.assertLessEqual(len(found), MAX_NAME_CHARACTERS)
        self.assertLessEqual(len(b"name=" + found.encode()), MAX_STRING_BYTES)

    def test_a_name_is_cut_between_letters(self) -> None:
        self.assertEqual("\U0001f600" * 62, fitting_name("\U0001f600" * 70))

    def test_a_name_cannot_disturb_a_terminal(self) -> None:
        text = "lap\x1b[31mtop\n\u202e".encode()
        properties = {b"v": b"1", b"id": str(ALICE).encode(), b"name": text}
        self.assertEqual(
            OpenAnnouncement(INSTANCE, ALICE, "lap[31mtop"), parse(INSTANCE, properties)
        )


class ParseTests(SynchronousTestCase):
    @given(_instances, _properties)
    def test_anything_gives_an_announcement_or_none(
        self, instance: str, properties: dict[bytes, bytes | None]
    ) -> None:
        match parse(instance, properties):
            case None:
                pass
            case Announcement() as found:
                self.assertEqual((NONCE_BYTES, HASH_BYTES), (len(found.nonce), len(found.hash)))
                found.matches(ALICE)
            case OpenAnnouncement() as found:
                self.assertIsInstance(found.device_id, DeviceID)
                self.assertTrue(found.name.isprintable())
                self.assertTrue(found.number is None or 0 <= found.number <= MAX_COUNT)


class VectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.vectors = json.loads(VECTORS.read_text("utf-8"))

    def properties(self, entry: Any) -> dict[bytes, bytes | None]:
        """Return an entry's properties as a TXT record has them."""
        return {
            key.encode(): None if value is None else value.encode()
            for key, value in entry["properties"].items()
        }

    def test_announcements(self) -> None:
        for entry in self.vectors["announcements"]:
            device_id = DeviceID(bytes.fromhex(entry["device_id"]))
            nonce = bytes.fromhex(entry["nonce"])
            made = Announcement(entry["instance"], nonce, announcement_hash(nonce, device_id))
            self.assertEqual(entry["hash"], made.hash.hex(), entry["name"])
            self.assertEqual(self.properties(entry), made.properties(), entry["name"])
            self.assertEqual(made, parse(entry["instance"], self.properties(entry)), entry["name"])

    def test_open_announcements(self) -> None:
        for entry in self.vectors["open_announcements"]:
            device_id = DeviceID(bytes.fromhex(entry["device_id"]))
            made = OpenAnnouncement(
                entry["instance"], device_id, entry["device_name"], entry["number"]
            )
            self.assertEqual(self.properties(entry), made.properties(), entry["name"])
            self.assertEqual(made, parse(entry["instance"], self.properties(entry)), entry["name"])

    def test_what_is_refused(self) -> None:
        for entry in self.vectors["refused"]:
            self.assertIsNone(parse(entry["instance"], self.properties(entry)), entry["name"])


class SpecificationTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        found = numbers(page("discovery.md"), "Numbers")
        expected = {
            "bytes of an instance, before they are written as digits": INSTANCE_BYTES,
            "bytes of a nonce": NONCE_BYTES,
            "bytes of the hash that are announced": HASH_BYTES,
            "bytes of one string in a TXT record, with its key": MAX_STRING_BYTES,
            "characters of a name, at most": MAX_NAME_CHARACTERS,
        }
        self.assertEqual(expected, {name: found[name] for name in expected})

    def test_keys(self) -> None:
        tables = {
            heading: {plain(row["key"]) for row in table(page("discovery.md"), heading, "key")}
            for heading in ("The announcement", "While pairing")
        }
        source = draw(7).randbytes
        made = {
            "The announcement": Announcement.make(ALICE, source).properties(),
            "While pairing": OpenAnnouncement.make(ALICE, "laptop", 7, source).properties(),
        }
        self.assertEqual(
            tables, {heading: {key.decode() for key in found} for heading, found in made.items()}
        )
