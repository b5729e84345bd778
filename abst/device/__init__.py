"""The device library: subclass ``DeviceProtocol``, run a ``Device``, and talk to peers.

Its names are fetched when somebody asks for them: whoever needs the pure modules alone, as the
command line does to complete a code, waits for no Twisted.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from abst.device.device import Device
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
    "LocalNetwork",
    "NearbyDevice",
    "PairingAttempt",
    "PairingObserver",
    "Path",
    "Peer",
    "PeerBook",
    "StreamAddress",
    "StreamClientEndpoint",
    "StreamServerEndpoint",
    "Streams",
    "parse_target",
]

_MODULES: Final = {
    "Device": "device",
    "DeviceFactory": "protocol",
    "DeviceProtocol": "protocol",
    "LocalNetwork": "lan",
    "NearbyDevice": "pairing_attempt",
    "PairingAttempt": "pairing_attempt",
    "PairingObserver": "pairing_attempt",
    "Path": "paths",
    "Peer": "peers",
    "PeerBook": "peers",
    "StreamAddress": "streams.stream",
    "StreamClientEndpoint": "streams.endpoints",
    "StreamServerEndpoint": "streams.endpoints",
    "Streams": "streams.streams",
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
