"""What all conversations of one realm share (spec: realm.md).

Pure. Puts the parts of a realm together, opens its conversations, and owns what concerns them all:
the next deadline, and the announced restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from abst.errors import Code
from abst.realm.access import Access, Mode
from abst.realm.circuits import Circuits
from abst.realm.client import GroupValues
from abst.realm.conversation import Conversation
from abst.realm.counters import Counters
from abst.realm.deadlines import Deadlines
from abst.realm.groups import Groups
from abst.realm.limits import Limits
from abst.realm.meter import Meter
from abst.realm.news import NewsEncoder
from abst.realm.pairing_windows import PairingWindows
from abst.realm.shaper import Shaper
from abst.realm.store.interface import Store
from abst.realm.store.memory import MemoryStore
from abst.realm.switchboard import MemorySwitchboard, Switchboard

RESTART_SPREAD_CONNECTIONS_PER_SECOND: Final = 100.0


@dataclass
class Realm:
    """What all conversations of one realm share.

    Attributes:
        random_bytes: returns that many unpredictable bytes.
        random_fraction: returns a number in [0, 1).
        wall: returns the seconds since 1970, by which days are counted.
        touched: conversations that have something to write, or are to be closed; the adapter
            empties the list after every call.
        here: how many devices are here: their Hello was accepted, and they have not left.
        queued_bytes: how much waits for all devices together.
        store: what the realm keeps over restarts.
        mode: who may use the realm when it begins; ``access`` knows who may now.
        is_metered: whether ``meter`` has anything to count, looked at for each run of packets.
        by_device: the connections of each device, from its proof to their end.
        values: what answers packets about the values of groups; None: they are unknown here.
    """

    limits: Limits
    random_bytes: Callable[[int], bytes]
    random_fraction: Callable[[], float]
    wall: Callable[[], float]
    switchboard: Switchboard = field(default_factory=MemorySwitchboard)
    counters: Counters = field(default_factory=Counters)
    deadlines: Deadlines = field(default_factory=Deadlines)
    conversations: set[Conversation] = field(default_factory=set)
    touched: list[Conversation] = field(default_factory=list)
    here: int = 0
    queued_bytes: int = 0
    store: Store = field(default_factory=MemoryStore)
    mode: Mode = Mode.OPEN
    values: GroupValues | None = None
    news_encoder: NewsEncoder = field(default_factory=NewsEncoder)
    access: Access = field(init=False)
    groups: Groups = field(init=False)
    windows: PairingWindows = field(init=False)
    circuits: Circuits = field(init=False)
    shaper: Shaper = field(init=False)
    meter: Meter = field(init=False)
    is_metered: bool = field(init=False)
    by_device: dict[bytes, set[Conversation]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with the groups that the store has, with no pairing window open, and no circuit."""
        self.access = Access(self.mode, self.store, self.wall, self.random_bytes)
        self.access.revoked = self._shut_out
        self.access.not_kept = self._unlet
        self.access.present = self._present
        self.meter = Meter(self.limits, self.store, self.wall, self.access.own_devices)
        self.is_metered = self.meter.is_on
        self.shaper = Shaper(self.limits, self.deadlines, self.access.own_devices)
        self.groups = Groups(self.limits, self.store, self.counters, self.wall)
        self.windows = PairingWindows(self.limits, self.random_fraction)
        self.circuits = Circuits(
            self.limits,
            self.random_bytes,
            self.switchboard,
            self.counters,
            self.deadlines,
            self.access.is_admitted,
            self.meter,
        )

    def open(self, observed_address: tuple[str, int] | None, now: float) -> Conversation:
        """Return the conversation of a connection that has just been made."""
        conversation = Conversation(self, observed_address, now)
        self.conversations.add(conversation)
        self.deadlines.add(now + self.limits.hello_seconds, conversation.look_for_hello)
        return conversation

    # Whose connections there are, and who may not be here any more.

    def identified(self, conversation: Conversation, device_id: bytes) -> bool:
        """Count a connection among those of its device; False when these are too many."""
        of_device = self.by_device.setdefault(device_id, set())
        of_device.add(conversation)
        if device_id in self.access.own_devices:
            return True
        return len(of_device) <= self.limits.device_connections

    def parted(self, conversation: Conversation, device_id: bytes) -> None:
        """Count a connection no more: it is closed, or has become a leg."""
        of_device = self.by_device.get(device_id)
        if of_device is not None:
            of_device.discard(conversation)
            if not of_device:
                del self.by_device[device_id]

    def _shut_out(self, device_id: bytes) -> None:
        """End whatever a device has that may not be here any more."""
        self._end_all_of(device_id, self.access.refusal_of(device_id) or Code.REVOKED)

    def _unlet(self, device_id: bytes) -> None:
        """Do the same with one that was let in, and whom the disk has not taken."""
        self._end_all_of(device_id, Code.NOT_KEPT)

    def _end_all_of(self, device_id: bytes, code: Code) -> None:
        for conversation in tuple(self.by_device.get(device_id, ())):
            conversation.turn_away(code)
        self.circuits.shut_out(device_id, code)

    def _present(self) -> set[bytes]:
        here = {one.device_id for one in self.conversations if one.is_here and one.device_id}
        return here | self.circuits.devices()

    def use_limits(self, limits: Limits) -> None:
        """Let other limits count from now on, and end nothing that there is.

        Devices are told with their next heartbeat, but for what holds until a connection ends.
        """
        self.limits = limits
        self.meter.use_limits(limits)
        self.is_metered = self.meter.is_on
        self.shaper.use_limits(limits)
        self.groups.use_limits(limits)
        self.windows.use_limits(limits)
        self.circuits.use_limits(limits)
        if self.values is not None:
            self.values.use_limits(limits)

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called, or None."""
        due = self.deadlines.next()
        value_due = None if self.values is None else self.values.next_deadline()
        if due is None or value_due is None:
            return value_due if due is None else due
        return min(due, value_due)

    def handle_deadline(self, now: float) -> None:
        """Close what was silent or did not read for too long; drop values whose time is over."""
        self.deadlines.run_due(now)
        if self.values is not None:
            self.values.handle_deadline(now)

    def announce_restart(self) -> None:
        """Tell every device that the realm stops, and when to come back, spread at random."""
        self.groups.stop()
        spread = len(self.conversations) / RESTART_SPREAD_CONNECTIONS_PER_SECOND
        for conversation in tuple(self.conversations):
            wait = round(0.5 + self.random_fraction() * spread, 2)
            conversation.close(Code.RESTARTING, retry_after=wait)
        self.circuits.stop()
        self.meter.save()
