"""What one device has not been told yet of the groups that it has joined (spec: groups.md).

Pure. Keeps the last word on each member instead of a packet for each event, and makes packets only
when the device can be written to: so a device that reads slowly costs an entry for each member,
however often they come and go. Answers to Join wait here too, since each lists all members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from abst import codec
from abst.packets import GroupLeft, GroupMembers, Packet, StillHere

MAX_WAITING_ANSWERS: Final = 1024
"""How many answers to Join may wait for one device."""

Answer = Callable[[bytes, int | None], Packet]
"""Makes the answer to a Join from the group and the number of the request."""


class GroupNews:
    """What waits to be told of one group."""

    __slots__ = ("answers", "came", "epoch", "gone", "here")

    def __init__(self) -> None:
        self.answers: deque[int | None] = deque()
        self.epoch = 0
        # Whether the device has been told already that the one who came was here before.
        self.came: dict[bytes, bool] = {}
        self.gone: dict[bytes, None] = {}
        self.here: dict[bytes, None] = {}

    def __bool__(self) -> bool:
        return bool(self.answers or self.came or self.gone or self.here)

    def forget(self) -> None:
        """Forget all but the answers."""
        self.came.clear()
        self.gone.clear()
        self.here.clear()


class News:
    """What one device is still to be told.

    Attributes:
        groups: by the IDs of the groups that it is about; empty when there is nothing.
    """

    __slots__ = ("_answer", "_waiting_answers", "groups")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.groups: dict[bytes, GroupNews] = {}
        self._waiting_answers = 0

    def came(self, group: bytes, epoch: int, device: bytes) -> None:
        """Note that a member has come."""
        of_group = self._of(group)
        of_group.epoch = epoch
        was_known = device in of_group.gone
        of_group.gone.pop(device, None)
        of_group.came[device] = was_known

    def gone(self, group: bytes, device: bytes) -> None:
        """Note that a member has gone; of one that came meanwhile nothing has to be said."""
        of_group = self._of(group)
        of_group.here.pop(device, None)
        if of_group.came.pop(device, True):
            of_group.gone[device] = None
        elif not of_group:
            del self.groups[group]

    def still_here(self, group: bytes, device: bytes) -> None:
        """Note that a member has said that it is here."""
        self._of(group).here[device] = None

    def answer(self, group: bytes, request: int | None) -> bool:
        """Note that a Join has to be answered; False when too many answers wait."""
        if self._waiting_answers >= MAX_WAITING_ANSWERS:
            return False
        self._waiting_answers += 1
        self._of(group).answers.append(request)
        return True

    def next_packet(self) -> Packet | None:
        """Return the next packet to tell; None when there is nothing left."""
        if not self.groups:
            return None
        group, of_group = next(iter(self.groups.items()))
        packet = self._next_of(group, of_group)
        if not of_group:
            del self.groups[group]
        return packet

    def leave(self, group: bytes) -> list[Packet]:
        """Forget what happened in a group; return the answers that are owed all the same."""
        of_group = self.groups.pop(group, None)
        if of_group is None:
            return []
        self._waiting_answers -= len(of_group.answers)
        return [self._answer(group, request) for request in of_group.answers]

    def clear(self) -> None:
        """Forget everything."""
        self.groups.clear()
        self._waiting_answers = 0

    def _of(self, group: bytes) -> GroupNews:
        of_group = self.groups.get(group)
        if of_group is None:
            of_group = self.groups[group] = GroupNews()
        return of_group

    def _next_of(self, group: bytes, of_group: GroupNews) -> Packet:
        if of_group.answers:
            self._waiting_answers -= 1
            # The answer lists who is here now: it is the last word on all who came or went.
            of_group.forget()
            return self._answer(group, of_group.answers.popleft())
        # Who is gone first: so a device never has more members to count than a group may have.
        if of_group.gone:
            devices, of_group.gone = list(of_group.gone), {}
            return GroupLeft(group, devices)
        if of_group.came:
            devices, of_group.came = list(of_group.came), {}
            return GroupMembers(group, of_group.epoch, devices)
        devices, of_group.here = list(of_group.here), {}
        return StillHere(group, devices)


class NewsEncoder:
    """Encodes what many devices are told, once when it is the same for one after the other."""

    def __init__(self) -> None:
        self._packet: Packet | None = None
        self._encoded = b""

    def encode(self, packet: Packet) -> bytes:
        """Return a packet's bytes."""
        if packet != self._packet:
            self._encoded = codec.encode(packet)
            self._packet = packet
        return self._encoded
