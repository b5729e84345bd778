"""What the log tells of connections: their numbers, and no more of strangers than is bearable."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from abst.errors import Code
from abst.logs.entry import Entry, entry_of
from abst.packets import Error
from abst.realm.story import STRANGERS_LINES, STRANGERS_SECONDS, Stories, Story
from tests.logs.events import Collected

DEVICE = bytes.fromhex("1a2b3c4d") + bytes(12)
DONE = Failure(ConnectionDone())


class StoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = Collected()
        self.clock = Clock()
        self.stories = Stories(self.events.logger(), self.clock.seconds)

    def entries(self) -> list[Entry]:
        """Return the entries since the last time."""
        found = [entry_of(event) for event in self.events]
        self.events.clear()
        return [entry for entry in found if entry is not None]

    def said(self, level: str = "info") -> list[str]:
        """Return what was said on a level since the last time."""
        return [entry.message for entry in self.entries() if entry.level == level]

    def begin(self) -> Story:
        story = self.stories.begin()
        story.remote = ("192.0.2.7", 4000)
        return story

    def test_every_entry_has_the_number_and_the_device(self) -> None:
        story, other = self.begin(), self.begin()
        story.arrived(DEVICE, 3)
        story.told(Error(Code.TARGET_ABSENT, "", about=2))
        story.told(Error(Code.IDENTITY_CONFLICT, ""))
        story.ended(DEVICE, Code.SILENT, DONE)
        other.became_leg(DEVICE)
        other.joined(story)
        other.parted(story, Code.CIRCUIT_IDLE, 5)
        other.refused_leg(Code.CIRCUIT_UNANSWERED)
        entries = self.entries()
        self.assertEqual([1, 1, 1, 1, 2, 2, 2, 2], [dict(e.fields)["connection"] for e in entries])
        self.assertEqual({"1a2b3c4d"}, {dict(entry.fields)["device"] for entry in entries})
        for entry in entries:
            self.assertTrue(
                entry.message.startswith(f"connection {dict(entry.fields)['connection']}: ")
            )
        self.assertEqual(
            [
                "connection 1: device 1a2b3c4d is here, 3 in all",
                "connection 1: it is told target_absent about packet 2",
                "connection 1: it is told identity_conflict",
                "connection 1: device 1a2b3c4d is gone (silent)",
                "connection 2: it is a leg of device 1a2b3c4d",
                "connection 2: a circuit joins it and connection 1",
                "connection 2: its circuit with connection 1 is over (circuit_idle), 5 bytes",
                "connection 2: nothing comes of the leg (circuit_unanswered)",
            ],
            [entry.message for entry in entries],
        )

    def test_who_goes_by_itself_is_told_so(self) -> None:
        story = self.begin()
        story.arrived(DEVICE, 1)
        story.ended(DEVICE, None, DONE)
        story.parted(self.begin(), None, 7)
        _, gone, over = self.said()
        self.assertEqual("connection 1: device 1a2b3c4d is gone (it closed)", gone)
        self.assertIn("is over (it closed), 7 bytes", over)

    def test_addresses_are_there_only_when_they_may_be(self) -> None:
        self.begin().arrived(DEVICE, 1)
        (entry,) = self.entries()
        self.assertNotIn("192.0.2.7", str(entry))
        self.stories.shows_addresses = True
        self.begin().arrived(DEVICE, 1)
        self.stories.begin().arrived(DEVICE, 1)
        first, unknown = self.entries()
        self.assertTrue(first.message.startswith("connection 2 from 192.0.2.7 port 4000: device"))
        self.assertEqual("192.0.2.7 port 4000", dict(first.fields)["remote"])
        self.assertTrue(unknown.message.startswith("connection 3: device"))

    def test_strangers_cause_a_few_lines_a_minute(self) -> None:
        def flood() -> None:
            for _ in range(500):
                self.begin().ended(DEVICE, Code.HELLO_LATE, DONE)
                self.begin().refused_leg(Code.TLS_REQUIRED)

        flood()
        self.assertEqual(STRANGERS_LINES, len(self.said()))
        self.clock.advance(STRANGERS_SECONDS)
        flood()
        told = f"{1000 - STRANGERS_LINES} connections more came to nothing; 'debug' logs each"
        self.assertEqual(told, self.said()[0])
        self.begin().arrived(DEVICE, 1)
        self.assertEqual(1, len(self.said()))

    def test_nothing_is_untold_when_there_are_few(self) -> None:
        for _ in range(3):
            self.begin().ended(None, Code.HELLO_FIRST, DONE)
            self.clock.advance(STRANGERS_SECONDS)
        expected = [
            f"connection {n}: device unknown was not let in (hello_first)" for n in (1, 2, 3)
        ]
        self.assertEqual(expected, self.said())

    def test_who_says_nothing_is_not_told_of_and_what_breaks_is_only_for_debugging(self) -> None:
        self.begin().ended(None, None, DONE)
        self.assertEqual([], self.entries())
        self.begin().ended(None, None, Failure(ConnectionLost("a reason")))
        self.begin().ended(DEVICE, None, Failure(ConnectionLost()))
        (first, _) = self.said("debug")
        self.assertIn("it ended before Hello", first)
        self.assertIn("a reason", first)
