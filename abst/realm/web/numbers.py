"""All that a realm shows, as it is at one moment: metrics, status and page tell it, each its way.

Pure. Reads the realm, and changes nothing. Of devices it says what the operator needs to see who
uses how much: the beginning of an ID, and an address only as far as that is wanted.
"""

from __future__ import annotations

import heapq
import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from abst.realm.circuits import State as CircuitState
from abst.realm.conversation import Conversation, State
from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.realm import Realm

MAX_DEVICES_SHOWN: Final = 200
_ID_BYTES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class DeviceHere:
    """A device that is here.

    Attributes:
        id: the first 8 digits of its ID.
        seconds: for how long.
        packets: how many packets it has sent to others on this connection.
        bytes: how many bytes these had.
        address: where it connects from, blurred when so wanted; "" when that is unknown.
    """

    id: str
    seconds: int
    packets: int
    bytes: int
    address: str


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is to be counted in a realm.

    Attributes:
        limits: what may be used.
        counters: what has been counted since the realm started.
        mode: who may use it, as the configuration says it.
        listed: how many devices are on the list.
        revoked: how many devices are known that may not be here.
        invitations: how many are good.
        here: how many devices are here, the realm's own not counted.
        awaited: connections that have not said Hello, or are about to end.
        newcomers: connections without TLS whose first packet has not come whole.
        legs: connections that are legs of circuits.
        queue_bytes: what waits for all devices together.
        circuits_waiting: circuits whose legs have not both come.
        circuits_joined: circuits over which bytes go.
        groups: how many peer groups there are.
        members: how often a device that is here has joined one.
        stored_bytes: what all groups take on the disk.
        loaded_values: how many values the groups have that are in memory.
    """

    limits: Limits
    counters: Counters
    mode: str
    listed: int
    revoked: int
    invitations: int
    here: int
    awaited: int
    newcomers: int
    legs: int
    queue_bytes: int
    circuits_waiting: int
    circuits_joined: int
    groups: int
    members: int
    stored_bytes: int
    loaded_values: int

    @property
    def connections(self) -> int:
        """How many connections there are, but for the legs of circuits."""
        return self.here + self.awaited + self.newcomers


def read(realm: Realm, newcomers: int, legs: int) -> Numbers:
    """Return what is to be counted just now.

    Args:
        realm: the realm.
        newcomers: how many connections have not shown yet what they are.
        legs: how many are legs of circuits.
    """
    own = sum(len(realm.by_device.get(device_id, ())) for device_id in realm.access.own_devices)
    circuits = realm.circuits.count_states()
    listed, revoked = realm.access.count_devices()
    return Numbers(
        limits=realm.limits,
        counters=realm.counters,
        mode=str(realm.access.mode),
        listed=listed,
        revoked=revoked,
        invitations=len(realm.access.invitations()),
        here=realm.here,
        awaited=len(realm.conversations) - realm.here - own,
        newcomers=newcomers,
        legs=legs,
        queue_bytes=realm.queued_bytes,
        circuits_waiting=circuits[CircuitState.MEETING],
        circuits_joined=circuits[CircuitState.JOINED],
        groups=len(realm.groups),
        members=realm.groups.members,
        stored_bytes=0 if realm.values is None else realm.values.stored_bytes,
        loaded_values=0 if realm.values is None else realm.values.loaded_values,
    )


def devices_here(realm: Realm, now: float, *, blurs: bool) -> list[DeviceHere]:
    """Return devices that are here, those that have sent most first.

    Args:
        realm: the realm.
        now: the time.
        blurs: whether addresses are blurred.
    """
    own = realm.access.own_devices
    here = (
        conversation
        for conversation in realm.conversations
        if conversation.state is State.HERE and conversation.device_id not in own
    )
    most = heapq.nlargest(MAX_DEVICES_SHOWN, here, key=lambda found: found.sent_bytes)
    return [_device_here(conversation, now, blurs) for conversation in most]


def _device_here(conversation: Conversation, now: float, blurs: bool) -> DeviceHere:
    assert conversation.device_id is not None
    observed = conversation.observed_address
    host = "" if observed is None else observed[0]
    return DeviceHere(
        id=conversation.device_id[:_ID_BYTES_SHOWN].hex(),
        seconds=max(0, int(now - conversation.here_since)),
        packets=conversation.sent_packets,
        bytes=conversation.sent_bytes,
        address=blurred(host) if blurs else host,
    )


def blurred(host: str) -> str:
    """Return an IP address without what tells one customer of a provider from another."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if address.version == 4:
        return host.rpartition(".")[0] + ".x"
    first, second = struct.unpack_from("!2H", address.packed)
    return f"{first:x}:{second:x}::x"
