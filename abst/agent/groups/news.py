"""What happens in groups, told to whoever listens, in the words of the command line."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from abst.control import Emit
from abst.device import PeerBook
from abst.device.groups.group import Group
from abst.device_id import DeviceID

MESSAGE = "group message"
OVER = "over"


class GroupNews:
    """Passes on what happens in groups.

    Args:
        peers: whom this device trusts, for their names.
        notify: is told of messages: who listens to everything that arrives.
    """

    def __init__(self, peers: PeerBook, notify: Callable[[dict[str, Any]], None]) -> None:
        self._peers = peers
        self._notify = notify
        self._listeners: list[tuple[Emit, bytes | None]] = []

    def listen(self, emit: Emit, group: Group | None) -> Callable[[], None]:
        """Have an event emitted for everything that happens in a group, or in all.

        Returns:
            A function that ends it.
        """
        listener = (emit, None if group is None else bytes(group.group_id))
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(
        self, group: Group, kind: str, device_id: DeviceID | None = None, **facts: Any
    ) -> None:
        """Tell what has happened.

        Args:
            group: where.
            kind: what.
            device_id: the member that it is about, or None.
            facts: what else there is to know.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        event = {"kind": kind, "group": str(group), "group_id": str(group.group_id), **facts}
        if device_id is not None:
            event |= {"peer": self.name_of(group, device_id), "device_id": str(device_id)}
        event["received_at"] = now
        for emit, group_id in tuple(self._listeners):
            if group_id in (None, group.group_id):
                emit(event)
        if kind == MESSAGE:
            self._notify(event)

    def name_of(self, group: Group, device_id: DeviceID) -> str:
        """Return what a member is called: here, if this device knows it, else in its group."""
        peer = self._peers.get(device_id)
        member = group.roster.members().get(device_id)
        name = (peer.name if peer is not None else "") or (member.name if member else "")
        return name or str(device_id)
