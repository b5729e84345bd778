"""What a watcher of values is told before it is told changes as they come. Bounded."""

from __future__ import annotations

from typing import Final

from abst.device.groups.changes import What
from abst.device.groups.values import Value, ValueChange
from abst.errors import GroupError

MAX_WAITING: Final = 50_000
"""Of how many names something waits until a watcher has read it; a realm has fewer values."""


class EarlyChanges:
    """The values that were there, and what has changed while they were told."""

    def __init__(self) -> None:
        self._changes: dict[bytes, ValueChange] = {}
        self._is_too_much = False

    def begin(self, value: Value) -> None:
        """Add a value that was there; a change of it that has come already is in it or newer."""
        change = self._changes.get(value.name)
        if change is None or change.revision < value.revision:
            self._changes[value.name] = ValueChange(
                value.name, value.value, value.revision, value.writer, What.PUT
            )

    def add(self, change: ValueChange) -> None:
        """Add a change; only the last one of each name is kept."""
        self._changes.pop(change.name, None)
        if len(self._changes) < MAX_WAITING:
            self._changes[change.name] = change
        else:
            self._is_too_much = True

    def take(self) -> ValueChange | None:
        """Return what comes next, or None.

        Raises:
            GroupError: too much has come.
        """
        if self._is_too_much:
            raise GroupError("there are more changes than are read: watch a smaller part")
        return self._changes.pop(next(iter(self._changes))) if self._changes else None
