"""Which packets each conversation has, by id, and how a decoded map becomes one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from abst.errors import Code, RemoteProtocolError
from abst.packets.circuits import (
    Circuit,
    ConnectToDevice,
    Leg,
)
from abst.packets.devices import (
    Application,
    DeviceHello,
    GiveGroup,
    Heartbeat,
    KeyCheck,
    PairProcess,
)
from abst.packets.groups import (
    CreateGroup,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    GroupMessage,
    HereInGroup,
    JoinGroup,
    LeaveGroup,
    StillHere,
)
from abst.packets.limits import (
    FIRST_APPLICATION_ID,
    LAST_PACKET_ID,
)
from abst.packets.packet import (
    Packet,
)
from abst.packets.realm import (
    BackHeartbeat,
    Error,
    FindWindow,
    Hello,
    OpenWindow,
    Send,
    WindowFound,
    WindowOpened,
)
from abst.packets.streams import (
    OpenStream,
    StreamOpened,
    StreamRefused,
)
from abst.packets.values import (
    DeleteValue,
    GetValue,
    ListValues,
    PutValue,
    ValueChanges,
    ValueDeleted,
    ValueFound,
    ValuePut,
    WatchingValues,
    WatchValues,
)

DEVICE_TO_REALM: Final[Mapping[int, type[Packet]]] = {
    0: Hello,
    1: ConnectToDevice,
    2: Send,
    3: CreateGroup,
    4: JoinGroup,
    5: HereInGroup,
    6: GroupMessage,
    7: LeaveGroup,
    8: PutValue,
    9: GetValue,
    10: DeleteValue,
    11: ListValues,
    12: WatchValues,
    13: OpenWindow,
    14: FindWindow,
    31: Error,
}
REALM_TO_DEVICE: Final[Mapping[int, type[Packet]]] = {
    0: BackHeartbeat,
    1: Circuit,
    2: Send,
    3: GroupEpoch,
    4: GroupMembers,
    5: StillHere,
    6: GroupMessage,
    7: GroupLeft,
    8: ValuePut,
    9: ValueFound,
    10: ValueDeleted,
    11: ValueChanges,
    12: WatchingValues,
    13: WindowOpened,
    14: WindowFound,
    31: Error,
}
LEG_TO_REALM: Final[Mapping[int, type[Packet]]] = {
    1: Leg,
}
STREAM_DIALLER: Final[Mapping[int, type[Packet]]] = {
    0: OpenStream,
}
STREAM_ACCEPTOR: Final[Mapping[int, type[Packet]]] = {
    0: StreamOpened,
    1: StreamRefused,
}
DEVICE_TO_DEVICE: Final[Mapping[int, type[Packet]]] = {
    0: Heartbeat,
    1: DeviceHello,
    2: PairProcess,
    3: KeyCheck,
    4: GiveGroup,
}
VALUE_PACKET_IDS: Final = frozenset(range(8, 13))
"""Between device and realm: packets about values, which may be larger than others."""


def id_of(packet: Mapping[str, Any]) -> int:
    """Return a decoded map's packet id.

    Raises:
        RemoteProtocolError: there is none, or it is not 0-255.
    """
    found = packet.get("packet_id")
    if type(found) is int and 0 <= found <= LAST_PACKET_ID:
        return found
    raise RemoteProtocolError(Code.MALFORMED, "packet_id: needs uint, at most 255")


def parse(packet: Mapping[str, Any], known: Mapping[int, type[Packet]]) -> Packet:
    """Return the packet of one conversation that a decoded map holds.

    Raises:
        RemoteProtocolError: UNKNOWN_PACKET when the conversation has no such id, MALFORMED when
            its keys are wrong.
    """
    packet_id = id_of(packet)
    try:
        shape = known[packet_id]
    except KeyError:
        raise RemoteProtocolError(Code.UNKNOWN_PACKET, f"packet_id: {packet_id}") from None
    return shape.from_map(packet)


def parse_between_devices(packet: Mapping[str, Any]) -> Packet:
    """Return the packet that a map from a channel holds: 0 to 4, or an application's.

    Raises:
        RemoteProtocolError: MALFORMED as above.
    """
    packet_id = id_of(packet)
    if packet_id >= FIRST_APPLICATION_ID:
        if "content" not in packet:
            raise RemoteProtocolError(Code.MALFORMED, "content: missing")
        return Application(packet_id, packet["content"])
    return parse(packet, DEVICE_TO_DEVICE)
