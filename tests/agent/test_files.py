"""Files between two agents, and between an agent and somebody who lies."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.files import (
    MAX_ARRIVING_FILES,
    PIECES_UNDERWAY,
    SentFile,
    TransferError,
)
from abst.agent.home import Home
from abst.agent.inbox import Inbox
from abst.agent.packets import (
    FILE_ANSWER,
    FILE_CANCEL,
    FILE_END,
    FILE_OFFER,
    FILE_PIECE,
    FILE_RESULT,
    FILE_REWIND,
    MAX_PIECE_BYTES,
    MESSAGE,
)
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Records
from abst.agent.sessions import AgentFactory, AgentProtocol
from abst.database import Database
from abst.device import Device
from abst.device.session_store import SqliteSessionStore
from abst.errors import AbstError, SessionEndedError
from abst.testing import MemoryNetwork
from tests.device.doubles import Notes, NotesFactory

TRANSFER: Final = bytes(range(16))


class FilesTestCase(SynchronousTestCase):
    """Alice sends to Bob; each has a home."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.items: list[dict[str, Any]] = []
        self.homes: dict[str, Home] = {}
        self.home = Home(Path(self.mktemp()))
        self.home.path.mkdir(mode=0o700)
        self.outside = Path(self.mktemp())
        self.outside.mkdir()
        self.bob = self.device("bob", self.home)

    def tearDown(self) -> None:
        self.network.settle()

    def device(self, name: str, home: Home, **options: Any) -> Device:
        """Start an agent's device, as the agent does."""
        self.homes[name] = home
        database = Database(home.database, DATABASE_KIND, MIGRATIONS)
        self.addCleanup(database.close)
        inbox = Inbox(home, Records(database))
        inbox.clean([bytes(peer.device_id) for peer in options.get("peers", ())])
        factory = AgentFactory(inbox, self.items.append, maybeDeferred)
        return self.network.device(name, factory, store=SqliteSessionStore(database), **options)

    def protocols(self, alice: Device) -> tuple[Any, Any]:
        self.network.introduce(alice, self.bob)
        connected = alice.connect(self.bob.device_id)
        self.network.settle()
        return self.network.result(connected), self.bob.session_with(alice.device_id)

    def pass_time(self, seconds: float = 2.0) -> None:
        """Let time go by in steps so small that each acknowledgement is sent when it is due."""
        self.network.advance(seconds, 0.05)

    def stored(self) -> list[str]:
        """Return the names in Bob's inbox."""
        if not self.home.inbox.exists():
            return []
        return sorted(path.name for path in self.home.inbox.iterdir())

    def file(self, content: bytes, name: str = "file.bin") -> Path:
        path = self.outside / name
        path.write_bytes(content)
        return path


