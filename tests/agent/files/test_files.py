"""Files and folders from one agent to another: any split, any break, and the truth at both ends."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.files import final_name, open_file, outgoing
from abst.agent.files import sender as file_sender
from abst.agent.files.packets import BLOCK_BYTES, MAX_PATH_PARTS
from abst.agent.files.receiver import GATHER_SECONDS, MAX_STREAMS_FROM_ONE, TELL_SECONDS
from abst.errors import AbstError, Code, NotTrustedError, SessionEndedError, StreamError
from tests.agent.files.world import World, tree

OLD: Final = 1_000_000_000_123_456_789
"""A time of modification, in nanoseconds."""


class FilesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(Path(self.mktemp()))
        self.addCleanup(self.world.close)

    def file(self, content: bytes, name: str = "file.bin", mode: int = 0o640) -> Path:
        path = self.world.outside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        os.utime(path, ns=(OLD, OLD))
        return path

    def folder(self, name: str = "photos") -> Path:
        """Return a folder with a bit of everything that is kept."""
        folder = self.world.outside / name
        self.file(b"one", f"{name}/one.txt", 0o600)
        self.file(b"", f"{name}/empty", 0o444)
        self.file(os.urandom(5000), f"{name}/inner/deep/two.bin", 0o755)
        self.file("grüße".encode(), f"{name}/inner/grüße 🌍.txt")
        (folder / "nothing in it").mkdir()
        (folder / "inner" / "deep").chmod(0o750)
        for place in sorted(folder.rglob("*"), reverse=True):
            os.utime(place, ns=(OLD, OLD))
        os.utime(folder, ns=(OLD, OLD))
        return folder

    def assert_same(self, path: Path, stored_as: str | None = None) -> None:
        self.assertEqual(tree(path), tree(self.world.inbox / (stored_as or path.name)))

    def assert_nothing_left(self, *names: str) -> None:
        """The inbox has these, and neither side keeps anything of a transfer."""
        self.assertEqual(sorted(names), self.world.names())
        self.assertEqual(sorted(names), sorted(self.world.stored))
        self.assertEqual({}, self.world.drafts._drafts)
        self.assertEqual(set(), self.world.receivers.streams)
        for shipment in self.world.shipments:
            self.assertEqual([], shipment.unsettled())
            self.assertEqual([], self.world.sender_records.sending(bytes(shipment.device_id)))

    def problem(self) -> str:
        (problem,) = self.world.notes.problems
        return str(problem)


class SendingTests(FilesTestCase):
    """What arrives is what was sent."""

    def test_a_file_arrives_whole(self) -> None:
        path = self.file(os.urandom(3 * BLOCK_BYTES + 17))
        self.world.send(path)
        self.world.finish()
        self.assert_same(path)
        self.assertEqual(
            {"file.bin": hashlib.sha256(path.read_bytes()).digest()}, self.world.notes.hashes
        )
        self.assertEqual(1, self.world.streams.opened)
        self.assert_nothing_left("file.bin")

    def test_a_folder_arrives_with_everything_in_it(self) -> None:
        path = self.folder()
        self.world.send(path)
        self.world.finish()
        self.assertEqual([], self.world.notes.problems)
        self.assert_same(path)
        self.assert_nothing_left("photos")

    def test_every_size_around_a_block(self) -> None:
        sizes = (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1)
        paths = [self.file(os.urandom(size), f"{size}") for size in sizes]
        self.world.send(*paths)
        self.world.finish()
        for path in paths:
            self.assert_same(path)
        self.assertEqual(1, self.world.streams.opened)

    def test_many_small_items_go_without_a_round_trip_for_each(self) -> None:
        paths = [self.file(f"{n}".encode(), f"{n}.txt") for n in range(600)]
        self.world.send(*paths)
        turns = 0
        while len(self.world.stored) < len(paths):
            self.world.streams.carry(1 << 20)
            self.world.clock.advance(GATHER_SECONDS)
            turns += 1
        self.assertLess(turns, 20)
        self.world.finish()
        self.assert_nothing_left(*(path.name for path in paths))

    def test_several_commands_at_once(self) -> None:
        paths = [self.file(os.urandom(200_000), str(n)) for n in range(5)]
        for path in paths:
            self.world.send(path)
        self.world.finish()
        for path in paths:
            self.assert_same(path)

    def test_a_name_that_is_taken_becomes_another_and_the_sender_learns_it(self) -> None:
        for wanted in ("file.bin", "file (1).bin", "file (2).bin"):
            self.world.notes.names.clear()
            self.world.send(self.file(b"x"))
            self.world.finish()
            self.assertEqual({"file.bin": wanted}, self.world.notes.names)
        folder = self.folder("file.bin2")
        for wanted in ("file.bin2", "file (1).bin2"):
            self.world.notes.names.clear()
            self.world.send(folder)
            self.world.finish()
            self.assertEqual({"file.bin2": wanted}, self.world.notes.names)

    def test_two_of_one_name_at_the_same_moment(self) -> None:
        one, two = self.file(b"1", "a/same"), self.file(b"2", "b/same")
        self.world.send(one)
        self.world.send(two)
        self.world.finish()
        self.assertEqual(["same", "same (1)"], self.world.names())

    def test_a_name_that_is_not_unicode_is_sent_all_the_same(self) -> None:
        path = self.file(b"x", os.fsdecode(b"caf\xe9.txt"))
        folder = self.world.outside / "folder"
        folder.mkdir()
        (folder / os.fsdecode(b"\xff")).write_bytes(b"y")
        self.world.send(path, folder)
        self.world.finish()
        self.assertEqual(["caf?.txt", "folder"], self.world.names())
        self.assertEqual(["?"], os.listdir(self.world.inbox / "folder"))

    def test_modes_that_are_dangerous_or_useless_do_not_arrive(self) -> None:
        path = self.file(b"x", "folder/tool", 0o4711)
        closed = self.file(b"x", "folder/closed", 0o400)
        path.parent.chmod(0o3555)
        self.world.send(path.parent)
        self.world.finish()
        stored = self.world.inbox / "folder"
        modes = [p.stat().st_mode & 0o7777 for p in (stored, stored / "tool", stored / closed.name)]
        self.assertEqual([0o755, 0o711, 0o400], modes)

    def test_what_is_no_file_in_a_folder_is_passed_over_and_named(self) -> None:
        folder = self.world.outside / "folder"
        self.file(b"secret", "secret")
        folder.mkdir()
        (folder / "link").symlink_to("../secret")
        (folder / "around").symlink_to("..")
        os.mkfifo(folder / "pipe")
        with socket.socket(socket.AF_UNIX) as unix, tempfile.TemporaryDirectory() as short:
            unix.bind(f"{short}/socket")
            os.rename(f"{short}/socket", folder / "socket")
        (folder / "kept").write_bytes(b"")
        shipment = self.world.send(folder)
        (item,) = shipment.unsettled()
        self.world.finish()
        self.assertEqual(["kept"], os.listdir(self.world.inbox / "folder"))
        assert item.survey is not None
        names = sorted(os.path.basename(path) for path in item.survey.skipped.paths)
        self.assertEqual((["around", "link", "pipe", "socket"], 4), (names, len(names)))

    def test_what_cannot_be_sent_does_not_stop_the_others(self) -> None:
        os.mkfifo(self.world.outside / "pipe")
        good = self.file(b"x", "good")
        self.world.send(
            *(self.world.outside / "missing", self.world.outside / "pipe", Path("/dev/zero"), good)
        )
        self.world.finish()
        said = [str(problem) for problem in self.world.notes.problems]
        self.assertIn("No such file", said[0])
        self.assertIn("neither a file nor a folder", said[1])
        self.assertIn("/dev/zero: neither", said[2])
        self.assert_nothing_left("good")

    def test_a_folder_that_is_too_deep_is_told(self) -> None:
        self.file(b"x", "d/" * (MAX_PATH_PARTS + 1) + "x")
        self.world.send(self.world.outside / "d")
        self.world.finish()
        self.assertIn("deeper than", self.problem())
        self.assert_nothing_left()

    def test_progress_grows_to_the_size(self) -> None:
        path = self.file(os.urandom(5 * BLOCK_BYTES))
        self.world.send(path)
        for _ in range(8):
            self.world.settle(until_bytes=BLOCK_BYTES // 2)
            self.world.clock.advance(TELL_SECONDS)
        self.world.finish()
        told = [got for _, got in self.world.notes.progress]
        self.assertEqual(sorted(told), told)
        self.assertGreater(len(set(told)), 3)

    def test_progress_is_told_no_more_often_than_somebody_can_read_it(self) -> None:
        self.world.send(self.file(os.urandom(64 * BLOCK_BYTES)))
        began_at = self.world.clock.seconds()
        self.world.finish()
        seconds = self.world.clock.seconds() - began_at
        self.assertLessEqual(len(self.world.notes.progress), seconds / TELL_SECONDS + 1)

    def test_a_disk_is_read_once_and_after_a_break_only_the_last_blocks_again(self) -> None:
        read: list[tuple[int, int]] = []
        pread = os.pread

        def counting(descriptor: int, size: int, offset: int) -> bytes:
            data = pread(descriptor, size, offset)
            read.append((offset, len(data)))
            return data

        self.patch(os, "pread", counting)
        path = self.file(os.urandom(20 * BLOCK_BYTES))
        self.world.send(path)
        self.world.settle(until_bytes=10 * BLOCK_BYTES + 1234)
        self.world.streams.cut()
        self.world.finish()
        self.assert_same(path)
        again = sum(size for _, size in read) - 20 * BLOCK_BYTES
        self.assertGreater(again, 0)
        self.assertLess(again, 4 * BLOCK_BYTES, "what was on its way, and nothing before it")


class BreakTests(FilesTestCase):
    """A stream that breaks, agents that crash."""

    def test_it_goes_on_at_the_byte_where_it_stopped(self) -> None:
        path = self.file(os.urandom(8 * BLOCK_BYTES))
        self.world.send(path)
        sent = self.world.settle(until_bytes=5 * BLOCK_BYTES + 777)
        self.world.streams.cut()
        (draft,) = self.world.drafts._drafts.values()
        self.assertGreater(draft.got_bytes, 4 * BLOCK_BYTES)
        self.world.wait()
        sent += self.world.settle()
        self.assert_same(path)
        self.assertLess(sent, 8 * BLOCK_BYTES + 4000)

    def test_after_a_crash_of_each(self) -> None:
        path = self.folder()
        large = self.file(os.urandom(4 * BLOCK_BYTES), "photos/large.bin")
        for crash in (self.world.crash_sender, self.world.crash_receiver):
            self.world.stored.clear()
            self.world.send(path)
            sent = self.world.settle(until_bytes=3 * BLOCK_BYTES)
            crash()
            self.world.wait()
            sent += self.world.settle()
            self.world.finish()
            self.assertLess(sent, 4 * BLOCK_BYTES + 20_000, "it went on, and did not begin anew")
            (name,) = self.world.names()
            self.assert_same(path, name)
            self.assertEqual([name], self.world.stored)
            self.world.inbox.joinpath(name).rename(self.world.outside / f"done {crash.__name__}")
        self.assertTrue(large.exists())

    def test_what_was_stored_before_a_break_is_not_stored_again(self) -> None:
        for crash in (self.world.streams.cut, self.world.crash_sender, self.world.crash_receiver):
            path = self.file(b"once", f"{crash.__name__}.txt")
            shipment = self.world.send(path)
            for end in self.world.streams.ends:
                if end.protocol is not shipment.stream:
                    end.write = lambda data: None  # type: ignore[method-assign]
            self.world.settle()
            crash()
            self.world.finish()
        names = ["crash_receiver.txt", "crash_sender.txt", "cut.txt"]
        self.assert_nothing_left(*names)

    def test_a_crash_around_the_giving_of_a_name(self) -> None:
        """Between the note, the name, and the record: always one, and listed once."""
        for kind in ("file", "folder"):
            for moment in ("give_name", "commit"):
                name = f"{kind} {moment}"
                path = self.file(b"x" * 100, name) if kind == "file" else self.folder(name)
                owner: Any = final_name if moment == "give_name" else self.world.receivers.records
                original = getattr(owner, moment)

                def crash(*arguments: object, **options: object) -> None:
                    raise _Crash

                setattr(owner, moment, crash)
                self.world.send(path)
                self.world.settle()
                setattr(owner, moment, original)
                self.flushLoggedErrors(_Crash)
                self.world.receiver_records._database.rollback()
                if moment == "commit":
                    self.world.stored.pop()
                self.world.crash_receiver()
                self.world.finish()
                self.assert_same(path)
                self.assertEqual(1, self.world.stored.count(name), name)
                self.assertEqual([], [n for n in self.world.names() if n.startswith(".")])

    def test_a_draft_that_was_changed_on_disk_is_begun_anew(self) -> None:
        path = self.folder()
        self.file(os.urandom(4 * BLOCK_BYTES), "photos/zz.bin")
        self.world.send(path)
        self.world.settle(until_bytes=3 * BLOCK_BYTES)
        self.world.streams.cut()
        (draft,) = self.world.inbox.glob(".*.abst-partial")
        (draft / "one.txt").write_bytes(b"eno")
        self.world.crash_receiver()
        self.world.finish()
        self.assert_same(path)
        self.assert_nothing_left("photos")

    def test_a_damaged_journal_is_no_draft(self) -> None:
        self.world.send(self.file(os.urandom(2 * BLOCK_BYTES)))
        self.world.settle(until_bytes=BLOCK_BYTES)
        self.world.streams.cut()
        (journal,) = self.world.inbox.glob(".*.abst-journal")
        journal.write_bytes(bytes(100))
        self.world.crash_receiver()
        self.assertEqual([], self.world.names())
        self.world.finish()
        self.assert_nothing_left("file.bin")

    def test_what_changed_over_a_break_is_given_up(self) -> None:
        for crash in (self.world.streams.cut, self.world.crash_sender):
            for what in ("file", "folder"):
                path = self.file(os.urandom(4 * BLOCK_BYTES), f"{what}/a.bin")
                self.world.send(path if what == "file" else path.parent)
                self.world.settle(until_bytes=2 * BLOCK_BYTES)
                path.write_bytes(os.urandom(4 * BLOCK_BYTES))
                crash()
                self.world.finish()
                self.assertIn("changed", self.problem())
                self.world.notes.problems.clear()
                self.assert_nothing_left()

    def test_what_changed_in_a_part_that_was_across_is_noticed_too(self) -> None:
        early = self.file(b"early", "folder/a.txt")
        self.file(os.urandom(4 * BLOCK_BYTES), "folder/b.bin")
        self.world.send(early.parent)
        self.world.settle(until_bytes=2 * BLOCK_BYTES)
        early.write_bytes(b"yearl")
        self.world.streams.cut()
        self.world.finish()
        self.assertIn("has changed since it was first offered", self.problem())
        self.assert_nothing_left()

    def test_a_file_that_changes_while_it_is_sent_is_given_up(self) -> None:
        for change in (
            lambda p: os.truncate(p, 10),
            lambda p: p.write_bytes(b"x" * p.stat().st_size),
        ):
            path = self.file(os.urandom(6 * BLOCK_BYTES))
            self.world.send(path)
            self.world.settle(until_bytes=2 * BLOCK_BYTES)
            change(path)
            self.world.finish()
            self.assertRegex(self.problem(), "shorter|changed")
            self.world.notes.problems.clear()
            self.assert_nothing_left()

    def test_cancelling_at_any_moment_leaves_nothing(self) -> None:
        path = self.file(os.urandom(2 * BLOCK_BYTES))
        for sent_bytes in range(0, 2 * BLOCK_BYTES + 1000, BLOCK_BYTES // 3):
            shipment = self.world.send(path)
            self.world.settle(until_bytes=sent_bytes)
            shipment.finished.addErrback(lambda failure: failure.trap(CancelledError))
            shipment.finished.cancel()
            self.world.settle()
            self.assertEqual([], [name for name in self.world.names() if name.startswith(".")])
            self.assertEqual({}, self.world.drafts._drafts)
            self.assertEqual([], self.world.sender_records.sending(bytes(shipment.device_id)))

    def test_what_was_cancelled_while_the_peer_was_away_is_removed_with_the_next_stream(
        self,
    ) -> None:
        shipment = self.world.send(self.file(os.urandom(2 * BLOCK_BYTES)))
        self.world.settle(until_bytes=BLOCK_BYTES)
        self.world.away()
        shipment.finished.addErrback(lambda failure: failure.trap(CancelledError))
        shipment.finished.cancel()
        self.assertEqual(2, len(self.world.names()))
        self.world.back()
        self.world.send(self.file(b"next", "next"))
        self.world.finish()
        self.assertEqual(["next"], self.world.names())

    def test_a_peer_that_is_away_is_waited_for(self) -> None:
        path = self.file(os.urandom(2 * BLOCK_BYTES))
        shipment = self.world.send(path)
        self.world.settle(until_bytes=BLOCK_BYTES)
        self.assertFalse(shipment.is_away)
        self.world.away()
        self.world.clock.pump([1.0] * 600)
        self.assertTrue(shipment.is_away)
        self.world.back()
        self.world.finish()
        self.assert_same(path)

    def test_a_peer_that_falls_silent_is_left_after_a_while(self) -> None:
        path = self.file(os.urandom(2 * BLOCK_BYTES))
        self.world.send(path)
        self.world.settle(until_bytes=BLOCK_BYTES)
        for end in self.world.streams.ends:
            end.protocol._heartbeat._say = lambda data: None
        self.world.clock.pump([5.0] * 12)
        self.assertEqual(2, self.world.streams.opened)
        self.world.finish()
        self.assert_same(path)

    def test_heartbeats_keep_a_quiet_stream(self) -> None:
        self.world.send(self.file(os.urandom(2 * BLOCK_BYTES)))
        self.world.settle(until_bytes=BLOCK_BYTES)
        for _ in range(60):
            self.world.clock.advance(5.0)
            for end in self.world.streams.ends:
                if end.producer is None:
                    end.other.protocol.dataReceived(bytes(end.written))
                    end.written.clear()
                else:
                    end.other.protocol._heartbeat.heard()
        self.assertEqual(1, self.world.streams.opened)

    def test_refusals_that_waiting_does_not_change(self) -> None:
        for problem in (
            NotTrustedError("bob does not trust this device", theirs=True),
            StreamError("no such service", Code.NO_SERVICE),
        ):
            self.world.streams.refuses = problem
            shipment = self.world.send(self.file(b"x"))
            self.successResultOf(shipment.finished)
            self.assertEqual(str(problem), self.problem())
            self.world.notes.problems.clear()

    def test_the_end_of_the_session_is_the_end_of_the_files(self) -> None:
        shipment = self.world.send(self.file(os.urandom(2 * BLOCK_BYTES)))
        self.world.settle(until_bytes=BLOCK_BYTES)
        shipment.give_up(SessionEndedError("bob does not trust this device"))
        self.successResultOf(shipment.finished)
        self.assertIn("does not trust", self.problem())
        self.world.settle()
        self.assert_nothing_left()

    def test_a_newer_stream_takes_over_from_one_that_is_only_half_dead(self) -> None:
        path = self.file(os.urandom(4 * BLOCK_BYTES))
        self.world.send(path)
        self.world.settle(until_bytes=2 * BLOCK_BYTES)
        ours, theirs = self.world.streams.ends
        self.world.streams.ends.clear()
        ours.lose(Exception("only the sender notices"))
        self.world.wait()
        self.world.settle(until_bytes=BLOCK_BYTES)
        theirs.protocol.dataReceived(bytes(ours.written))
        self.world.finish()
        self.assert_same(path)
        theirs.lose(Exception("late"))
        self.assert_nothing_left("file.bin")

    def test_too_many_streams_at_once(self) -> None:
        for number in range(MAX_STREAMS_FROM_ONE + 1):
            self.world.send(self.file(os.urandom(2 * BLOCK_BYTES), str(number)))
        self.world.settle(until_bytes=1000)
        self.assertIn("too many transfers at once", self.problem())
        self.world.finish()
        self.assertEqual(MAX_STREAMS_FROM_ONE, len(self.world.names()))

    def test_memory_is_bounded_by_what_is_under_way(self) -> None:
        self.world.send(self.file(bytes(30 * BLOCK_BYTES)))
        ours = self.world.streams.ends[0]
        self.world.finish()
        self.assertLess(ours.most_waiting, 3 * BLOCK_BYTES)


class _Crash(AbstError):
    """The process ends here."""


trees = st.recursive(
    st.tuples(st.integers(0, 700), st.sampled_from([0o600, 0o644, 0o755, 0o400])),
    lambda inner: st.dictionaries(
        st.sampled_from(["a", "a.b", "B", "ä", "z-1", "same name"]), inner, max_size=4
    ),
    max_leaves=8,
)


def make(path: Path, what: object, seed: bytes = b"") -> None:
    """Make a tree on the disk."""
    if isinstance(what, dict):
        path.mkdir()
        for name, inner in what.items():
            make(path / name, inner, seed + name.encode())
    else:
        assert isinstance(what, tuple)
        size, mode = what
        path.write_bytes(hashlib.shake_128(seed).digest(size))
        path.chmod(mode)
    os.utime(path, ns=(OLD + len(seed), OLD + len(seed)))


class AnyBreakTests(SynchronousTestCase):
    """Whatever is sent, however it is cut, and wherever it breaks."""

    @settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(
        items=st.lists(trees, min_size=1, max_size=3),
        pieces=st.lists(st.integers(1, 400), min_size=1, max_size=60),
        breaks=st.lists(
            st.tuples(
                st.integers(0, 2500), st.sampled_from(["cut", "crash_sender", "crash_receiver"])
            ),
            max_size=4,
        ),
        block_bytes=st.sampled_from([64, 256, BLOCK_BYTES]),
    )
    def test_the_same_trees_are_on_both_sides(
        self,
        items: list[object],
        pieces: list[int],
        breaks: list[tuple[int, str]],
        block_bytes: int,
    ) -> None:
        self.patch(outgoing, "BLOCK_BYTES", block_bytes)
        self.patch(outgoing, "READ_BYTES", min(block_bytes, outgoing.READ_BYTES))
        self.patch(open_file, "BLOCK_BYTES", block_bytes)
        self.patch(file_sender, "MAX_UNANSWERED", 2)
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder) / "world")
            paths = []
            for number, what in enumerate(items):
                path = world.outside / f"item {number}"
                make(path, what, b"%d" % number)
                paths.append(path)
            world.send(*paths)
            for after_bytes, kind in breaks:
                world.settle(iter(pieces), until_bytes=after_bytes)
                (world.streams.cut if kind == "cut" else getattr(world, kind))()
                world.wait()
            world.settle(iter(pieces * 20))
            world.finish()
            try:
                self.assertEqual([], world.notes.problems)
                self.assertEqual(sorted(path.name for path in paths), world.names())
                self.assertEqual(sorted(path.name for path in paths), sorted(world.stored))
                for path in paths:
                    self.assertEqual(tree(path), tree(world.inbox / path.name))
                self.assertEqual({}, world.drafts._drafts)
            finally:
                world.close()
