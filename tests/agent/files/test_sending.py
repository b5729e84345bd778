"""What is told of files while they are sent, and while nothing goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from abst.agent.files.packets import BLOCK_BYTES
from abst.agent.files.sending import SendCommand
from abst.agent.files.shipment import Observer, Shipment
from abst.agent.patience import PATHLESS_SECONDS, QUIET_SECONDS
from abst.device import Peer
from abst.errors import AbstError, Code, StreamError
from tests.agent.files.test_files import FilesTestCase
from tests.agent.files.world import BOB


class SendCommandTests(FilesTestCase):
    """Alice's person sends to Bob, who goes away."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[dict[str, Any]] = []

    def send(self, *paths: Path) -> Deferred[dict[str, Any]]:
        command = SendCommand(
            Peer(BOB, "bob"), self.events.append, self.world.clock, lambda: "bob is away"
        )

        def begin(observer: Observer) -> Shipment:
            self.world.notes = observer  # type: ignore[assignment]
            return self.world.send(*paths)

        return ensureDeferred(command.send(begin))

    def send_half(self) -> Deferred[dict[str, Any]]:
        """Send a file, up to the middle of it."""
        sent = self.send(self.file(os.urandom(4 * BLOCK_BYTES)))
        self.world.settle(until_bytes=2 * BLOCK_BYTES)
        return sent

    def told(self) -> list[tuple[bool, str]]:
        """Return what has been told of waiting."""
        found = [event for event in self.events if "waiting" in event]
        for event in found:
            self.assertEqual(("bob", "file.bin"), (event["peer"], event["file"]))
        return [(event["waiting"], event.get("reason", "")) for event in found]

    def assert_sent(self, sent: Deferred[dict[str, Any]]) -> None:
        self.world.finish()
        (file,) = self.successResultOf(sent)["files"]
        self.assertEqual(4 * BLOCK_BYTES, file["size_bytes"])
        self.assertEqual(["file.bin"], self.world.names())
        self.assertTrue(self.events[-1]["done"])

    def test_files_and_folders_with_totals_and_rate(self) -> None:
        one, folder = self.file(bytes(1000)), self.folder()
        (folder / "link").symlink_to("one.txt")
        sent = self.send(one, folder)
        self.world.clock.advance(0.1)
        self.world.finish()
        result = self.successResultOf(sent)
        file, tree = result["files"]
        size = file["size_bytes"] + tree["size_bytes"]
        self.assertEqual(
            ("file", "file.bin", 64), (file["kind"], file["file"], len(file["sha256"]))
        )
        self.assertEqual(("folder", "photos", 4), (tree["kind"], tree["file"], tree["files"]))
        self.assertEqual(([str(folder / "link")], 1), (tree["skipped"], tree["skipped_count"]))
        self.assertEqual((size, size), (result["total_bytes"], result["total_sent_bytes"]))
        self.assertEqual(round(size / result["seconds"]), result["bytes_per_second"])
        self.assertEqual(["file.bin", "photos"], [e["file"] for e in self.events if e.get("done")])

    def test_progress_is_for_the_whole_command(self) -> None:
        paths = [self.file(os.urandom(2 * BLOCK_BYTES), name) for name in ("a", "b")]
        sent = self.send(*paths)
        for _ in range(100):
            self.world.streams.carry(200_000)
            self.world.clock.advance(0.05)
        self.world.finish()
        self.successResultOf(sent)
        totals = [event["total_sent_bytes"] for event in self.events]
        self.assertEqual(sorted(totals), totals)
        self.assertEqual({4 * BLOCK_BYTES}, {event["total_bytes"] for event in self.events})
        self.assertEqual(4 * BLOCK_BYTES, totals[-1])

    def test_what_failed_is_told_in_the_end_and_the_rest_is_across(self) -> None:
        missing = [self.world.outside / name for name in ("one", "two")]
        sent = self.send(missing[0], self.file(b"x"), missing[1])
        self.world.finish()
        problem = self.failureResultOf(sent, AbstError).value
        self.assertEqual(f"{missing[0]}: No such file or directory (and 1 more)", str(problem))
        self.assertEqual(["one", "two"], [e["file"] for e in self.events if "failed" in e])
        self.assertEqual(["file.bin"], self.world.names())

    def test_nothing_is_told_while_it_goes_on(self) -> None:
        sent = self.send_half()
        self.assert_sent(sent)
        self.assertEqual([], self.told())

    def test_a_peer_that_falls_silent_and_comes_back(self) -> None:
        sent = self.send_half()
        self.world.clock.pump([0.5] * int(2 * QUIET_SECONDS - 2))
        self.assertEqual([], self.told())
        self.world.clock.pump([0.5] * 6)
        silent = (True, "bob has not answered for 10 seconds")
        self.assertEqual([silent], self.told())
        self.world.settle(until_bytes=1000)
        self.world.settle(until_bytes=BLOCK_BYTES)
        self.world.clock.advance(0.5)
        self.assertEqual([silent, (False, "")], self.told())
        self.assert_sent(sent)

    def test_a_peer_that_is_away_and_comes_back(self) -> None:
        sent = self.send_half()
        self.world.away()
        self.world.clock.pump([0.5] * int(2 * PATHLESS_SECONDS + 2))
        self.assertEqual([(True, "bob is away")], self.told())
        self.world.back()
        for _ in range(40):
            self.world.clock.advance(0.5)
            self.world.settle(until_bytes=1000)
        self.assertEqual([(True, "bob is away"), (False, "")], self.told())
        self.assert_sent(sent)

    def test_a_realm_without_room_is_told_as_such(self) -> None:
        self.world.streams.refuses = StreamError("no room for another circuit", Code.CIRCUITS_FULL)
        sent = self.send(self.file(b"x"))
        self.world.clock.pump([0.5] * 8)
        self.assertEqual([(True, "no room for another circuit")], self.told())
        self.world.back()
        self.world.finish()
        self.successResultOf(sent)

    def test_whoever_gives_up_is_told_no_more(self) -> None:
        sent = self.send_half()
        self.world.away()
        self.world.clock.pump([0.5] * 8)
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.events.clear()
        self.world.clock.pump([1.0] * 30)
        self.assertEqual([], self.events)
