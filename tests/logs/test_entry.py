"""What an entry takes of an event, and that no event can make it look like two."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from abst.errors import Code
from abst.logs.entry import (
    MAX_FIELD_CHARACTERS,
    MAX_MESSAGE_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    Entry,
    Level,
    Place,
    entry_of,
    level_of,
    one_line,
)
from abst.logs.formats import as_datagram, as_json, as_text
from tests.logs.events import failed, logged

TEXTS = st.text(st.characters(exclude_categories=()))


def entry(event: dict[str, object]) -> Entry:
    """Return the entry of an event that has one."""
    found = entry_of(event)
    assert found is not None
    return found


@implementer(ILogObserver)
class Entries(list[Entry]):
    """An observer that keeps the entries of the events."""

    def __call__(self, event: LogEvent) -> None:
        self.append(entry(event))


def fields_of(datagram: bytes) -> list[tuple[str, bytes]]:
    """Read a datagram as journald does."""
    fields = []
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if not sign:
            size = int.from_bytes(rest[:8], "little")
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n" and len(value) == size
        fields.append((name.decode("ascii"), value))
        datagram = rest
    return fields


class EntryTests(SynchronousTestCase):
    def test_it_has_what_was_said_and_the_fields_that_are_known(self) -> None:
        event = logged(
            "connection {connection}: {code}", connection=7, code=Code.SILENT, secret="x"
        )
        found = entry(event)
        self.assertEqual("connection 7: silent", found.message)
        self.assertEqual(("info", "abst.realm"), (found.level, found.namespace))
        self.assertEqual((("connection", 7), ("code", "silent")), found.fields)
        self.assertEqual(event["log_time"], found.time)
        self.assertEqual("", found.traceback)

    def test_an_event_that_says_nothing_has_none(self) -> None:
        self.assertIsNone(entry_of({"log_format": ""}))
        self.assertIsNone(entry_of({}))

    def test_it_tells_where_something_was_logged(self) -> None:
        place = self.place_of_log()
        assert place is not None
        self.assertEqual(("test_entry.py", "place_of_log"), (Path(place.file).name, place.function))

    def place_of_log(self) -> Place | None:
        observer = Entries()
        Logger(observer=observer).info("here")
        return observer[0].place

    def test_it_tells_where_something_failed(self) -> None:
        found = entry(failed("it failed", ValueError("no")))
        assert found.place is not None
        self.assertEqual("failed", found.place.function)
        self.assertEqual("it failed", found.message)
        self.assertIn("ValueError: no", found.traceback.splitlines()[-1])
        self.assertEqual("critical", found.level)

    def test_what_was_kept_since_before_the_log_began_has_no_place(self) -> None:
        self.assertIsNone(entry(logged("long ago")).place)

    def test_old_events_have_one_too(self) -> None:
        observer = Entries()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        log.msg("in the old way")
        self.assertEqual(["in the old way"], [found.message for found in observer])

    def test_it_is_bounded(self) -> None:
        found = entry(logged("{said}", said="x" * 100_000, device="y" * 100_000))
        self.assertLessEqual(len(found.message), MAX_MESSAGE_CHARACTERS + 3)
        self.assertLessEqual(len(str(dict(found.fields)["device"])), MAX_FIELD_CHARACTERS + 3)
        found = entry(failed("it failed", ValueError("z" * 100_000 + "the end")))
        self.assertLessEqual(len(found.traceback), MAX_TRACEBACK_CHARACTERS)
        self.assertIn("the end", found.traceback)

    def test_levels_of_every_event_are_known(self) -> None:
        self.assertEqual("info", level_of({}))
        self.assertEqual("info", level_of({"log_level": object()}))
        self.assertEqual([7, 6, 4, 3], [level.priority for level in Level])

    @given(TEXTS)
    def test_text_is_one_line_without_control_characters(self, text: str) -> None:
        found = one_line(text)
        self.assertLessEqual(len(found.splitlines()), 1)
        bad = {"Cc", "Cf", "Zl", "Zp", "Cs"}
        self.assertEqual([], [c for c in found if unicodedata.category(c) in bad])

    def test_text_that_is_harmless_stays(self) -> None:
        self.assertEqual("Zoë, 東京", one_line("Zoë, 東京"))
        self.assertEqual("a\\nb\\x1b[2J\\u202e", one_line("a\nb\x1b[2J\u202e"))


class FormatTests(SynchronousTestCase):
    @given(TEXTS, TEXTS)
    def test_no_value_makes_two_lines_or_other_fields(self, text: str, device: str) -> None:
        found = entry(logged("it is {said}", said=text, device=device, connection=1))
        self.assertEqual(1, len(as_text(found).splitlines()))
        line = as_json(found)
        self.assertEqual(1, len(line.splitlines()))
        self.assertEqual(found.message, json.loads(line)["message"])
        fields = fields_of(as_datagram(found, "abst-realm"))
        names = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "ABST_NAMESPACE"]
        self.assertEqual([*names, "ABST_CONNECTION", "ABST_DEVICE"], [name for name, _ in fields])

    def test_a_line_is_as_twisted_writes_it(self) -> None:
        found = Entry(0.0, "warn", "abst.realm", "it is late")
        self.assertRegex(
            as_text(found), r"^19\S+T\d\d:\d\d:\d\d[+-]\d{4} \[abst\.realm#warn\] it is late\n$"
        )

    def test_a_traceback_stands_behind_tabs(self) -> None:
        first, *rest = as_text(entry(failed("it failed", ValueError("a\nb")))).splitlines()
        self.assertTrue(first.endswith("[abst.realm#critical] it failed"), first)
        self.assertTrue(all(line.startswith("\t") for line in rest), rest)

    def test_json_has_the_time_in_utc_and_the_fields(self) -> None:
        fields = (("connection", 7), ("device", "1a2b3c4d"))
        found = Entry(1.5, "info", "abst.realm", "hello", "what\nfailed", fields)
        self.assertEqual(
            {
                "time": "1970-01-01T00:00:01.500000Z",
                "level": "info",
                "message": "hello",
                "namespace": "abst.realm",
                "connection": 7,
                "device": "1a2b3c4d",
                "traceback": "what\nfailed",
            },
            json.loads(as_json(found)),
        )

    def test_the_journal_gets_every_part(self) -> None:
        fields = (("connection", 7), ("other_connection", 8), ("code", "silent"))
        place = Place("/realm.py", 12, "look")
        found = Entry(0.0, "error", "abst.realm", "hello", "what\nfailed", fields, place)
        self.assertEqual(
            [
                ("MESSAGE", b"hello\nwhat\nfailed"),
                ("PRIORITY", b"3"),
                ("SYSLOG_IDENTIFIER", b"abst-realm"),
                ("CODE_FILE", b"/realm.py"),
                ("CODE_LINE", b"12"),
                ("CODE_FUNC", b"look"),
                ("ABST_NAMESPACE", b"abst.realm"),
                ("ABST_CONNECTION", b"7"),
                ("ABST_CONNECTION", b"8"),
                ("ABST_CODE", b"silent"),
            ],
            fields_of(as_datagram(found, "abst-realm")),
        )
