"""The inbox: the list of the messages, files and folders that have arrived.

How files come here is the business of ``draft`` and ``arriving``.
"""

from __future__ import annotations

import datetime
from typing import Any

from abst.agent.records import Records


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
