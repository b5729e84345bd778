"""The inbox: names that cannot harm, and a list that survives."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.agent import records as records_module
from abst.agent.home import Home
from abst.agent.inbox import MAX_NAME_BYTES, Inbox, plain_name
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Arrived, Records, Sending
from abst.database import Database

any_text = st.text(st.characters(), max_size=300)
"""Surrogates included: a name that is not Unicode on the sender's disk brings them."""


class PlainNameTests(SynchronousTestCase):
    """What becomes of a name that somebody else has chosen."""

    def test_only_the_last_part_of_a_path_is_kept(self) -> None:
        for name, plain in (
            ("photo.jpg", "photo.jpg"),
            ("/etc/passwd", "passwd"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\windows\\system.ini", "system.ini"),
            ("C:\\Users\\a\\b.txt", "b.txt"),
            ("folder/", "folder"),
            ("a//b///", "b"),
            ("\\\\server\\share\\x", "x"),
        ):
            self.assertEqual(plain, plain_name(name), name)

    def test_what_is_no_name_gets_one(self) -> None:
        for name in ("", ".", "..", "...", "/", "//", "\\", "../..", " ", ". .", "-", "~", "--- "):
            self.assertEqual("unnamed", plain_name(name), repr(name))

    def test_no_name_hides_or_reads_as_an_option(self) -> None:
        for name, plain in (
            (".bashrc", "bashrc"),
            ("..hidden", "hidden"),
            ("-rf", "rf"),
            ("--help", "help"),
            ("~root", "root"),
            (".-~ x", "x"),
            ("trailing. . ", "trailing"),
        ):
            self.assertEqual(plain, plain_name(name), name)

    def test_control_characters_go(self) -> None:
        self.assertEqual("a_b_c_d_e", plain_name("a\0b\nc\x1bd\x7fe"))
        self.assertEqual("harmless_gpj.exe", plain_name("harmless\u202egpj.exe"))
        self.assertEqual("caf_.txt", plain_name("caf\udce9.txt"))

    def test_other_languages_stay(self) -> None:
        for name in ("Übergröße.pdf", "写真.jpg", "😀.png", "naïve.txt", "a b.txt"):
            self.assertEqual(name, plain_name(name))

    def test_a_long_name_keeps_its_end(self) -> None:
        self.assertEqual("a" * (MAX_NAME_BYTES - 4) + ".jpg", plain_name("a" * 1000 + ".jpg"))
        shortened = plain_name("写" * 300 + ".tar")
        self.assertTrue(shortened.endswith("写.tar"))
        self.assertLessEqual(len(shortened.encode()), MAX_NAME_BYTES)
        self.assertEqual(MAX_NAME_BYTES, len(plain_name("x." + "y" * 1000)))

    @given(any_text)
    @example("a" * 250 + "." + "." * 4)
    @example("." * 300)
    @example("a" * 199 + " " + "b" * 50)
    @example("a" * 198 + "._ " + "b" * 50)
    @example("\udcff" * 255)
    @example("x" * 199 + "/.." + "\0")
    @example("a" * 190 + " ." * 30)
    def test_any_name_is_one_plain_entry(self, name: str) -> None:
        plain = plain_name(name)
        self.assertTrue(plain)
        self.assertLessEqual(len(os.fsencode(plain)), MAX_NAME_BYTES)
        self.assertNotIn("/", plain)
        self.assertNotIn("\\", plain)
        self.assertTrue(plain.isprintable())
        self.assertNotIn(plain[0], ".-~ ")
        self.assertEqual(plain, plain.strip())
        self.assertNotIn(plain, (".", ".."))
        self.assertEqual(plain, plain_name(plain), "it stays as it is")


class InboxTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Home(Path(self.mktemp()))
        self.home.path.mkdir(mode=0o700)
        self.database = Database(self.home.database, DATABASE_KIND, MIGRATIONS)
        self.addCleanup(self.database.close)
        self.inbox = Inbox(Records(self.database))


class ListTests(InboxTestCase):
    """The list of what has arrived."""

    def test_items_come_back_in_order_and_with_their_time(self) -> None:
        texts = ["0\nü", "\u2028\x85\r\n", "2 \udce9"]
        for text in texts:
            entry = self.inbox.add({"kind": "message", "text": text})
            self.assertRegex(entry["received_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")
        self.assertEqual(texts, [item["text"] for item in self.inbox.items()])
        self.assertEqual(0o600, self.home.database.stat().st_mode & 0o777)

    def test_an_inbox_that_never_got_anything_is_empty(self) -> None:
        self.assertEqual([], self.inbox.items())

    def test_the_oldest_gives_way(self) -> None:
        self.patch(records_module, "MAX_ITEMS", 50)
        for number in range(200):
            self.inbox.add({"kind": "message", "text": f"message {number}"})
        texts = [item["text"] for item in self.inbox.items()]
        self.assertEqual([f"message {number}" for number in range(150, 200)], texts)

    def test_what_is_not_committed_is_gone_with_its_session(self) -> None:
        self.inbox.add({"text": "kept"})
        self.database.commit()
        self.inbox.add({"text": "came with a packet that was not counted"})
        self.database.rollback()
        self.assertEqual(["kept"], [item["text"] for item in self.inbox.items()])


class TransferTests(InboxTestCase):
    """What is on record of transfers."""

    def setUp(self) -> None:
        super().setUp()
        self.records = self.inbox.records

    def test_what_is_being_sent_comes_back_in_order(self) -> None:
        sending = [Sending(bytes([n]) * 16, Path(f"/{9 - n}")) for n in range(5)]
        sending.append(Sending(bytes(range(16)), Path(os.fsdecode(b"/caf\xe9"))))
        for one in sending:
            self.records.begin_sending(b"bob", one)
        self.assertEqual(sending, self.records.sending(b"bob"))
        self.assertEqual([], self.records.sending(b"eve"))
        self.assertTrue(self.records.is_sending(sending[1].transfer))
        self.records.end_sending(sending[1].transfer)
        self.assertFalse(self.records.is_sending(sending[1].transfer))

    def test_what_arrived_is_remembered_for_each_device_and_not_for_ever(self) -> None:
        self.patch(records_module, "MAX_ARRIVED", 20)
        arrived = [Arrived(n.to_bytes(16, "big"), f"{n}.txt", bytes(32)) for n in range(50)]
        for one in arrived:
            self.records.add_arrived(b"eve", one)
        other = Arrived(bytes(range(16)), "other", bytes(32))
        self.records.add_arrived(b"bob", other)
        self.assertEqual(other, self.records.arrived(b"bob", other.transfer))
        self.assertIsNone(self.records.arrived(b"eve", other.transfer))
        known = [one for one in arrived if self.records.arrived(b"eve", one.transfer)]
        self.assertEqual(arrived[-20:], known)

    def test_what_is_of_a_forgotten_device_is_forgotten(self) -> None:
        for device in (b"bob", b"eve"):
            transfer = device.ljust(16)
            self.records.begin_sending(device, Sending(transfer, Path("/x")))
            self.records.add_arrived(device, Arrived(transfer, "x", bytes(32)))
        self.records.keep_only([b"bob"])
        self.assertEqual([], self.records.sending(b"eve"))
        self.assertIsNone(self.records.arrived(b"eve", b"eve".ljust(16)))
        self.assertIsNotNone(self.records.arrived(b"bob", b"bob".ljust(16)))

    def test_a_database_of_the_version_before_opens(self) -> None:
        path = self.home.path / "old.sqlite3"
        Database(path, DATABASE_KIND, MIGRATIONS[:2]).close()
        with sqlite3.connect(path) as old:
            old.execute('INSERT INTO inbox (item) VALUES (\'{"text": "kept"}\')')
            old.execute("INSERT INTO sending VALUES (x'00', x'00', x'00', 1, 1)")
        old.close()
        database = Database(path, DATABASE_KIND, MIGRATIONS)
        self.addCleanup(database.close)
        records = Records(database)
        self.assertEqual(["kept"], [item["text"] for item in records.items()])
        self.assertEqual([], records.sending(b"\0"))
