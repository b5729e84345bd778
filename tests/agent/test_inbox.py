"""The inbox: a list that survives."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from abst.agent import records as records_module
from abst.agent.home import Home
from abst.agent.inbox import Inbox
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Arrived, Records, Sending
from abst.database import Database


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
