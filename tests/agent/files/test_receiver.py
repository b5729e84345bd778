"""A trusted peer that says what no sender of files would: nothing is harmed, nothing stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.files import naming
from abst.agent.files.draft import SPARE_DISK_BYTES
from abst.agent.files.packets import (
    ASK,
    BYTES,
    DROP,
    ENTRY,
    ENTRY_END,
    FROM_RECEIVER,
    GOT,
    ITEM,
    ITEM_END,
    MAX_UNFINISHED,
    REFUSED,
    STAND,
    STORED,
    WELCOME,
    Splitter,
    encode,
)
from abst.agent.files.receiver import (
    BATCH_BYTES,
    GATHER_SECONDS,
    MAX_STREAMS_FROM_ONE,
    MAX_WAITING_BYTES,
)
from abst.device.streams.stream import StreamAddress
from tests.agent.files.world import ALICE, End, World

TRANSFER: Final = bytes(range(16))
CONTENT: Final = b"some content\n" * 100


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def entry(*path: str, folder: bool = False, size: int = 0, mode: int = 0o644) -> bytes:
    return encode(ENTRY, path=list(path), folder=folder, size=size, mode=mode, modified=0)


def data(content: bytes) -> bytes:
    return encode(BYTES, length=len(content)) + content if content else b""


class Liar:
    """The sending end of a stream, by hand."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self.end, self.theirs = End(), End()
        self.end.other, self.theirs.other = self.theirs, self.end
        self.end.protocol = self
        self.theirs.protocol = world.receivers.buildProtocol(StreamAddress(ALICE, "abst.files"))
        self.answers: list[dict[str, Any]] = []
        self._splitter = Splitter(FROM_RECEIVER)
        self.theirs.protocol.makeConnection(self.theirs)
        self.say()

    def say(self, *packets: bytes) -> None:
        """Say something, and hear the answers."""
        if packets and not self.theirs.lost:
            self.theirs.protocol.dataReceived(b"".join(packets))
            self._clock.advance(GATHER_SECONDS)
        for piece in self._splitter.receive_data(bytes(self.theirs.written)):
            assert isinstance(piece, tuple)
            self.answers.append(piece[0])
        self.theirs.written.clear()

    def connectionLost(self, reason: object) -> None:
        """Hear that it is over."""

    def close(self) -> None:
        self.end.cut()

    def of(self, packet_id: int) -> list[dict[str, Any]]:
        """Return the answers of one kind."""
        return [answer for answer in self.answers if answer["packet_id"] == packet_id]

    def item(
        self,
        name: str = "a",
        *,
        transfer: bytes = TRANSFER,
        folder: bool = False,
        size: int = 0,
        entries: int = 1,
        resumes: bool = False,
    ) -> None:
        self.say(
            encode(
                ITEM,
                transfer=transfer,
                name=name,
                folder=folder,
                size=size,
                entries=entries,
                resumes=resumes,
            )
        )

    def file(self, name: str, content: bytes = b"", transfer: bytes = TRANSFER) -> None:
        """Send a file as a sender would."""
        self.item(name, size=len(content), transfer=transfer)
        self.say(entry(size=len(content)), data(content), encode(ENTRY_END, sha256=digest(content)))
        self.say(encode(ITEM_END, sha256=digest(content)))

    def folder(self, *entries: bytes, size: int = 0, name: str = "folder") -> None:
        """Send a folder with these entries of empty files and folders."""
        heads = [entry(folder=True, mode=0o755), *entries]
        self.item(name, folder=True, entries=len(heads), size=size)
        for head in heads:
            self.say(head)
            if not head_is_folder(head):
                self.say(encode(ENTRY_END, sha256=digest(b"")))
        self.say(encode(ITEM_END, sha256=digest(b"".join(heads))))


def head_is_folder(head: bytes) -> bool:
    ((packet, _),) = Splitter(frozenset({ENTRY})).receive_data(head)
    return bool(packet["folder"])  # type: ignore[index]


class LyingSenderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.world = World(self.folder)
        self.addCleanup(self.world.close)
        self.liar = self.open()

    def open(self) -> Liar:
        liar = Liar(self.world)
        self.addCleanup(liar.close)
        return liar

    def assert_refused(self, *words: str, transfer: bytes = TRANSFER) -> None:
        """The last item is refused, with a reason, and nothing of it is left."""
        refused = self.liar.of(REFUSED)[-1]
        self.assertEqual(transfer, refused["transfer"])
        for word in words:
            self.assertIn(word, refused["reason"])
        self.assertEqual([], self.world.names())
        self.assertEqual({}, self.world.drafts._drafts)

    def assert_stored(self, *names: str) -> None:
        self.assertEqual(list(names), [stored["name"] for stored in self.liar.of(STORED)])
        self.assertEqual([], self.liar.of(REFUSED))

    # What is right.

    def test_a_file_by_hand(self) -> None:
        self.liar.file("a.txt", CONTENT)
        self.assert_stored("a.txt")
        self.assertEqual(CONTENT, (self.world.inbox / "a.txt").read_bytes())
        self.assertEqual(0o700, self.world.inbox.stat().st_mode & 0o777)

    # Names.

    def test_a_name_that_points_elsewhere(self) -> None:
        names = ("../../etc/passwd", "/etc/passwd", "..", "a\0b", "\x1b[2J", ".bashrc", "-rf")
        for number, name in enumerate(names):
            self.liar.file(name, transfer=bytes([number]) * 16)
        self.assert_stored("passwd", "passwd (1)", "unnamed", "a_b", "_[2J", "bashrc", "rf")
        self.assertEqual(7, len(self.world.names()))
        found = {name for name in os.listdir(self.folder) if "sqlite" not in name}
        self.assertEqual({"inbox", "outside"}, found, "and nothing anywhere else")

    def test_hostile_paths_in_a_folder(self) -> None:
        self.liar.folder(
            entry(".."),
            entry("../../up"),
            entry("/etc", folder=True),
            entry("/etc", "..\\passwd"),
            entry("a\x1b[2J"),
            entry("a\x1b[2J", folder=True),
            entry("a\x1b[2J", "a\x1a[2J"),
            entry("."),
            entry("写" * 255),
            entry("写" * 254 + "x"),
        )
        self.assert_stored("folder")
        self.assertEqual(
            sorted(
                [
                    *("unnamed", ".._.._up", "_etc", "_etc/..\\passwd", "a_[2J"),
                    *("a_[2J (1)", "a_[2J (1)/a_[2J", "unnamed (1)", "写" * 85, "写" * 83 + " (1)"),
                ]
            ),
            self.inside("folder"),
        )
        self.assertEqual(["folder"], self.world.names())

    def test_names_in_a_folder_are_kept(self) -> None:
        names = [".env", ".git", "-rf", "...", "env", "git", "~", f".{TRANSFER.hex()}.abst-journal"]
        partial = f".{TRANSFER.hex()}.abst-partial"
        paths = [(partial,), *((partial, name) for name in names), *((name,) for name in names)]
        self.liar.folder(*(entry(*path, folder=path == (partial,)) for path in paths))
        self.assert_stored("folder")
        self.assertEqual(sorted("/".join(path) for path in paths), self.inside("folder"))

    def inside(self, name: str) -> list[str]:
        folder = self.world.inbox / name
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

    def test_a_path_outside_of_the_open_folders(self) -> None:
        for path in (("b", "c"), ("a", "b", "c"), ("a", "..", "c")):
            self.liar = self.open()
            self.liar.folder(entry("a", folder=True), entry(*path))
            self.assert_refused("outside")
            self.assertTrue(self.liar.theirs.closing)
        self.liar = self.open()
        self.liar.folder(entry("a", folder=True), entry("b"), entry("a", "late"))
        self.assert_refused("outside")

    def test_a_file_is_no_folder(self) -> None:
        self.liar.folder(entry("a"), entry("a", "b"))
        self.assert_refused("outside")

    def test_the_first_entry_is_the_item(self) -> None:
        for first in (entry("a"), entry(folder=True)):
            self.liar = self.open()
            self.liar.item(size=0)
            self.liar.say(first)
            self.assert_refused("the item itself")
        self.liar = self.open()
        self.liar.item(entries=2)
        self.liar.say(entry(), encode(ENTRY_END, sha256=digest(b"")), entry("b"))
        self.assert_refused("no part of the item")

    # Links.

    def test_what_is_there_is_never_replaced_nor_followed(self) -> None:
        victim = self.folder / "victim"
        victim.write_text("untouched")
        self.world.inbox.mkdir()
        (self.world.inbox / "a").symlink_to(victim.absolute())
        (self.world.inbox / "b").symlink_to(self.folder.absolute() / "nowhere")
        (self.world.inbox / "c").mkdir()
        (self.world.inbox / "d").write_text("mine")
        for number, name in enumerate("abcd"):
            self.liar.file(name, CONTENT, bytes([number]) * 16)
        self.liar.folder(name="c")
        self.assert_stored("a (1)", "b (1)", "c (1)", "d (1)", "c (2)")
        self.assertEqual("untouched", victim.read_text())
        self.assertFalse((self.folder / "nowhere").exists())
        self.assertEqual([], os.listdir(self.world.inbox / "c"))

    def test_a_link_that_appears_in_the_draft_is_not_followed(self) -> None:
        """Neither in place of the draft, nor of its journal, nor of a folder, nor of a file."""
        outside = self.folder.absolute() / "elsewhere"
        outside.mkdir()
        (outside / "file").write_text("untouched")
        self.world.inbox.mkdir()
        draft = self.world.inbox / f".{TRANSFER.hex()}.abst-partial"
        for place, target in (
            (draft, outside / "file"),
            (draft, outside),
            (draft.with_suffix(".abst-journal"), outside / "file"),
        ):
            place.symlink_to(target)
            self.liar.file(f"{target.name} {place.suffix}", CONTENT)
        self.liar.item(folder=True, entries=4, size=4)
        self.liar.say(entry(folder=True), entry("inner", folder=True), entry("inner", "x", size=2))
        self.liar.say(data(b"o"))
        (draft / "inner").rename(self.folder / "away")
        (draft / "inner").symlink_to(outside)
        self.liar.close()
        self.liar = self.open()
        self.liar.say(encode(ASK, transfer=TRANSFER))
        (stand,) = self.liar.of(STAND)
        self.assertEqual((0, 0), (stand["entries"], stand["offset"]), "it begins anew")
        self.assertEqual(["file"], os.listdir(outside))
        self.assertEqual("untouched", (outside / "file").read_text())

    def test_a_folder_replaced_by_a_link_while_it_is_filled(self) -> None:
        outside = self.folder.absolute() / "elsewhere"
        outside.mkdir()
        self.liar.item(folder=True, entries=4)
        self.liar.say(entry(folder=True), entry("a", folder=True), entry("a", "b", folder=True))
        draft = self.world.inbox / f".{TRANSFER.hex()}.abst-partial"
        (draft / "a").rename(self.folder / "away")
        (draft / "a").symlink_to(outside)
        (outside / "b").mkdir(mode=0o500)
        self.liar.say(entry("a", "c"))
        self.assert_refused("cannot store it")
        self.assertEqual(["b"], os.listdir(outside))
        self.assertEqual(0o500, (outside / "b").stat().st_mode & 0o777)

    def test_a_file_replaced_by_a_link_between_two_streams(self) -> None:
        victim = self.folder.absolute() / "victim"
        victim.write_bytes(b"ab")
        for number, name in enumerate(("draft", "journal")):
            transfer = bytes([number]) * 16
            self.liar.item(size=5, transfer=transfer)
            self.liar.say(entry(size=5), data(b"ab"))
            self.liar.close()
            suffix = "partial" if name == "draft" else "journal"
            place = self.world.inbox / f".{transfer.hex()}.abst-{suffix}"
            place.unlink()
            place.symlink_to(victim)
            self.liar = self.open()
            self.liar.say(encode(ASK, transfer=transfer))
            self.assert_refused("cannot store it", transfer=transfer)
            self.assertEqual(b"ab", victim.read_bytes())

    def test_two_streams_that_hear_of_one_item_put_it_on_record_once(self) -> None:
        done: list[tuple[Any, Any]] = []

        def later(call: Any, *arguments: Any) -> Any:
            told: Any = Deferred()
            done.append((told, call(*arguments)))
            return told

        other = self.open()
        self.world.receivers.in_thread = later
        content = entry(size=1) + data(b"x") + encode(ENTRY_END, sha256=digest(b"x"))
        offer = encode(
            ITEM, transfer=TRANSFER, name="a", folder=False, size=1, entries=1, resumes=False
        )
        self.liar.say(offer, content, encode(ITEM_END, sha256=digest(b"x")))
        other.say(encode(ASK, transfer=TRANSFER))
        for told, outcome in done[:2]:
            told.callback(outcome)
        self.world.receivers.in_thread = maybeDeferred
        for liar in (self.liar, other):
            liar.say()
            self.assertEqual(["a"], [stored["name"] for stored in liar.of(STORED)])
        self.assertEqual(["a"], self.world.stored)

    # Sizes and counts.

    def test_another_hash(self) -> None:
        self.liar.item(size=3)
        self.liar.say(entry(size=3), data(b"abc"), encode(ENTRY_END, sha256=bytes(32)))
        self.assert_refused("did not arrive as it was sent")
        self.liar.item(size=3)
        self.liar.say(entry(size=3), data(b"abc"), encode(ENTRY_END, sha256=digest(b"abc")))
        self.liar.say(encode(ITEM_END, sha256=bytes(32)))
        self.assert_refused("did not arrive as it was sent")

    def test_more_and_fewer_bytes_than_were_said(self) -> None:
        for size, said, content, words in (
            (2, 2, b"abc", "more bytes"),
            (2, 3, b"abc", "more bytes"),
            (4, 4, b"abc", "did not arrive"),
            (4, 3, b"abc", "fewer bytes"),
        ):
            self.liar.item(size=size)
            self.liar.say(entry(size=said), data(content))
            self.liar.say(encode(ENTRY_END, sha256=digest(content)))
            self.liar.say(encode(ITEM_END, sha256=digest(content)))
            self.assert_refused(words)
        self.liar.file("next", CONTENT)
        self.assertEqual(["next"], self.world.names())

    def test_more_and_fewer_entries_than_were_said(self) -> None:
        self.liar.item(folder=True, entries=2)
        self.liar.say(entry(folder=True), entry("a", folder=True), entry("b", folder=True))
        self.assert_refused("more files")
        self.liar.item(folder=True, entries=3)
        self.liar.say(entry(folder=True), entry("a", folder=True))
        self.liar.say(encode(ITEM_END, sha256=bytes(32)))
        self.assert_refused("fewer files")

    def test_a_huge_item_is_refused_before_it_comes(self) -> None:
        self.liar.item(size=2**50)
        self.assert_refused("no room")
        free = os.statvfs(self.folder)
        self.liar.item(size=free.f_bavail * free.f_frsize - SPARE_DISK_BYTES + 2**30)
        self.assert_refused("no room")

    def test_what_stands_in_no_order(self) -> None:
        for packets, words in (
            ([data(b"x")], "bytes of no file"),
            ([entry(size=1), entry("b")], "changed"),
            ([encode(ENTRY_END, sha256=bytes(32))], "the end of no file"),
            ([encode(ITEM_END, sha256=bytes(32))], "fewer"),
            ([entry(size=5)], "more bytes"),
            ([b"\xc1"], "malformed"),
            ([encode(STORED, transfer=TRANSFER, name="", sha256=bytes(32))], "no packet"),
        ):
            self.liar = self.open()
            self.liar.item(size=1)
            self.liar.say(*packets)
            self.assert_refused(words)
        self.liar = self.open()
        self.liar.say(data(b"x"), entry(), encode(ITEM_END, sha256=bytes(32)))
        self.assertEqual([WELCOME], [answer["packet_id"] for answer in self.liar.answers])

    def test_what_follows_a_refusal_is_passed_over(self) -> None:
        self.liar.item(size=2**50)
        self.liar.say(
            entry(size=2**50), data(b"x" * 5000), encode(DROP, transfer=TRANSFER, reason="")
        )
        self.assertEqual(1, len(self.liar.of(REFUSED)))
        self.liar.file("next", CONTENT)
        self.assertEqual(["next"], self.world.names())

    def test_an_item_that_goes_on_with_nothing(self) -> None:
        self.liar.item(resumes=True)
        self.assert_refused("not there any more")

    def test_an_item_that_goes_on_as_another(self) -> None:
        self.liar.item(size=5)
        self.liar.say(entry(size=5), data(b"ab"))
        self.assertEqual([2], [got["size"] for got in self.liar.of(GOT)])
        self.liar.close()
        self.liar = self.open()
        self.assertEqual([TRANSFER], self.liar.of(WELCOME)[0]["unfinished"])
        self.liar.say(encode(ASK, transfer=TRANSFER))
        (stand,) = self.liar.of(STAND)
        self.assertEqual((0, 2), (stand["entries"], stand["offset"]))
        self.liar.item(size=6, resumes=True)
        self.assert_refused("changed")

    def test_too_many_unfinished_ones(self) -> None:
        for number in range(MAX_UNFINISHED + 5):
            liar = self.open()
            liar.item(size=5, transfer=bytes([number]) * 16)
            liar.close()
        self.assertEqual(MAX_UNFINISHED, len(self.open().of(WELCOME)[0]["unfinished"]))
        self.assertEqual(MAX_UNFINISHED, len(self.world.names()))

    def test_too_many_streams(self) -> None:
        others = [self.open() for _ in range(MAX_STREAMS_FROM_ONE)]
        self.assertTrue(others[-1].theirs.closing)
        self.assertEqual(bytes(16), others[-1].of(REFUSED)[0]["transfer"])
        others[0].close()
        self.assertFalse(self.open().theirs.closing)

    def test_one_who_has_been_forgotten_leaves_nothing(self) -> None:
        self.liar.item(size=5)
        self.world.receivers._forgets = lambda device_id: True
        self.liar.close()
        self.assertEqual([], self.world.names())

    def test_many_of_one_name_end(self) -> None:
        self.patch(naming, "MAX_SAME_NAMES", 20)
        self.liar.folder(*(entry("x") for _ in range(25)))
        self.assert_refused("too many files of that name")

    def test_a_disk_without_links_is_good_enough(self) -> None:
        """Some file systems know no hard links; nothing is overwritten there either."""

        def no_links(*arguments: object, **options: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", no_links)
        for number in range(2):
            self.liar.file("a.txt", b"%d" % number, bytes([number]) * 16)
        self.assert_stored("a.txt", "a (1).txt")
        self.assertEqual(b"0", (self.world.inbox / "a.txt").read_bytes())

    def test_an_inbox_that_is_no_folder_is_told(self) -> None:
        self.world.inbox.write_text("what is this?")
        self.liar.file("a.txt")
        self.assertIn("cannot store", self.liar.of(REFUSED)[0]["reason"])

    def test_a_slow_disk_holds_the_sender_back(self) -> None:
        waiting: list[Any] = []

        def later(*call: Any) -> Any:
            done: Any = Deferred()
            waiting.append((done, call))
            return done

        self.world.receivers.in_thread = later
        self.liar.item(size=2**24)
        self.liar.say(entry(size=2**24))
        for _ in range(MAX_WAITING_BYTES // 2**20):
            self.assertFalse(self.liar.theirs.paused)
            self.liar.theirs.protocol.dataReceived(data(bytes(2**20)))
        self.assertEqual(1, len(waiting))
        self.assertTrue(self.liar.theirs.paused)
        while waiting:
            done, call = waiting.pop(0)
            maybeDeferred(*call).chainDeferred(done)
        self.assertFalse(self.liar.theirs.paused)
        self.liar.say()
        self.assertEqual(MAX_WAITING_BYTES, self.liar.of(GOT)[-1]["size"])

    def test_a_thread_is_woken_for_many_pieces(self) -> None:
        waiting: list[Any] = []

        def later(*call: Any) -> Any:
            waiting.append((Deferred(), call))
            return waiting[-1][0]

        self.world.receivers.in_thread = later
        self.liar.item(size=2**24)
        receive = self.liar.theirs.protocol.dataReceived
        receive(entry(size=2**24))
        for turn in (1, 2):
            done, call = waiting.pop()
            done.callback(call[0](*call[1:]))
            self.assertEqual([], waiting, "it waits for more, also when more is here already")
            for _ in range(BATCH_BYTES // 2**18 - 1):
                receive(data(bytes(2**18)))
            self.assertEqual([], waiting)
            receive(data(bytes(2**18)))
            self.assertEqual(1, len(waiting), turn)
            receive(data(b"x"))
        self.world.receivers.in_thread = maybeDeferred
        done, call = waiting.pop()
        done.callback(call[0](*call[1:]))

    def test_bytes_in_pieces_of_one(self) -> None:
        content = bytes(range(256)) * 10
        self.liar.item(size=len(content))
        self.liar.say(entry(size=len(content)), *(data(bytes([byte])) for byte in content))
        self.liar.say(encode(ENTRY_END, sha256=digest(content)))
        self.liar.say(encode(ITEM_END, sha256=digest(content)))
        self.assert_stored("a")
        self.assertEqual(content, (self.world.inbox / "a").read_bytes())

    def test_a_disk_that_takes_a_little_at_a_time(self) -> None:
        writev = os.writev

        def little(descriptor: int, pieces: Any) -> int:
            first = memoryview(pieces[0])[:5]
            rest = [memoryview(pieces[1])[:1]] if len(first) < 5 and len(pieces) > 1 else []
            return writev(descriptor, [first, *rest])

        self.patch(os, "writev", little)
        content = bytes(range(200))
        self.liar.item(size=200)
        cuts = (0, 1, 3, 10, 11, 30, 199, 200)
        pieces = [data(content[at:end]) for at, end in pairwise(cuts)]
        self.liar.say(entry(size=200), *pieces, encode(ENTRY_END, sha256=digest(content)))
        self.liar.say(encode(ITEM_END, sha256=digest(content)))
        self.assert_stored("a")
        self.assertEqual(content, (self.world.inbox / "a").read_bytes())


class FullDiskTests(SynchronousTestCase):
    """A disk that fills up in the middle; needs root, for a small disk of its own."""

    def setUp(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can mount a small disk")
        self.world = World(Path(self.mktemp()))
        self.addCleanup(self.world.close)
        self.world.inbox.mkdir(mode=0o700)
        mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "none", str(self.world.inbox)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise SkipTest("no disk can be mounted here")
        self.addCleanup(subprocess.run, ["umount", str(self.world.inbox)], check=True)

    def test_the_sender_is_told_and_the_disk_is_left_clean(self) -> None:
        liar = Liar(self.world)
        liar.item(size=3 * 2**20)
        liar.say(entry(size=3 * 2**20), data(bytes(2**20)))
        filler = self.world.inbox / "filler"
        with filler.open("wb", buffering=0) as other:
            for size in self.smaller():
                try:
                    while other.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        liar.say(data(bytes(2**20)))
        self.assertIn("No space left", liar.of(REFUSED)[0]["reason"])
        self.assertEqual(["filler"], self.world.names())
        filler.unlink()
        liar.file("b.bin", bytes(2**20))
        self.assertEqual(["b.bin"], self.world.names())
        liar.close()

    def smaller(self) -> Iterator[int]:
        size = 2**20
        while size:
            yield size
            size //= 4
