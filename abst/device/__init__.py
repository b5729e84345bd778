"""The device library: subclass ``DeviceProtocol``, run a ``Device``, and talk to peers.

Its names are fetched when somebody asks for them: whoever needs the pure modules alone, as the
command line does to complete a code, waits for no Twisted.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from abst.device.device import Device
    from abst.device.groups.group import Group
    from abst.device.groups.groups import Groups
    from abst.device.groups.protocol import GroupFactory, GroupOffer, GroupProtocol
    from abst.device.groups.store import SqliteGroupStore
    from abst.device.groups.values import Value, ValueChange, Values
    from abst.device.lan import LocalNetwork
    from abst.device.pairing_attempt import (
        NearbyDevice,
        PairingAttempt,
        PairingObserver,
        parse_target,
    )
    from abst.device.paths import Path
    from abst.device.peers import Peer, PeerBook
    from abst.device.protocol import DeviceFactory, DeviceProtocol
    from abst.device.streams.endpoints import StreamClientEndpoint, StreamServerEndpoint
    from abst.device.streams.stream import StreamAddress
    from abst.device.streams.streams import Streams

__all__ = [
    "Device",
    "DeviceFactory",
    "DeviceProtocol",
    "Group",
    "GroupFactory",
    "GroupOffer",
    "GroupProtocol",
    "Groups",
    "LocalNetwork",
    "NearbyDevice",
    "PairingAttempt",
    "PairingObserver",
    "Path",
    "Peer",
    "PeerBook",
    "SqliteGroupStore",
    "StreamAddress",
    "StreamClientEndpoint",
    "StreamServerEndpoint",
    "Streams",
    "Value",
    "ValueChange",
    "Values",
    "parse_target",
]

_MODULES: Final = {
    "Device": "device",
    "DeviceFactory": "protocol",
    "DeviceProtocol": "protocol",
    "Group": "groups.group",
    "GroupFactory": "groups.protocol",
    "GroupOffer": "groups.protocol",
    "GroupProtocol": "groups.protocol",
    "Groups": "groups.groups",
    "LocalNetwork": "lan",
    "NearbyDevice": "pairing_attempt",
    "PairingAttempt": "pairing_attempt",
    "PairingObserver": "pairing_attempt",
    "Path": "paths",
    "Peer": "peers",
    "PeerBook": "peers",
    "SqliteGroupStore": "groups.store",
    "StreamAddress": "streams.stream",
    "StreamClientEndpoint": "streams.endpoints",
    "StreamServerEndpoint": "streams.endpoints",
    "Streams": "streams.streams",
    "Value": "groups.values",
    "ValueChange": "groups.values",
    "Values": "groups.values",
    "parse_target": "pairing_attempt",
}
"""In which module each public name stands."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # The next time it is found without asking here.
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
