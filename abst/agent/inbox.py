"""The inbox: names that cannot harm, and the list of what has arrived.

Owns the choice of a name for what somebody else has named, and the index of messages, files and
folders. How files come here is the business of ``draft`` and ``arrivals``.
"""

from __future__ import annotations

import datetime
from typing import Any, Final

from abst.agent.records import Records
from abst.errors import AbstError

MAX_NAME_BYTES: Final = 200


class StorageError(AbstError):
    """Something cannot be stored here; the text may be told to its sender."""


def plain_name(name: str) -> str:
    """Return a name for a file that somebody else has named: one folder entry, nothing special.

    Only the last part of a path is kept; control characters, leading dots and dashes go, so that
    the name neither leaves the folder nor hides in it nor reads as an option.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(letter if letter.isprintable() else "_" for letter in last)
    # A surrogate comes from a name that was not Unicode on the sender's disk.
    shown = shown.encode("utf-8", "replace").decode("utf-8").strip().lstrip(".-~ ").rstrip(". ")
    while len(shown.encode("utf-8")) > MAX_NAME_BYTES:
        stem, dot, suffix = shown.rpartition(".")
        shown = f"{stem[:-1]}{dot}{suffix}" if stem and len(suffix) < 20 else shown[:-1]
    return shown.rstrip(". ") or "unnamed"


class Inbox:
    """What has arrived at a device.

    Attributes:
        records: the tables behind it.
    """

    def __init__(self, records: Records) -> None:
        self.records = records

    def add(self, item: dict[str, Any]) -> dict[str, Any]:
        """Note something that arrived, with the time; return the whole entry.

        Raises:
            DatabaseError: the disk is full.
        """
        received_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {**item, "received_at": received_at}
        self.records.add_item(entry)
        return entry

    def items(self) -> list[dict[str, Any]]:
        """Return what has arrived, oldest first."""
        return list(self.records.items())
