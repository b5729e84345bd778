"""The device library: subclass ``DeviceProtocol``, run a ``Device``, and talk to peers."""

from abst.device.device import Device
from abst.device.paths import Path
from abst.device.peers import Peer, PeerBook
from abst.device.protocol import DeviceFactory, DeviceProtocol

__all__ = ["Device", "DeviceFactory", "DeviceProtocol", "Path", "Peer", "PeerBook"]
