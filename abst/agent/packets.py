"""The agent's own application packets: messages (spec: agent.md). Pure.

Ids 16-24 of the application's range, in sessions between two agents. Files go over streams, with
packets of their own: ``files.packets``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

MESSAGE: Final = 16
NOTHING: Final = 24
"""Stands in the place of a message that was taken back, and asks whether the peer is there."""

MAX_MESSAGE_CHARACTERS: Final = 10_000

Check = Callable[[Any], bool]


def _is_message(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_MESSAGE_CHARACTERS


FIELDS: Final[dict[int, dict[str, Check]]] = {MESSAGE: {"text": _is_message}, NOTHING: {}}


def is_well_formed(packet_id: int, content: Any) -> bool:
    """Tell whether a packet is one of the agent's, with every key that it needs."""
    fields = FIELDS.get(packet_id)
    return (
        fields is not None
        and isinstance(content, dict)
        and all(name in content and holds(content[name]) for name, holds in fields.items())
    )
