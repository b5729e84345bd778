"""The inbox: names that cannot harm, files that are whole, and a list that survives."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final
from unittest import SkipTest

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.agent import records as records_module
from abst.agent.home import Home
from abst.agent.inbox import (
    MAX_NAME_BYTES,
    PARTIAL_SUFFIX,
    SPARE_DISK_BYTES,
    Inbox,
    StorageError,
    plain_name,
)
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Arriving, Records
from abst.database import Database

TRANSFER: Final = bytes(range(16))
DATABASE_FILES: Final = {f"device.sqlite3{suffix}" for suffix in ("", "-wal", "-shm")}
CONTENT: Final = b"some content\n" * 100

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
        self.inbox = Inbox(self.home, Records(self.database))

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.home.inbox.iterdir())

    def arrive(self, name: str, content: bytes = CONTENT) -> Path:
        file = self.inbox.open_file(name, len(content), os.urandom(16))
        file.write(0, content)
        return file.finish(hashlib.sha256(content).digest())


class ArrivingFileTests(InboxTestCase):
    """A file grows under a temporary name, and gets its own when it is whole."""

    def test_it_has_its_name_when_it_is_whole(self) -> None:
        file = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        self.assertTrue(file.write(0, CONTENT[:500]))
        self.assertEqual([f".{TRANSFER.hex()}{PARTIAL_SUFFIX}"], self.names)
        self.assertTrue(file.write(500, CONTENT[500:]))
        path = file.finish(hashlib.sha256(CONTENT).digest())
        self.assertEqual(["a.txt"], self.names)
        self.assertEqual(CONTENT, path.read_bytes())
        self.assertEqual(0o600, path.stat().st_mode & 0o777)
        self.assertEqual(0o700, self.home.inbox.stat().st_mode & 0o777)

    def test_an_empty_file_is_a_file(self) -> None:
        self.assertEqual(b"", self.arrive("empty", b"").read_bytes())

    def test_an_existing_file_is_never_overwritten(self) -> None:
        self.arrive("a.txt", b"first")
        self.assertEqual("a (1).txt", self.arrive("a.txt", b"second").name)
        self.assertEqual("a (2).txt", self.arrive("../a.txt", b"third").name)
        self.assertEqual(b"first", (self.home.inbox / "a.txt").read_bytes())
        self.arrive("README", b"1")
        self.assertEqual("README (1)", self.arrive("README", b"2").name)

    def test_a_folder_of_that_name_is_left_alone(self) -> None:
        (self.home.inbox / "a.txt").mkdir(parents=True)
        self.assertEqual("a (1).txt", self.arrive("a.txt").name)

    def test_a_symbolic_link_is_not_followed(self) -> None:
        """Not one to a file outside, and not one to nowhere."""
        self.home.inbox.mkdir()
        victim = self.home.path / "victim"
        victim.write_text("untouched")
        (self.home.inbox / "a.txt").symlink_to(victim)
        (self.home.inbox / "b.txt").symlink_to(self.home.path / "nowhere")
        self.assertEqual("a (1).txt", self.arrive("a.txt").name)
        self.assertEqual("b (1).txt", self.arrive("b.txt").name)
        self.assertEqual("untouched", victim.read_text())
        self.assertFalse((self.home.path / "nowhere").exists())

    def test_a_link_in_place_of_the_temporary_name_is_not_followed(self) -> None:
        self.home.inbox.mkdir()
        victim = self.home.path / "victim"
        victim.write_text("untouched")
        (self.home.inbox / f".{TRANSFER.hex()}{PARTIAL_SUFFIX}").symlink_to(victim)
        self.assertRaises(StorageError, self.inbox.open_file, "a.txt", 1, TRANSFER)
        self.assertEqual("untouched", victim.read_text())

    @given(any_text)
    def test_any_name_lands_in_the_inbox(self, name: str) -> None:
        path = self.arrive(name, b"x")
        self.assertEqual(self.home.inbox, path.parent)
        self.assertEqual(b"x", path.read_bytes())
        others = {entry.name for entry in self.home.path.iterdir()}
        self.assertEqual({"inbox"}, others - DATABASE_FILES, "and nowhere else")
        path.unlink()

    def test_another_hash_is_refused(self) -> None:
        file = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        file.write(0, CONTENT)
        self.assertRaises(StorageError, file.finish, bytes(32))
        file.discard()
        self.assertEqual([], self.names)

    def test_fewer_bytes_than_were_said_are_refused(self) -> None:
        file = self.inbox.open_file("a.txt", len(CONTENT) + 1, TRANSFER)
        file.write(0, CONTENT)
        self.assertRaises(StorageError, file.finish, hashlib.sha256(CONTENT).digest())

    def test_more_bytes_than_were_said_are_refused_at_once(self) -> None:
        file = self.inbox.open_file("a.txt", 5, TRANSFER)
        self.assertRaises(StorageError, file.write, 0, b"123456")
        file.discard()
        self.assertEqual([], self.names)

    def test_what_is_here_already_is_skipped_and_a_gap_is_told(self) -> None:
        file = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        self.assertTrue(file.write(0, CONTENT[:500]))
        self.assertFalse(file.write(501, CONTENT[501:]))
        self.assertTrue(file.write(100, CONTENT[100:700]))
        self.assertEqual(700, file.written_bytes)
        self.assertTrue(file.write(700, CONTENT[700:]))
        self.assertEqual(CONTENT, file.finish(hashlib.sha256(CONTENT).digest()).read_bytes())

    def test_it_goes_on_after_a_restart(self) -> None:
        file = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        file.write(0, CONTENT[:500])
        file.close()
        again = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        self.assertEqual(500, again.written_bytes)
        again.write(500, CONTENT[500:])
        self.assertEqual(CONTENT, again.finish(hashlib.sha256(CONTENT).digest()).read_bytes())

    def test_what_was_changed_on_disk_meanwhile_is_noticed(self) -> None:
        file = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        file.write(0, CONTENT[:500])
        file.close()
        (self.home.inbox / f".{TRANSFER.hex()}{PARTIAL_SUFFIX}").write_bytes(bytes(500))
        again = self.inbox.open_file("a.txt", len(CONTENT), TRANSFER)
        again.write(500, CONTENT[500:])
        self.assertRaises(StorageError, again.finish, hashlib.sha256(CONTENT).digest())

    def test_discarding_twice_is_no_mistake(self) -> None:
        file = self.inbox.open_file("a.txt", 5, TRANSFER)
        file.discard()
        file.discard()

    def test_what_does_not_fit_on_the_disk_is_refused_before_it_comes(self) -> None:
        free = os.statvfs(self.home.path)
        size = free.f_bavail * free.f_frsize
        error = self.assertRaises(
            StorageError, self.inbox.open_file, "a.txt", size - SPARE_DISK_BYTES + 2**24, TRANSFER
        )
        self.assertIn("no room", str(error))
        self.assertEqual([], self.names)

    def test_an_inbox_that_is_no_folder_is_told(self) -> None:
        self.home.inbox.write_text("what is this?")
        error = self.assertRaises(StorageError, self.inbox.open_file, "a.txt", 1, TRANSFER)
        self.assertIn("cannot store", str(error))

    def test_what_nobody_sends_any_more_is_removed_and_nothing_else(self) -> None:
        self.inbox.open_file("a.txt", 5, TRANSFER)
        wanted = bytes(reversed(TRANSFER))
        self.inbox.open_file("b.txt", 5, wanted)
        self.inbox.records.begin_arriving(b"somebody", Arriving(wanted, "b.txt", 5))
        forgotten = bytes(16)
        self.inbox.open_file("c.txt", 5, forgotten)
        self.inbox.records.begin_arriving(b"a forgotten peer", Arriving(forgotten, "c.txt", 5))
        self.arrive("kept.txt")
        self.arrive(f"kept{PARTIAL_SUFFIX}")
        (self.home.inbox / ".hidden").write_text("the owner's")
        self.inbox.clean([b"somebody"])
        self.assertEqual({wanted}, self.inbox.records.all_arriving())
        going_on = f".{wanted.hex()}{PARTIAL_SUFFIX}"
        kept = [going_on, ".hidden", f"kept{PARTIAL_SUFFIX}", "kept.txt"]
        self.assertEqual(sorted(kept), self.names)

    def test_cleaning_what_is_not_there_is_no_mistake(self) -> None:
        self.inbox.clean([])

    def test_a_disk_of_its_own_kind_without_links_is_good_enough(self) -> None:
        """Some file systems know no hard links; nothing is overwritten there either."""
        self.patch(os, "link", no_links)
        self.arrive("a.txt", b"first")
        self.assertEqual("a (1).txt", self.arrive("a.txt", b"second").name)
        self.assertEqual(["a (1).txt", "a.txt"], self.names)
        self.assertEqual(b"first", (self.home.inbox / "a.txt").read_bytes())


def no_links(source: object, target: object) -> None:
    """Stand in for ``os.link`` on a file system such as FAT."""
    raise PermissionError(1, "Operation not permitted")


class FullDiskTests(InboxTestCase):
    """A disk that fills up in the middle; needs root, for a small disk of its own."""

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid() != 0:
            raise SkipTest("only root can mount a small disk")
        self.home.inbox.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "none", str(self.home.inbox)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise SkipTest("no disk can be mounted here")
        self.addCleanup(subprocess.run, ["umount", str(self.home.inbox)], check=True)

    def test_the_sender_is_told_and_the_disk_is_left_clean(self) -> None:
        file = self.inbox.open_file("a.bin", 3 * 2**20, TRANSFER)
        self.addCleanup(file.discard)
        file.write(0, bytes(2**20))
        filler = self.home.inbox / "filler"
        with filler.open("wb", buffering=0) as other:
            try:
                while other.write(bytes(2**16)):
                    pass
            except OSError:
                pass
        with self.assertRaises(StorageError) as caught:
            for _ in range(32):
                file.write(file.written_bytes, bytes(2**16))
        self.assertIn("No space left", str(caught.exception))
        file.discard()
        self.assertEqual(["filler"], self.names)
        filler.unlink()
        self.arrive("b.bin", bytes(2**20))
        self.assertEqual(["b.bin"], self.names)


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
