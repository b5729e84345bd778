"""Where groups survive restarts: a narrow interface."""

from __future__ import annotations

from typing import Protocol


class GroupStore(Protocol):
    """What a device keeps of its groups."""