class AgentsTests(FilesTestCase):
    """Two agents."""

    def setUp(self) -> None:
        super().setUp()
        home = Home(Path(self.mktemp()))
        home.path.mkdir(mode=0o700)
        self.alice = self.device("alice", home)
        self.ours, self.theirs = self.protocols(self.alice)
        self.progress: list[tuple[int, int]] = []

    def send(self, path: Path) -> Deferred[SentFile]:
        return ensureDeferred(
            self.ours.files.send(path, lambda sent, size: self.progress.append((sent, size)))
        )

    def until_arrived(self, pieces: int) -> None:
        """Let Bob get some pieces of the file that is on its way, and not the last one."""
        arriving = self.theirs.files._arriving
        for _ in range(10_000):
            if any(file.written_bytes >= pieces * MAX_PIECE_BYTES for file in arriving.values()):
                return
            turn(self.network)
        self.fail("it does not arrive")

    def assert_nothing_left(self) -> None:
        """Neither side keeps anything of a transfer that is over."""
        for files in (self.ours.files, self.theirs.files):
            self.assertEqual({}, files._arriving)
            self.assertEqual(set(), files._finishing)
            self.assertEqual({}, files._replies)
            self.assertEqual({}, files._rewinds)
            self.assertEqual([], files._records.sending(files._device_id))
            self.assertEqual([], files._records.arriving(files._device_id))

    def test_a_file_arrives_whole(self) -> None:
        content = os.urandom(5 * MAX_PIECE_BYTES + 17)
        sent = self.send(self.file(content))
        self.pass_time()
        result = self.network.result(sent)
        self.assertEqual(len(content), result.size_bytes)
        self.assertEqual(hashlib.sha256(content).digest(), result.sha256)
        self.assertEqual("file.bin", result.stored_as)
        self.assertEqual(content, (self.home.inbox / "file.bin").read_bytes())
        (item,) = self.items
        self.assertEqual("file", item["kind"])
        self.assertEqual(hashlib.sha256(content).hexdigest(), item["sha256"])
        self.assertEqual(str(self.home.inbox / "file.bin"), item["path"])
        self.assertEqual(str(self.alice.device_id), item["device_id"])
        self.assertEqual((len(content), len(content)), self.progress[-1])
        self.assertEqual(sorted(self.progress), self.progress)
        self.assert_nothing_left()

    def test_every_size_around_a_piece(self) -> None:
        for size in (0, 1, MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1):
            sent = self.send(self.file(bytes(size), f"{size}"))
            self.pass_time()
            self.assertEqual(size, self.network.result(sent).size_bytes)
            self.assertEqual(size, (self.home.inbox / str(size)).stat().st_size)

    def test_a_name_that_is_taken_becomes_another_and_the_sender_learns_it(self) -> None:
        for wanted in ("file.bin", "file (1).bin"):
            sent = self.send(self.file(b"x"))
            self.pass_time()
            self.assertEqual(wanted, self.network.result(sent).stored_as)

    def test_a_name_that_is_not_unicode_is_sent_all_the_same(self) -> None:
        path = self.file(b"x", os.fsdecode(b"caf\xe9.txt"))
        sent = self.send(path)
        self.pass_time()
        self.assertEqual("caf?.txt", self.network.result(sent).stored_as)

    def test_both_ways_at_once(self) -> None:
        content = os.urandom(10 * MAX_PIECE_BYTES)
        path = self.file(content)
        waiting = [self.send(path), ensureDeferred(self.theirs.files.send(path))]
        self.pass_time()
        for sent in waiting:
            self.assertEqual(len(content), self.network.result(sent).size_bytes)
        self.assert_nothing_left()

    def test_several_files_at_once(self) -> None:
        waiting = [self.send(self.file(os.urandom(200_000), str(n))) for n in range(5)]
        self.pass_time()
        for sent in waiting:
            self.network.result(sent)
        self.assertEqual(["0", "1", "2", "3", "4"], self.stored())

    def test_a_link_that_breaks_in_the_middle_is_not_noticed(self) -> None:
        content = os.urandom(60 * MAX_PIECE_BYTES)
        sent = self.send(self.file(content))
        for pieces, device in ((5, self.alice), (20, self.bob), (40, self.alice)):
            self.until_arrived(pieces)
            next(iter(device.links.values())).cut()  # type: ignore[attr-defined]
        self.network.advance(60)
        self.assertEqual(hashlib.sha256(content).digest(), self.network.result(sent).sha256)
        self.assertEqual(content, (self.home.inbox / "file.bin").read_bytes())

    def test_memory_is_bounded_by_what_is_underway(self) -> None:
        self.network.realm.stop()
        self.send(self.file(bytes(100 * MAX_PIECE_BYTES))).addErrback(lambda failure: None)
        self.network.settle()
        connection: Any = self.ours.transport._connection
        self.assertLessEqual(connection.session.unacknowledged, PIECES_UNDERWAY + 1)

    def test_a_file_that_is_not_there_is_told(self) -> None:
        problem = self.failureResultOf(self.send(self.outside / "nothing"), TransferError).value
        self.assertIn("No such file", str(problem))
        self.pass_time()
        self.assert_nothing_left()

    def test_what_is_no_file_is_refused(self) -> None:
        """A pipe or a device may never end, and a folder is not a file."""
        pipe = self.outside / "pipe"
        os.mkfifo(pipe)
        unix = self.outside / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(self.outside) if len(str(unix)) > 100 else None
            listener.bind(str(unix) if len(str(unix)) <= 100 else "socket")
        for path in (self.outside, pipe, Path("/dev/zero"), unix):
            self.failureResultOf(self.send(path), TransferError)
        self.pass_time()
        self.assertEqual([], self.stored())
        self.assert_nothing_left()

    def test_a_file_that_grows_is_sent_as_large_as_it_was(self) -> None:
        path = self.file(bytes(20 * MAX_PIECE_BYTES))
        sent = self.send(path)
        with path.open("ab") as file:
            file.write(b"more")
        self.pass_time()
        self.assertEqual(20 * MAX_PIECE_BYTES, self.network.result(sent).size_bytes)

    def test_a_file_that_shrinks_is_not_sent(self) -> None:
        path = self.file(bytes(100 * MAX_PIECE_BYTES))
        sent = self.send(path)
        os.truncate(path, 10)
        self.pass_time()
        problem = self.failureResultOf(sent, TransferError).value
        self.assertIn("shorter", str(problem))
        self.pass_time()
        self.assertEqual([], self.stored())
        self.assert_nothing_left()

    def test_cancelling_removes_what_has_come(self) -> None:
        sent = self.send(self.file(bytes(100 * MAX_PIECE_BYTES)))
        self.until_arrived(10)
        self.assertEqual(1, len(self.stored()))
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.pass_time()
        self.assertEqual([], self.stored())
        self.assert_nothing_left()
        again = self.send(self.file(b"x"))
        self.pass_time()
        self.network.result(again)

    def test_cancelling_at_any_moment_leaves_nothing(self) -> None:
        for turns in range(0, 120, 3):
            sent = self.send(self.file(bytes(3 * MAX_PIECE_BYTES)))
            for _ in range(turns):
                turn(self.network)
            sent.addErrback(lambda failure: failure.trap(CancelledError))
            sent.cancel()
            self.pass_time()
            self.assert_nothing_left()
            for name in self.stored():
                self.assertFalse(name.startswith("."), turns)

    def test_what_comes_while_a_thread_stores_the_file_changes_nothing(self) -> None:
        for ends in (False, True):
            waiting: list[Callable[[], Any]] = []

            def later(call: Callable[..., Any], *args: Any) -> Deferred[Any]:
                done: Deferred[Any] = Deferred()
                waiting.append(lambda: maybeDeferred(call, *args).chainDeferred(done))  # noqa: B023
                return done

            self.theirs.files._in_thread = later
            sent = self.send(self.file(b"content"))
            self.pass_time()
            self.assertEqual(1, len(waiting))
            if ends:
                self.alice.forget(self.bob.device_id)
                self.pass_time()
                self.failureResultOf(sent, SessionEndedError)
            else:
                (transfer,) = self.theirs.files._arriving
                extra = {"transfer": transfer, "offset": 7, "data": b"more"}
                self.theirs.packetReceived(FILE_PIECE, extra)
                sent.cancel()
                self.failureResultOf(sent, CancelledError)
                self.pass_time()
            waiting.pop()()
            self.pass_time()
            self.assert_nothing_left()
        self.assertEqual(["file (1).bin", "file.bin"], self.stored())
        self.assertEqual(["file.bin", "file (1).bin"], [item["file"] for item in self.items])
        self.assertEqual([], self.flushLoggedErrors())

    def on_disk(self) -> Records:
        """Return what a crash at this moment would leave on Bob's disk."""
        database = Database(self.home.database, DATABASE_KIND, MIGRATIONS)
        self.addCleanup(database.close)
        return Records(database)

    def test_what_is_stored_after_the_session_ended_is_on_record_at_once(self) -> None:
        for stored in (True, False):
            waiting: list[Callable[[], Any]] = []

            def later(call: Callable[..., Any], *args: Any) -> Deferred[Any]:
                done: Deferred[Any] = Deferred()
                waiting.append(lambda: maybeDeferred(call, *args).chainDeferred(done))  # noqa: B023
                return done

            self.ours, self.theirs = self.protocols(self.alice)
            self.theirs.files._in_thread = later
            sent = self.send(self.file(b"content"))
            self.pass_time()
            self.alice.forget(self.bob.device_id)
            self.pass_time()
            self.failureResultOf(sent, SessionEndedError)
            self.assertNotEqual([], self.on_disk().arriving(self.theirs.files._device_id))
            if not stored:
                (draft,) = self.home.inbox.glob(".*")
                draft.unlink()
            waiting.pop()()
            self.assertEqual(["file.bin"], [item["file"] for item in self.on_disk().items()])
            self.assertEqual([], self.on_disk().arriving(self.theirs.files._device_id))

    def test_what_is_given_up_when_the_session_ends_is_off_record_at_once(self) -> None:
        sent = self.send(self.file(bytes(50 * MAX_PIECE_BYTES)))
        self.until_arrived(1)
        self.bob.forget(self.alice.device_id)
        self.network.settle()
        self.failureResultOf(sent, SessionEndedError)
        database = Database(self.homes["alice"].database, DATABASE_KIND, MIGRATIONS)
        self.addCleanup(database.close)
        self.assertEqual([], Records(database).sending(self.ours.files._device_id))

    def test_a_result_that_comes_over_a_restart_leaves_nothing(self) -> None:
        """The sender offers the file again, before it learns that it was stored already."""
        self.send(self.file(b"content")).addErrback(lambda failure: None)
        for _ in range(10_000):
            if self.items:
                break
            turn(self.network)
        self.alice = self.restart(self.alice)
        self.pass_time(30)
        self.ours = self.alice.session_with(self.bob.device_id)
        self.theirs = self.bob.session_with(self.alice.device_id)
        self.assertEqual(["file.bin"], self.stored())
        self.assertEqual(1, len(self.items))
        self.assert_nothing_left()

    def test_the_receiver_has_no_room(self) -> None:
        self.home.inbox.write_text("no folder")
        sent = self.send(self.file(b"x"))
        self.pass_time()
        problem = self.failureResultOf(sent, TransferError).value
        self.assertIn("cannot store", str(problem))
        self.home.inbox.unlink()
        again = self.send(self.file(b"x"))
        self.pass_time()
        self.network.result(again)
        self.assert_nothing_left()

    def test_the_receivers_disk_fails_in_the_middle(self) -> None:
        sent = self.send(self.file(bytes(100 * MAX_PIECE_BYTES)))
        self.until_arrived(10)
        (arriving,) = self.theirs.files._arriving.values()
        arriving._file.close()
        arriving._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        self.pass_time()
        problem = self.failureResultOf(sent, TransferError).value
        self.assertIn("No space left", str(problem))
        self.assertEqual([], self.stored())
        self.assert_nothing_left()
        again = self.send(self.file(b"x"))
        self.pass_time()
        self.network.result(again)

    def test_the_session_ends_in_the_middle(self) -> None:
        """The sender is told, the receiver keeps nothing, and nobody's log is full of it."""
        for ender in (self.bob, self.alice):
            self.ours, self.theirs = self.protocols(self.alice)
            sent = self.send(self.file(bytes(100 * MAX_PIECE_BYTES)))
            self.until_arrived(10)
            self.assertEqual(1, len(self.stored()))
            other = self.alice if ender is self.bob else self.bob
            ender.forget(other.device_id)
            self.pass_time()
            self.failureResultOf(sent, SessionEndedError)
            self.assertEqual([], self.stored())
            self.assert_nothing_left()
            ender.trust(other.device_id)

    def test_the_session_ends_while_the_offer_is_not_answered(self) -> None:
        self.network.realm.stop()
        self.network.settle()
        sent = self.send(self.file(b"x"))
        self.alice.forget(self.bob.device_id)
        self.network.settle()
        self.failureResultOf(sent, SessionEndedError)

    def test_a_session_that_is_over_sends_nothing(self) -> None:
        self.alice.forget(self.bob.device_id)
        self.network.settle()
        self.failureResultOf(self.send(self.file(b"x")), AbstError)
        self.assertEqual({}, self.ours.files._replies)

    def test_messages_arrive(self) -> None:
        waiting = self.ours.send_message("hello\nthere")
        self.pass_time()
        self.network.result(waiting)
        (item,) = self.items
        self.assertEqual(("message", "hello\nthere"), (item["kind"], item["text"]))

    def test_a_restart_of_either_agent_is_no_reason_to_begin_again(self) -> None:
        content = os.urandom(60 * MAX_PIECE_BYTES)
        path = self.file(content)
        self.send(path).addErrback(lambda failure: None)
        self.until_arrived(10)
        self.bob = self.restart(self.bob)
        self.pass_time(0)
        self.alice = self.restart(self.alice)
        self.pass_time(30)
        self.assertEqual(content, (self.home.inbox / "file.bin").read_bytes())
        self.assertEqual(["file.bin"], self.stored())
        self.assertEqual(1, len(self.items))

    def test_a_file_that_changes_over_a_restart_is_given_up(self) -> None:
        path = self.file(bytes(60 * MAX_PIECE_BYTES))
        self.send(path).addErrback(lambda failure: None)
        self.until_arrived(10)
        path.write_bytes(b"something else")
        self.alice = self.restart(self.alice)
        self.pass_time(30)
        self.assertEqual([], self.stored())
        self.assertEqual([], self.items)

    def restart(self, device: Device) -> Device:
        """Stop an agent's device in order, and start it again with the same home."""
        device.stopService()
        home = self.homes[device.device_name]
        return self.device(device.device_name, home, identity=device.identity, peers=device.peers)


