"""Where a log goes: real sockets in journald's place, real files, and the choice between them."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.application.service import Application
from twisted.logger import ILogObserver, Logger
from twisted.trial.unittest import SynchronousTestCase

from abst.errors import ConfigurationError
from abst.logs import Level, Log, LogFormat, LoggingService, open_log, open_twistd_log
from abst.logs.entry import MAX_TRACEBACK_CHARACTERS, Entry
from abst.logs.journal import Journal, is_journal
from tests.logs.events import failed, logged
from tests.logs.test_entry import fields_of


class JournalSocket:
    """A socket in journald's place."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(10)

    def receive(self) -> dict[str, str]:
        """Return the next entry's fields."""
        fields = fields_of(self._socket.recv(1_000_000))
        return {name: value.decode("utf-8") for name, value in fields}

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        # The folder that trial gives may be too long for a socket's address.
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = f"{folder}/socket"
        self.journal = Journal(self.path, "abst-realm")
        self.addCleanup(self.journal.close)
        self.log = Log(self.journal, Level.INFO)

    def listen(self) -> JournalSocket:
        listener = JournalSocket(self.path)
        self.addCleanup(listener.close)
        return listener

    def test_entries_arrive_with_their_fields(self) -> None:
        listener = self.listen()
        self.log(logged("connection {connection} is here", connection=7, device="1a2b3c4d"))
        found = listener.receive()
        self.assertEqual("connection 7 is here", found["MESSAGE"])
        self.assertEqual(("7", "1a2b3c4d"), (found["ABST_CONNECTION"], found["ABST_DEVICE"]))

    def test_the_largest_entry_fits_a_datagram(self) -> None:
        listener = self.listen()
        text = "\U0001f9a6" * 50_000
        self.log(failed(text, ValueError(text)))
        self.assertGreater(len(listener.receive()["MESSAGE"]), MAX_TRACEBACK_CHARACTERS)
        self.assertEqual(0, self.log.lost)

    def test_a_full_socket_keeps_nobody_waiting_and_what_is_lost_is_said(self) -> None:
        listener = self.listen()
        written = 0
        while not self.log.lost:
            self.log(logged("line {number}", number=written))
            written += 1
            self.assertLess(written, 100_000)
        self.log(logged("another one"))
        for number in range(written - 1):
            self.assertEqual(f"line {number}", listener.receive()["MESSAGE"])
        self.log(logged("there is room again"))
        self.assertEqual("2 lines of the log were lost here", listener.receive()["MESSAGE"])
        self.assertEqual("there is room again", listener.receive()["MESSAGE"])
        self.assertEqual(0, self.log.lost)

    def test_journald_may_be_away_and_come_back(self) -> None:
        self.log(logged("nobody hears it"))
        self.assertEqual(1, self.log.lost)
        first = self.listen()
        self.log(logged("somebody does"))
        self.assertEqual("1 line of the log was lost here", first.receive()["MESSAGE"])
        self.assertEqual("somebody does", first.receive()["MESSAGE"])
        first.close()
        os.unlink(self.path)
        second = self.listen()
        self.log(logged("still"))
        self.assertEqual("still", second.receive()["MESSAGE"])


class LevelTests(SynchronousTestCase):
    def test_what_is_below_the_level_is_not_written_and_the_level_may_change(self) -> None:
        written: list[str] = []

        def write(entry: Entry) -> bool:
            written.append(entry.message)
            return True

        log = Log(write, Level.WARN)
        logger = Logger(observer=log)
        for level in Level:
            log.level = level
            logger.debug(f"debug at {level}")
            logger.info(f"info at {level}")
            logger.warn(f"warn at {level}")
            logger.error(f"error at {level}")
            logger.critical(f"critical at {level}")
        expected = [
            f"{said} at {level}"
            for number, level in enumerate(Level)
            for said in ("debug", "info", "warn", "error", "critical")[number:]
        ]
        self.assertEqual(expected, written)


