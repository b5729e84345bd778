"""What is told of files while they are sent, and while nothing goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from abst.agent.commands import Commands
from abst.agent.home import Home
from abst.agent.packets import MAX_PIECE_BYTES
from abst.agent.patience import PATHLESS_SECONDS, QUIET_SECONDS
from abst.agent.service import AgentService
from abst.testing import MemoryLink
from tests.agent.test_files import FilesTestCase, turn


class SendCommandTests(FilesTestCase):
    """Alice's person sends to Bob, who goes away."""

    def setUp(self) -> None:
        super().setUp()
        home = Home(Path(self.mktemp()))
        home.path.mkdir(mode=0o700)
        self.alice = self.device("alice", home)
        self.ours, self.theirs = self.protocols(self.alice)
        inbox = self.ours.factory.inbox
        nothing = lambda: None  # noqa: E731
        self.commands = Commands(
            self.alice, home, inbox, set(), nothing, nothing, AgentService(None, home)
        )
        self.events: list[dict[str, Any]] = []

    def send(self) -> Deferred[dict[str, Any]]:
        """Send a file, up to the middle of it."""
        paths = [str(self.file(bytes(60 * MAX_PIECE_BYTES)))]
        sent = ensureDeferred(
            self.commands.send({"peer": "bob", "paths": paths}, self.events.append)
        )
        arriving = self.theirs.files._arriving
        for _ in range(10_000):
            if any(file.written_bytes > 5 * MAX_PIECE_BYTES for file in arriving.values()):
                return sent
            turn(self.network)
        self.fail("it does not arrive")

    def told(self) -> list[tuple[bool, str]]:
        """Return what has been told of waiting."""
        found = [event for event in self.events if "waiting" in event]
        for event in found:
            self.assertEqual(("bob", "file.bin"), (event["peer"], event["file"]))
        return [(event["waiting"], event.get("reason", "")) for event in found]

    def assert_sent(self, sent: Deferred[dict[str, Any]]) -> None:
        (file,) = self.network.result(sent)["files"]
        self.assertEqual(60 * MAX_PIECE_BYTES, file["size_bytes"])
        self.assertEqual(["file.bin"], self.stored())
        self.assertTrue(self.events[-1]["done"])

    def test_nothing_is_told_while_it_goes_on(self) -> None:
        sent = self.send()
        self.pass_time()
        self.assert_sent(sent)
        self.assertEqual([], self.told())

    def test_a_peer_that_falls_silent_and_comes_back(self) -> None:
        sent = self.send()
        (link,) = self.bob.links.values()
        assert isinstance(link, MemoryLink)
        held: list[bytes] = []
        link.arrive = held.append  # type: ignore[method-assign, assignment]
        self.pass_time(QUIET_SECONDS - 1)
        self.assertEqual([], self.told())
        self.pass_time(2)
        silent = (True, "bob has not answered for 10 seconds")
        self.assertEqual([silent], self.told())
        self.pass_time(10)
        self.assertEqual([silent], self.told())
        del link.arrive
        for data in held:
            link.arrive(data)
        self.pass_time()
        self.assertEqual([silent, (False, "")], self.told())
        self.assert_sent(sent)

    def test_a_peer_that_is_killed_and_started_again(self) -> None:
        sent = self.send()
        identity, peers = self.bob.identity, self.bob.peers
        self.network.kill(self.bob)
        # A second goes by until the sender asks what has become of the last packets.
        self.pass_time(PATHLESS_SECONDS + 3)
        self.assertEqual([(True, "bob is away")], self.told())
        self.bob = self.device("bob", self.home, identity=identity, peers=peers)
        self.pass_time(60)
        self.assertEqual([(True, "bob is away"), (False, "")], self.told())
        self.assert_sent(sent)

    def test_a_realm_that_goes_away(self) -> None:
        sent = self.send()
        self.network.realm.stop()
        self.pass_time(PATHLESS_SECONDS + 1)
        ((waiting, reason),) = self.told()
        self.assertTrue(waiting)
        self.assertTrue(reason.startswith("this device is not connected to a realm ("), reason)
        self.network.realm.start()
        self.pass_time(90)
        self.assert_sent(sent)
        self.assertEqual([True, False], [waiting for waiting, _ in self.told()])

    def test_whoever_gives_up_is_told_no_more(self) -> None:
        sent = self.send()
        self.network.kill(self.bob)
        self.pass_time(PATHLESS_SECONDS + 1)
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.events.clear()
        self.pass_time(30)
        self.assertEqual([], self.events)
