"""The verdict of the demonstration: it finds what is there, and fails when that is a secret."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from abst.cli.demo import LARGE_FILE_BYTES, MESSAGE, DemoFailedError, judge, large_file
from abst.cli.demo_realm import Record
from abst.cli.demo_record import PIECE_BYTES, PIECES, Finding, file_pieces, search_record
from abst.cli.demo_stage import Interruptions, Stage
from abst.device_id import DeviceID

IDS = [str(DeviceID.of_key(bytes([number]))) for number in (1, 2)]


class SearchTests(TestCase):
    """Looking for secrets in what a realm has read."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.secret = self.file("secret-plans.bin", os.urandom(100_000))
        self.record = self.file("record", b"".join(bytes(DeviceID.parse(text)) for text in IDS))

    def file(self, name: str, content: bytes) -> Path:
        """Write a file."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def search(self) -> dict[str, Finding]:
        """Search the record, and return the findings by what was looked for."""
        findings = search_record(self.record, IDS, [self.secret], {"the message": MESSAGE})
        return {finding.what: finding for finding in findings}

    def add(self, data: bytes) -> None:
        """Let the realm have read this too."""
        with self.record.open("ab") as record:
            record.write(data)

    def test_a_realm_that_could_read_nothing(self) -> None:
        self.add(os.urandom(200_000))
        findings = self.search()
        self.assertTrue(all(finding.is_as_expected for finding in findings.values()))
        self.assertEqual(2, findings["the device IDs"].found)
        self.assertGreaterEqual(findings["the content of secret-plans.bin"].looked_for, PIECES)

    def test_each_secret_is_found(self) -> None:
        content = self.secret.read_bytes()
        for what, leak in (
            ("the message", b"xx" + MESSAGE.encode() + b"xx"),
            ("the name secret-plans.bin", b"/home/secret-plans.bin\x00"),
            ("the content of secret-plans.bin", content),
            ("the content of secret-plans.bin", content[40_000:50_000]),
        ):
            before = self.record.read_bytes()
            self.add(leak)
            wrong = [what for what, found in self.search().items() if not found.is_as_expected]
            self.assertEqual([what], wrong)
            self.record.write_bytes(before)

    def test_a_search_that_does_not_work_is_seen(self) -> None:
        self.record.write_bytes(b"nothing at all")
        self.assertFalse(self.search()["the device IDs"].is_as_expected)

    def test_pieces_are_taken_all_over_and_pass_over_what_may_be_anywhere(self) -> None:
        content = os.urandom(50_000)
        path = self.file("half", bytes(50_000) + content)
        pieces = file_pieces(path)
        self.assertTrue(all(len(piece) == PIECE_BYTES for piece in pieces))
        self.assertTrue(all(piece in content for piece in pieces))
        self.assertGreaterEqual(len(pieces), PIECES // 2)
        self.assertEqual([], file_pieces(self.file("zeros", bytes(100_000))))
        self.assertEqual([], file_pieces(self.file("empty", b"")))

    def test_names_that_prove_nothing_are_not_looked_for(self) -> None:
        self.add(b"content a.txt")
        for name in ("a.txt", "content"):
            self.secret = self.file(name, b"")
            finding = self.search()[f"the name {name}"]
            self.assertEqual((0, True), (finding.looked_for, finding.is_as_expected))
            self.assertTrue(finding.reason)


class ReportedStage(Stage):
    """A stage whose realm has reported already."""

    def __init__(self, folder: Path, report: dict[str, Any]) -> None:
        super().__init__(folder, Interruptions())
        self.report = report

    def stop_realm(self) -> dict[str, Any]:
        return self.report


class JudgeTests(TestCase):
    """The verdict."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file = self.folder / "secret-plans.bin"
        self.file.write_bytes(os.urandom(5000))

    def judge(self, seen: bytes, **changes: Any) -> str:
        """Return what is said about a realm that has read this."""
        whole = b"".join(bytes(DeviceID.parse(text)) for text in IDS) + seen
        report = {
            "relayed_packets": 9,
            "relayed_bytes": len(whole),
            "received_bytes": len(whole),
            "device_ids": IDS,
            **changes,
        }
        stage = ReportedStage(self.folder, report)
        stage.record.write_bytes(whole)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            judge(stage, IDS, [self.file])
        return out.getvalue()

    def test_a_blind_realm(self) -> None:
        said = self.judge(os.urandom(6000))
        self.assertIn("found 2 of 2, so the search works", said)
        self.assertIn("the name secret-plans.bin: not found", said)

    def test_a_realm_that_has_read_the_file(self) -> None:
        leak = self.file.read_bytes()
        error = self.assertRaises(DemoFailedError, self.judge, leak)
        self.assertIn("the content of secret-plans.bin", str(error))

    def test_a_realm_that_has_relayed_nothing(self) -> None:
        self.assertRaises(DemoFailedError, self.judge, b"")

    def test_a_realm_that_has_seen_others(self) -> None:
        self.assertRaises(DemoFailedError, self.judge, os.urandom(6000), device_ids=IDS[:1])

    def test_a_copy_that_is_not_whole_says_so(self) -> None:
        said = self.judge(os.urandom(6000), received_bytes=10**9, relayed_bytes=10**9)
        self.assertIn("It holds the first 6.0 kB of 1.0 GB", said)


class InterruptionsTests(TestCase):
    """Signals come through at the right moment."""

    def test_a_signal_interrupts(self) -> None:
        self.assertRaises(KeyboardInterrupt, Interruptions(), 2, None)

    def test_a_signal_waits_while_it_is_held(self) -> None:
        interruptions = Interruptions()
        done = []
        with self.assertRaises(KeyboardInterrupt), interruptions.held():
            interruptions(2, None)
            done.append("to the end")
        self.assertEqual(["to the end"], done)

    def test_no_signal_interrupts_what_clears_up(self) -> None:
        interruptions = Interruptions()
        interruptions.ignore()
        interruptions(2, None)


class PartsTests(TestCase):
    """What the demonstration is made of."""

    def test_a_large_file_is_found(self) -> None:
        self.assertGreaterEqual(large_file().stat().st_size, LARGE_FILE_BYTES)

    def test_the_copy_is_bounded(self) -> None:
        file = io.BytesIO()
        record = Record(file, room_bytes=10)
        for _ in range(3):
            record.add(b"abcdefg")
        self.assertEqual((b"abcdefgabc", 21), (file.getvalue(), record.received_bytes))
