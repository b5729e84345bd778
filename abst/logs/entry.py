"""Entries of a log: what is taken of Twisted's events, on one line and bounded.

Owns which fields there are beside the message. An event has whatever somebody has put into it; only
what is named here is written, so that nothing gets into a log by accident.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import Any, Final

from twisted.logger import formatEvent
from twisted.python.failure import Failure

FIELDS: Final = (
    "connection",
    "other_connection",
    "device",
    "remote",
    "code",
    "packet",
    "bytes",
    "seconds",
)
"""What an event may carry under these names is a field of its entry."""

PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
"""The levels of Twisted's events as syslog(3) numbers them."""

MAX_FIELD_CHARACTERS: Final = 200
MAX_MESSAGE_CHARACTERS: Final = 4096
MAX_TRACEBACK_CHARACTERS: Final = 24_576
"""A traceback's end says what failed, so of a longer one the beginning is left out."""

_LOGGER_MODULE: Final = "twisted.logger._logger"


class Level(StrEnum):
    """What is written: entries of this level, and graver ones."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"

    @property
    def priority(self) -> int:
        """The highest of syslog's numbers that is written."""
        return PRIORITIES[self]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the program something was logged, or failed."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log.

    Attributes:
        time: when it was, in seconds since 1970.
        level: its level, as Twisted names it.
        namespace: which part of the program says it.
        message: what it says, without a line break.
        traceback: the lines of what failed, or "".
        fields: what belongs to it, by a name of ``FIELDS``.
        place: where it was said; None when that is not known.
    """

    time: float
    level: str
    namespace: str
    message: str
    traceback: str = ""
    fields: tuple[tuple[str, str | int], ...] = ()
    place: Place | None = None


def one_line(text: str, most: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return text that is one line wherever it is shown, cut off behind so many characters."""
    shown = _printable(text[:most])
    return shown if max(len(text), len(shown)) <= most else shown[:most] + "..."


def _printable(text: str) -> str:
    """Return text in which what is not printable stands as Python writes it in a string.

    Those are line breaks of every kind, a terminal's control characters, and what changes the
    direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )


def level_of(event: dict[str, Any]) -> str:
    """Return the name of an event's level; what has none is for information."""
    name = getattr(event.get("log_level"), "name", "info")
    return name if name in PRIORITIES else "info"


def entry_of(event: dict[str, Any]) -> Entry | None:
    """Return the entry for an event of Twisted's; None when it says nothing."""
    message = formatEvent(event)
    failure = event.get("log_failure")
    traceback = _traceback(failure) if isinstance(failure, Failure) else ""
    if not (message or traceback):
        return None
    return Entry(
        event.get("log_time") or time.time(),
        level_of(event),
        one_line(str(event.get("log_namespace", "-")), MAX_FIELD_CHARACTERS),
        one_line(message),
        traceback,
        tuple((name, _field(event[name])) for name in FIELDS if name in event),
        _place_of_failure(failure) if isinstance(failure, Failure) else _place_of_call(),
    )


def _field(value: Any) -> str | int:
    if isinstance(value, int):
        return int(value)
    return one_line(str(value), MAX_FIELD_CHARACTERS)


def _traceback(failure: Failure) -> str:
    text: str = failure.getTraceback().strip()[-MAX_TRACEBACK_CHARACTERS:]
    return "\n".join(map(_printable, text.split("\n")))[-MAX_TRACEBACK_CHARACTERS:]


def _place_of_failure(failure: Failure) -> Place | None:
    if not failure.frames:
        return None
    function, file, line, *_ = failure.frames[-1]
    return Place(file, line, function)


def _place_of_call() -> Place | None:
    """Return who has called Twisted's logger; None for what was kept since before the log began."""
    frame: FrameType | None = sys._getframe()
    was_logger = False
    while frame is not None:
        is_logger = frame.f_globals.get("__name__") == _LOGGER_MODULE
        if was_logger and not is_logger:
            return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        was_logger = is_logger
        frame = frame.f_back
    return None
