"""The device library: subclass ``DeviceProtocol``, run a ``Device``, and talk to peers."""

from abst.device.device import Device
from abst.device.pairing_attempt import PairingAttempt, PairingObserver, parse_target
from abst.device.paths import Path
from abst.device.peers import Peer, PeerBook
from abst.device.protocol import DeviceFactory, DeviceProtocol

__all__ = [
    "Device",
    "DeviceFactory",
    "DeviceProtocol",
    "PairingAttempt",
    "PairingObserver",
    "Path",
    "Peer",
    "PeerBook",
    "parse_target",
]
