"""What is printed: safe for a terminal whatever another device writes, and readable."""

import contextlib
import io
import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.cli.items import item_line
from abst.cli.output import (
    human_size,
    human_time,
    one_line,
    printable,
    quantity,
    show_document,
    show_record,
)


class PrintableTests(TestCase):
    """Text from elsewhere."""

    def test_what_people_write_stays(self) -> None:
        for text in ("plain", "Grüße", "日本語", "👨‍👩‍👧", "a\u00a0b", "می‌خواهم"):
            self.assertEqual(text, printable(text))

    def test_what_a_terminal_obeys_is_escaped(self) -> None:
        for text, shown in (
            ("\x1b[2J", r"\x1b[2J"),
            ("\x9b2J", r"\x9b2J"),
            ("a\rb\nc\td\x00\x7f", r"a\rb\nc\td\x00\x7f"),
            ("\u202egnp.exe", r"\u202egnp.exe"),
            ("\u2028x\u2029", r"\u2028x\u2029"),
            ("\udcff", r"\udcff"),
            ("\U000e0041", r"\U000e0041"),
        ):
            self.assertEqual(shown, printable(text))

    @given(st.text())
    def test_nothing_dangerous_is_left(self, text: str) -> None:
        shown = printable(text)
        kinds = {unicodedata.category(letter) for letter in shown if letter not in "\u200c\u200d"}
        self.assertFalse(kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"})
        shown.encode("utf-8")

    @given(st.text())
    def test_one_line_is_one_line(self, text: str) -> None:
        self.assertLessEqual(len(one_line(text).splitlines()), 1)

    @given(st.text())
    def test_json_is_safe_too(self, text: str) -> None:
        for write in (show_record, show_document):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                write({"text": text})
            self.assertTrue(out.getvalue().isascii())
            self.assertEqual({"text": text}, json.loads(out.getvalue()))


class ItemTests(TestCase):
    """Messages and files."""

    def item(self, **changes: object) -> dict[str, object]:
        """Return a message, changed."""
        received_at = "2026-11-23T02:01:19+00:00"
        message = {"kind": "message", "peer": "bob", "text": "hi", "received_at": received_at}
        return {**message, **changes}

    def test_a_message(self) -> None:
        self.assertRegex(item_line(self.item()), r"\A2026-11-2\d \d\d:\d\d:19  bob: hi\Z")

    def test_only_the_first_line_begins_at_the_margin(self) -> None:
        lines = item_line(self.item(text="hi\n2026 eve: x\r\n\u2028y")).split("\n")
        self.assertEqual(["    2026 eve: x\\r", "    \\u2028y"], lines[1:])

    def test_a_file(self) -> None:
        shown = item_line(self.item(kind="file", path="/in/a\x1bb", size_bytes=1234))
        self.assertTrue(shown.endswith(r"bob  sent a file of 1.2 kB: /in/a\x1bb"), shown)

    def test_a_time_that_is_none(self) -> None:
        self.assertTrue(item_line(self.item(received_at="\x1b?")).startswith(r"\x1b?  bob"))


class QuantityTests(TestCase):
    """Numbers for people."""

    def test_sizes(self) -> None:
        for size, shown in (
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (23_100_000, "23.1 MB"),
            (5 * 10**15, "5000.0 TB"),
        ):
            self.assertEqual(shown, human_size(size))

    def test_times(self) -> None:
        for seconds, shown in (
            (0.4, "0 s"),
            (59.9, "59 s"),
            (3600, "1 h"),
            (3725, "1 h 2 min"),
            (200_000, "2 d 7 h"),
        ):
            self.assertEqual(shown, human_time(seconds))

    def test_one_and_many(self) -> None:
        self.assertEqual(("1 piece", "2 pieces"), (quantity(1, "piece"), quantity(2, "piece")))
