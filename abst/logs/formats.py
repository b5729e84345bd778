"""How an entry of a log is written: as a line of text, as one of JSON, as journald's datagram."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from twisted.logger import formatTime

from abst.logs.entry import PRIORITIES, Entry


def as_text(entry: Entry) -> str:
    """Return the line that Twisted writes; those of a traceback follow, each behind a tab."""
    head = f"{formatTime(entry.time)} [{entry.namespace}#{entry.level}] {entry.message}"
    if not entry.traceback:
        return f"{head}\n"
    return f"{head}\n\t" + entry.traceback.replace("\n", "\n\t") + "\n"


def as_json(entry: Entry) -> str:
    """Return one JSON object on one line, in ASCII."""
    values: dict[str, str | int] = {
        "time": _utc(entry.time),
        "level": entry.level,
        "message": entry.message,
        "namespace": entry.namespace,
        **dict(entry.fields),
    }
    if entry.traceback:
        values["traceback"] = entry.traceback
    return json.dumps(values) + "\n"


def as_datagram(entry: Entry, identifier: str) -> bytes:
    """Return the entry in journald's native protocol.

    A field of ours is called after its name here, as in ``ABST_DEVICE``. Both connections of an
    entry about two are called ``ABST_CONNECTION``, so that it is found by either.
    """
    return b"".join(_encoded(*item) for item in _journal_fields(entry, identifier))


def _journal_fields(entry: Entry, identifier: str) -> Iterator[tuple[str, str | int]]:
    # journalctl indents what follows a line break, so a traceback cannot pass for another entry.
    yield "MESSAGE", "\n".join(filter(None, (entry.message, entry.traceback)))
    yield "PRIORITY", PRIORITIES[entry.level]
    yield "SYSLOG_IDENTIFIER", identifier
    if entry.place is not None:
        yield "CODE_FILE", entry.place.file
        yield "CODE_LINE", entry.place.line
        yield "CODE_FUNC", entry.place.function
    yield "ABST_NAMESPACE", entry.namespace
    for name, value in entry.fields:
        yield f"ABST_{name.removeprefix('other_').upper()}", value


def _encoded(name: str, value: str | int) -> bytes:
    data = str(value).encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode("ascii"), data)
    return b"%s\n%s%s\n" % (name.encode("ascii"), len(data).to_bytes(8, "little"), data)


def _utc(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds") + "Z"
