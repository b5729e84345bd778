"""What is said of an item before it comes, and how a journal keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Offer:
    """What a sender says of an item before it comes.

    Attributes:
        transfer: names the transfer.
        device_id: the sender.
        name: what the sender calls it.
        is_folder: whether it is a folder.
        size_bytes: the bytes of all files in it.
        entries: how many files and folders, itself included.
    """

    transfer: bytes
    device_id: bytes
    name: str
    is_folder: bool
    size_bytes: int
    entries: int

    @classmethod
    def of_note(cls, note: dict[str, Any]) -> Offer:
        """Return what ``note`` has made a note of.

        Raises:
            KeyError: that is no such note.
        """
        return cls(
            *(note["transfer"], note["device_id"], note["item"], note["folder"]),
            *(note["size"], note["entries"]),
        )

    def note(self) -> dict[str, Any]:
        """Return it as a note of a journal."""
        return {
            "transfer": self.transfer,
            "device_id": self.device_id,
            "item": self.name,
            "folder": self.is_folder,
            "size": self.size_bytes,
            "entries": self.entries,
        }