class ChoiceTests(SynchronousTestCase):
    """Which log is opened, with real files and sockets behind it."""

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = f"{folder}/socket"

    def open(self, log_format: LogFormat, **environment: str) -> tuple[Log, io.StringIO]:
        out = io.StringIO()
        log = open_log(
            log_format,
            Level.INFO,
            identifier="abst-realm",
            out=out,
            environment=environment,
            journal_socket=self.path,
        )
        return log, out

    def stream(self, descriptor: int) -> str:
        found = os.fstat(descriptor)
        return f"{found.st_dev}:{found.st_ino}"

    def test_standard_error_is_the_journal_only_when_it_is_the_same_file(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        stream = {"JOURNAL_STREAM": self.stream(writing)}
        self.assertTrue(is_journal(stream, writing))
        with open(self.mktemp(), "wb") as other:
            self.assertFalse(is_journal(stream, other.fileno()))
        self.assertFalse(is_journal({}, writing))
        self.assertFalse(is_journal({"JOURNAL_STREAM": "nonsense"}, writing))
        closed = os.dup(writing)
        os.close(closed)
        self.assertFalse(is_journal(stream, closed))

    def test_auto_takes_the_journal_where_standard_error_goes(self) -> None:
        listener = JournalSocket(self.path)
        self.addCleanup(listener.close)
        log, out = self.open(LogFormat.AUTO, JOURNAL_STREAM=self.stream(2))
        log(logged("hello"))
        self.assertEqual("hello", listener.receive()["MESSAGE"])
        self.assertEqual("", out.getvalue())

    def test_auto_takes_lines_elsewhere_or_without_journald(self) -> None:
        for environment in ({}, {"JOURNAL_STREAM": self.stream(2)}):
            log, out = self.open(LogFormat.AUTO, **environment)
            log(logged("hello"))
            self.assertRegex(out.getvalue(), r"\[abst\.realm#info\] hello\n$")

    def test_json_is_written_also_under_systemd(self) -> None:
        log, out = self.open(LogFormat.JSON, JOURNAL_STREAM=self.stream(2))
        log(logged("hello {device}", device="1a2b3c4d"))
        self.assertEqual("1a2b3c4d", json.loads(out.getvalue())["device"])

    def test_a_journal_that_is_not_there_is_refused_when_it_was_asked_for(self) -> None:
        error = self.assertRaises(ConfigurationError, self.open, LogFormat.JOURNAL)
        self.assertIn("log: there is no journald", str(error))
        Path(self.path).write_bytes(b"no socket")
        self.assertRaises(ConfigurationError, self.open, LogFormat.JOURNAL)

    def test_a_file_that_takes_nothing_loses_lines_and_says_so(self) -> None:
        out = Full()
        log = open_log(LogFormat.LINES, Level.INFO, identifier="x", out=out, environment={})
        log(logged("first"))
        out.is_full = True
        log(logged("second"))
        out.is_full = False
        log(logged("third"))
        lines = [line.partition("] ")[2] for line in out.getvalue().splitlines()]
        self.assertEqual(["first", "1 line of the log was lost here", "third"], lines)

    def test_what_the_terminal_cannot_show_is_written_in_another_way(self) -> None:
        written = io.BytesIO()
        out = io.TextIOWrapper(written, encoding="ascii")
        log = open_log(LogFormat.LINES, Level.INFO, identifier="x", out=out, environment={})
        log(logged("an otter: \U0001f9a6"))
        self.assertIn(b"an otter: \\U0001f9a6\n", written.getvalue())


class Full(io.StringIO):
    """A file on a disk that is full now and then."""

    is_full = False

    def write(self, text: str) -> int:
        """Write, or fail as a full disk does."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)


class TwistdTests(SynchronousTestCase):
    """Which log ``twistd`` gets from a service."""

    def open(self, **options: Any) -> Log | None:
        return open_twistd_log(LogFormat.AUTO, Level.INFO, options, "abst-realm")

    def test_the_application_takes_it_from_the_service(self) -> None:
        service = LoggingService()
        service.log_output = log = open_twistd_log(LogFormat.LINES, Level.INFO, None, "x")
        application = Application("x")
        service.setServiceParent(application)
        self.assertIs(log, ILogObserver(application))

    def test_without_one_twistd_has_its_own(self) -> None:
        application = Application("x")
        LoggingService().setServiceParent(application)
        self.assertIsNone(ILogObserver(application, None))

    def test_a_log_that_was_named_to_twistd_counts(self) -> None:
        self.assertIsNone(self.open(nodaemon=True, syslog=True))
        self.assertIsNone(self.open(nodaemon=True, logger="a.name"))
        self.assertIsNone(self.open(nodaemon=False, logfile="-"))
        self.assertIsNotNone(self.open(nodaemon=True, logfile="-"))

    def test_a_file_that_was_named_to_twistd_gets_the_lines(self) -> None:
        file = Path(self.mktemp())
        log = self.open(nodaemon=True, logfile=str(file))
        assert log is not None
        log(logged("hello"))
        self.assertIn("[abst.realm#info] hello\n", file.read_text("utf-8"))

    def test_a_file_that_cannot_be_written_is_refused_by_its_name(self) -> None:
        file = Path(self.mktemp(), "missing", "realm.log").absolute()
        error = self.assertRaises(ConfigurationError, self.open, nodaemon=True, logfile=str(file))
        self.assertEqual(f"--logfile: {file}: No such file or directory", str(error))
