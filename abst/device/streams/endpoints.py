"""Twisted's endpoints over a device's streams: what connects and what listens, for any protocol.

Spec: streams.md. They are thin; ``streams`` owns what happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from abst.device_id import DeviceID

if TYPE_CHECKING:
    from abst.device.device import Device
    from abst.device.peers import Peer


@implementer(IStreamClientEndpoint)
class StreamClientEndpoint:
    """Opens streams to a service of a peer.

    Args:
        device: this device.
        device_id: the peer.
        service: the name of the service there.
    """

    def __init__(self, device: Device, device_id: DeviceID, service: str) -> None:
        self._device = device
        self._device_id = device_id
        self._service = service

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Return a Deferred of the protocol, once it is connected.

        It can be cancelled, and fails with an ``AbstError`` that says why there is no stream.
        """
        return self._device.streams.connect(self._device_id, self._service, protocolFactory)


@implementer(IStreamServerEndpoint)
class StreamServerEndpoint:
    """Offers a service of this device to its peers.

    Args:
        device: this device.
        service: the name of the service.
        admits: tells whether a peer may use it; None admits every peer.
    """

    def __init__(
        self, device: Device, service: str, admits: Callable[[Peer], bool] | None = None
    ) -> None:
        self._device = device
        self._service = service
        self._admits = admits

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Return a Deferred of the port, whose ``stopListening`` ends the service.

        It fails with ``StreamError`` when the name cannot be used, or is taken.
        """
        return self._device.streams.listen(self._service, protocolFactory, self._admits)
