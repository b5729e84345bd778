"""The observer of Twisted's events that writes them, and the choice of where to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TextIO

from twisted.logger import ILogObserver
from zope.interface import implementer

from abst.errors import ConfigurationError
from abst.logs.entry import PRIORITIES, Entry, Level, entry_of, level_of
from abst.logs.formats import as_json, as_text
from abst.logs.journal import JOURNAL_SOCKET, Journal, has_journal, is_journal

NAMESPACE: Final = "abst.logs"


class LogFormat(StrEnum):
    """How a log is written; ``auto``: to the journal where standard error goes there, or lines."""

    AUTO = "auto"
    LINES = "lines"
    JSON = "json"
    JOURNAL = "journal"


@implementer(ILogObserver)
class Log:
    """Writes Twisted's events from a level on.

    Args:
        write: writes an entry; returns False when it is lost.
        level: what is written.

    Attributes:
        level: the same; it may be changed at any time.
        lost: how many entries were lost since one was written.
    """

    def __init__(self, write: Callable[[Entry], bool], level: Level) -> None:
        self._write = write
        self.level = level
        self.lost = 0

    def __call__(self, event: dict[str, Any]) -> None:
        """Write an event, and before it how many were lost since the last one."""
        if PRIORITIES[level_of(event)] > self.level.priority:
            return
        entry = entry_of(event)
        if entry is None:
            return
        if self.lost and self._write(lost_entry(self.lost)):
            self.lost = 0
        # What was lost is said first, or not at all: else it would seem that nothing was.
        if self.lost or not self._write(entry):
            self.lost += 1


def lost_entry(count: int) -> Entry:
    """Return the entry that says how many were lost."""
    lines = "1 line of the log was" if count == 1 else f"{count} lines of the log were"
    return Entry(time.time(), "warn", NAMESPACE, f"{lines} lost here")


class Lines:
    """Writes entries to a text file, such as standard output.

    Args:
        out: the file.
        format_entry: returns the line for an entry.
    """

    def __init__(self, out: TextIO, format_entry: Callable[[Entry], str]) -> None:
        self._out = out
        self._format_entry = format_entry
        self._encoding = getattr(out, "encoding", None) or "utf-8"

    def __call__(self, entry: Entry) -> bool:
        """Write an entry; return False when the file takes nothing."""
        line = self._format_entry(entry)
        try:
            self._out.write(line.encode(self._encoding, "backslashreplace").decode(self._encoding))
            self._out.flush()
        except (OSError, ValueError):
            return False
        return True


def open_log(
    log_format: LogFormat,
    level: Level,
    *,
    identifier: str,
    out: TextIO,
    environment: Mapping[str, str] = os.environ,
    journal_socket: str = JOURNAL_SOCKET,
) -> Log:
    """Return the log that was asked for.

    Args:
        log_format: how it is written.
        level: from which level on.
        identifier: the program's name in the journal.
        out: where lines go.
        environment: where systemd says whether standard error is the journal.
        journal_socket: where journald takes entries.

    Raises:
        ConfigurationError: the journal was asked for, and there is none.
    """
    if log_format is LogFormat.JOURNAL and not has_journal(journal_socket):
        reason = f"there is no journald at {journal_socket}; 'auto' takes it where it is there"
        raise ConfigurationError("log", None, reason)
    is_to_journal = log_format is LogFormat.JOURNAL or (
        log_format is LogFormat.AUTO and is_journal(environment) and has_journal(journal_socket)
    )
    if is_to_journal:
        return Log(Journal(journal_socket, identifier), level)
    return Log(Lines(out, as_json if log_format is LogFormat.JSON else as_text), level)