class LyingSenderTests(FilesTestCase):
    """A peer that is trusted, and sends what no agent would."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.network.device("alice", NotesFactory())
        self.notes, self.theirs = self.protocols(self.alice)
        assert isinstance(self.notes, Notes)

    def say(self, packet_id: int, **content: Any) -> None:
        self.notes.sendPacket(packet_id, {"transfer": TRANSFER, **content})
        self.network.advance(0.2)

    def answers(self, packet_id: int) -> list[dict[str, Any]]:
        return [content for found, content in self.notes.packets if found == packet_id]

    def assert_result(self, stored: bool) -> None:
        result = self.answers(FILE_RESULT)[-1]
        self.assertEqual(stored, result["stored"], result)
        self.assertEqual({}, self.theirs.files._arriving)
        if not stored:
            self.assertEqual([], self.stored())
            self.assertTrue(result["reason"])

    def test_another_hash(self) -> None:
        self.say(FILE_OFFER, name="a", size=3)
        self.say(FILE_PIECE, offset=0, data=b"abc")
        self.say(FILE_END, sha256=bytes(32))
        self.assert_result(False)

    def test_an_end_that_comes_early_asks_for_the_rest(self) -> None:
        self.say(FILE_OFFER, name="a", size=4)
        self.say(FILE_PIECE, offset=0, data=b"abc")
        self.say(FILE_END, sha256=hashlib.sha256(b"abc").digest())
        self.assertEqual([3], [content["offset"] for content in self.answers(FILE_REWIND)])
        self.say(FILE_PIECE, offset=3, data=b"d")
        self.say(FILE_END, sha256=hashlib.sha256(b"abcd").digest())
        self.assert_result(True)

    def test_a_gap_is_not_written(self) -> None:
        self.say(FILE_OFFER, name="a", size=4)
        self.say(FILE_PIECE, offset=1, data=b"bcd")
        self.say(FILE_PIECE, offset=2**50, data=b"x")
        self.assertEqual([0, 0], [content["offset"] for content in self.answers(FILE_REWIND)])
        self.say(FILE_PIECE, offset=0, data=b"abcd")
        self.say(FILE_END, sha256=hashlib.sha256(b"abcd").digest())
        self.assert_result(True)

    def test_what_comes_again_is_written_once(self) -> None:
        self.say(FILE_OFFER, name="a", size=4)
        self.say(FILE_PIECE, offset=0, data=b"ab")
        self.say(FILE_PIECE, offset=0, data=b"XYc")
        self.say(FILE_PIECE, offset=1, data=b"Z")
        self.say(FILE_PIECE, offset=3, data=b"d")
        self.say(FILE_END, sha256=hashlib.sha256(b"abcd").digest())
        self.assert_result(True)

    def test_more_bytes(self) -> None:
        self.say(FILE_OFFER, name="a", size=2)
        self.say(FILE_PIECE, offset=0, data=b"abc")
        self.assert_result(False)
        self.say(FILE_PIECE, offset=3, data=b"d")
        self.say(FILE_END, sha256=hashlib.sha256(b"abcd").digest())
        self.assertEqual(1, len(self.answers(FILE_RESULT)))

    def test_pieces_that_nobody_announced(self) -> None:
        self.say(FILE_PIECE, offset=0, data=b"abc")
        self.say(FILE_END, sha256=bytes(32))
        self.say(FILE_CANCEL, reason="why not")
        self.assertEqual([], self.notes.packets)
        self.assertEqual([], self.stored())

    def test_answers_that_nobody_waits_for(self) -> None:
        self.say(FILE_ANSWER, accepted=True, offset=0, reason="")
        self.say(FILE_RESULT, stored=True, name="a", reason="")
        self.say(FILE_REWIND, offset=0)
        self.assertEqual([], self.notes.packets)
        files = self.theirs.files
        self.assertEqual(({}, {}), (files._replies, files._rewinds))

    def test_a_huge_file(self) -> None:
        self.say(FILE_OFFER, name="a", size=2**50)
        (answer,) = self.answers(FILE_ANSWER)
        self.assertFalse(answer["accepted"])
        self.assertIn("no room", answer["reason"])
        self.assertEqual([], self.stored())

    def test_too_many_files_at_once(self) -> None:
        for number in range(MAX_ARRIVING_FILES + 2):
            self.say(FILE_OFFER, transfer=bytes([number]) * 16, name="a", size=1)
        accepted = [answer["accepted"] for answer in self.answers(FILE_ANSWER)]
        self.assertEqual([True] * MAX_ARRIVING_FILES + [False] * 2, accepted)
        self.say(FILE_CANCEL, transfer=bytes(16), reason="")
        self.say(FILE_OFFER, transfer=bytes(16), name="a", size=1)
        self.assertTrue(self.answers(FILE_ANSWER)[-1]["accepted"])
        self.assertEqual(MAX_ARRIVING_FILES, len(self.stored()))
        self.notes.loseConnection()
        self.pass_time()
        self.assertEqual([], self.stored())

    def test_the_same_file_again(self) -> None:
        """It goes on where it stopped; when its size is another one, it is another file."""
        self.say(FILE_OFFER, name="a", size=3)
        self.say(FILE_PIECE, offset=0, data=b"ab")
        self.say(FILE_OFFER, name="b", size=9)
        self.say(FILE_OFFER, name="a", size=3)
        answers = [(a["accepted"], a["offset"]) for a in self.answers(FILE_ANSWER)]
        self.assertEqual([(True, 0), (False, 0), (True, 2)], answers)
        self.say(FILE_PIECE, offset=2, data=b"c")
        self.say(FILE_END, sha256=hashlib.sha256(b"abc").digest())
        self.assert_result(True)
        self.assertEqual(["a"], self.stored())

    def test_a_name_that_points_elsewhere(self) -> None:
        for number, name in enumerate(("../../etc/passwd", "/etc/passwd", "..", "a\0b", "\x1b[2J")):
            transfer = bytes([number]) * 16
            self.say(FILE_OFFER, transfer=transfer, name=name, size=0)
            self.say(FILE_END, transfer=transfer, sha256=hashlib.sha256(b"").digest())
        self.assertEqual(
            ["_[2J", "a_b", "passwd", "passwd (1)", "unnamed"],
            self.stored(),
        )
        others = [name for name in os.listdir(self.home.path) if "sqlite" not in name]
        self.assertEqual(["inbox"], others)

    def test_packets_of_the_wrong_form_are_ignored(self) -> None:
        for packet_id, content in (
            (MESSAGE, {"text": 5}),
            (MESSAGE, {"text": "x" * 20_000}),
            (MESSAGE, None),
            (FILE_OFFER, {"transfer": b"short", "name": "a", "size": 1}),
            (FILE_OFFER, {"transfer": TRANSFER, "name": "a", "size": -1}),
            (FILE_OFFER, {"transfer": TRANSFER, "name": "a", "size": 1.0}),
            (FILE_OFFER, {"transfer": TRANSFER, "name": "a", "size": True}),
            (FILE_OFFER, {"transfer": TRANSFER, "name": "a" * 256, "size": 1}),
            (FILE_OFFER, {"transfer": TRANSFER, "name": b"a", "size": 1}),
            (FILE_OFFER, {"transfer": TRANSFER, "size": 1}),
            (FILE_PIECE, {"transfer": TRANSFER, "offset": 0, "data": "text"}),
            (FILE_PIECE, {"transfer": TRANSFER, "offset": 0, "data": b""}),
            (FILE_PIECE, {"transfer": TRANSFER, "offset": -1, "data": b"x"}),
            (FILE_PIECE, {"transfer": TRANSFER, "data": b"x"}),
            (FILE_REWIND, {"transfer": TRANSFER}),
            (FILE_END, {"transfer": TRANSFER, "sha256": b"short"}),
            (FILE_END, [TRANSFER, bytes(32)]),
            (99, {"what": "ever"}),
            (255, None),
        ):
            self.notes.sendPacket(packet_id, content)
        self.pass_time()
        self.assertEqual([], self.notes.packets)
        self.assertEqual([], self.stored())
        self.assertEqual([], self.items)
        self.notes.sendPacket(MESSAGE, {"text": "still here", "newer": True})
        self.pass_time()
        self.assertEqual("still here", self.items[0]["text"])


class LyingReceiverTests(FilesTestCase):
    """A peer that answers wrongly, or not at all."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.network.device("alice", NotesFactory())
        self.notes, self.ours = self.protocols(self.alice)
        assert isinstance(self.ours, AgentProtocol)
        self.sent: Deferred[SentFile] = ensureDeferred(
            self.ours.files.send(self.file(bytes(20 * MAX_PIECE_BYTES)))
        )
        self.network.settle()
        ((_, self.offer),) = self.notes.packets

    def say(self, packet_id: int, **content: Any) -> None:
        self.notes.sendPacket(packet_id, {"transfer": self.offer["transfer"], **content})
        self.pass_time()

    def test_a_refusal_is_told_in_the_receivers_words_without_escapes(self) -> None:
        self.say(FILE_ANSWER, accepted=False, offset=0, reason="go\x1b[31m away\n")
        problem = self.failureResultOf(self.sent, TransferError).value
        self.assertEqual("go[31m away", str(problem))

    def test_refused_in_the_middle(self) -> None:
        self.notes.sendPacket(
            FILE_ANSWER,
            {"transfer": self.offer["transfer"], "accepted": True, "offset": 0, "reason": ""},
        )
        for _ in range(20):
            turn(self.network)
        self.say(FILE_RESULT, stored=False, name="", reason="the disk is full")
        problem = self.failureResultOf(self.sent, TransferError).value
        self.assertEqual("the disk is full", str(problem))
        self.assertEqual({}, self.ours.files._replies)

    def test_answered_twice(self) -> None:
        self.say(FILE_ANSWER, accepted=True, offset=0, reason="")
        self.say(FILE_ANSWER, accepted=False, offset=0, reason="no, after all")
        self.say(FILE_RESULT, stored=True, name="\x1b]0;evil\x07name", reason="")
        self.assertEqual("]0;evilname", self.network.result(self.sent).stored_as)
        self.say(FILE_RESULT, stored=False, name="", reason="")
        self.assertEqual({}, self.ours.files._replies)

    def test_stored_before_it_was_sent(self) -> None:
        """Only the receiver fools itself; the sender ends its work."""
        self.say(FILE_RESULT, stored=True, name="early", reason="")
        self.say(FILE_ANSWER, accepted=True, offset=0, reason="")
        self.assertTrue(self.sent.called)
        self.sent.addErrback(lambda failure: failure.trap(TransferError))
        self.assertEqual({}, self.ours.files._replies)
        self.assertEqual(FILE_CANCEL, self.notes.packets[-1][0], "what the offer opened is closed")

    def sent_pieces(self) -> list[dict[str, Any]]:
        return [content for found, content in self.notes.packets if found == FILE_PIECE]

    def test_a_rewind_is_honoured(self) -> None:
        """In the middle, and once everything has been sent."""
        self.say(FILE_ANSWER, accepted=True, offset=5, reason="")
        size = self.offer["size"]
        for offset in (MAX_PIECE_BYTES + 1, 7 * MAX_PIECE_BYTES, size, 0):
            self.notes.packets.clear()
            self.say(FILE_REWIND, offset=offset)
            pieces = self.sent_pieces()
            self.assertEqual(size - offset, sum(len(piece["data"]) for piece in pieces))
            for piece in pieces:
                self.assertEqual(offset, piece["offset"])
                offset += len(piece["data"])
            last_id, end = self.notes.packets[-1]
            self.assertEqual(FILE_END, last_id)
            self.assertEqual(hashlib.sha256(bytes(size)).digest(), end["sha256"])
        self.say(FILE_RESULT, stored=True, name="a", reason="")
        self.assertEqual(size, self.network.result(self.sent).size_bytes)
        self.assertEqual({}, self.ours.files._replies)
        self.assertEqual({}, self.ours.files._rewinds)

    def test_rewinds_fill_no_memory(self) -> None:
        """Whoever asks again and again gets no more than one who waits."""
        self.say(FILE_ANSWER, accepted=True, offset=0, reason="")
        connection: Any = self.ours.transport._connection
        most = 0
        rewind = {"transfer": self.offer["transfer"], "offset": self.offer["size"] - 1}
        for _ in range(50):
            self.ours.packetReceived(FILE_REWIND, rewind)
            most = max(most, connection.session.unacknowledged)
        self.assertLessEqual(most, PIECES_UNDERWAY + 1)
        self.pass_time()
        self.say(FILE_RESULT, stored=True, name="a", reason="")
        self.network.result(self.sent)

    def test_cancelling_while_the_result_does_not_come(self) -> None:
        self.say(FILE_ANSWER, accepted=True, offset=0, reason="")
        self.assertEqual(FILE_END, self.notes.packets[-1][0])
        self.sent.cancel()
        self.failureResultOf(self.sent, CancelledError)
        self.pass_time()
        self.assertEqual(FILE_CANCEL, self.notes.packets[-1][0])
        self.assertEqual({}, self.ours.files._replies)
        gc.collect()
        self.assertEqual([], self.flushLoggedErrors())

    def test_the_session_ends_in_silence_whatever_is_waited_for(self) -> None:
        for accepted in (False, True):
            if accepted:
                self.bob.trust(self.alice.device_id)
                self.notes, self.ours = self.protocols(self.alice)
                self.sent = ensureDeferred(self.ours.files.send(self.file(b"x")))
                self.network.settle()
                _, self.offer = self.notes.packets[0]
                self.say(FILE_ANSWER, accepted=True, offset=0, reason="")
                self.assertEqual(FILE_END, self.notes.packets[-1][0])
            self.bob.forget(self.alice.device_id)
            self.pass_time()
            self.failureResultOf(self.sent, SessionEndedError)
            self.assertEqual({}, self.ours.files._replies)
            gc.collect()
            self.assertEqual([], self.flushLoggedErrors())

    def test_an_answer_for_another_transfer(self) -> None:
        self.notes.sendPacket(
            FILE_ANSWER,
            {"transfer": TRANSFER, "accepted": False, "offset": 0, "reason": "whose?"},
        )
        self.pass_time()
        self.assertNoResult(self.sent)
        self.say(FILE_ANSWER, accepted=False, offset=0, reason="yours")
        self.failureResultOf(self.sent, TransferError)


def turn(network: MemoryNetwork) -> None:
    """Run one call that is due, and leave the others on their way."""
    clock = network.clock
    if not clock.calls or clock.calls[0].getTime() > clock.seconds():
        clock.rightNow += 0.01
        return
    call: Any = clock.calls.pop(0)
    call.called = 1
    call.func(*call.args, **call.kw)
