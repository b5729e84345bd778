"""What the agent does when the command line asks about streams: exposed services, and forwards.

Owns the meaning of these commands and the words of their results, as ``commands`` does for others.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from abst.agent.streams.exposure import Exposure
from abst.agent.streams.exposures import Exposures
from abst.agent.streams.forwarding import Forward, parse_local_endpoint
from abst.agent.streams.gate import Gate
from abst.agent.streams.gate_lines import check_service
from abst.control import Command, Emit
from abst.device import Device
from abst.device_id import DeviceID


class StreamCommands:
    """The commands about streams.

    Args:
        device: the device.
        gate: what programs offer.
        exposures: what its owner has exposed.
    """

    def __init__(self, device: Device, gate: Gate, exposures: Exposures) -> None:
        self._device = device
        self._gate = gate
        self._exposures = exposures
        self._forwards: list[Forward] = []

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "expose": self.expose,
            "expose_list": self.expose_list,
            "expose_remove": self.expose_remove,
            "forward": self.forward,
        }

    def status(self) -> dict[str, Any]:
        """Tell what is offered and forwarded, and which streams are open."""
        return {
            "exposed": self._exposed(),
            "programs": self._programs(),
            "forwards": [
                {
                    "peer": str(forward.peer),
                    "device_id": str(forward.peer.device_id),
                    "service": forward.service,
                    "address": forward.address,
                }
                for forward in self._forwards
            ],
            "streams": [
                {
                    "peer": self._name(stream.device_id),
                    "device_id": str(stream.device_id),
                    "service": stream.getPeer().service,
                    "path": str(stream.path),
                    "path_kind": stream.path.kind,
                    "sent_bytes": stream.sent_bytes,
                    "received_bytes": stream.received_bytes,
                }
                for stream in self._device.streams.open_streams()
            ],
        }

    async def expose(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Expose a service."""
        names = arguments.get("peers") or []
        peers = [self._device.peers.find(str(name)) for name in names]
        exposure = Exposure(
            str(arguments["service"]),
            str(arguments["endpoint"]),
            tuple(dict.fromkeys(peer.device_id for peer in peers)),
        )
        await self._exposures.add(exposure)
        return self._told(exposure)

    async def expose_list(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List what is exposed, and what programs offer."""
        return {"exposed": self._exposed(), "programs": self._programs()}

    async def expose_remove(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Expose a service no more."""
        return self._told(await self._exposures.remove(str(arguments["service"])))

    async def forward(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Forward connections to a peer's service, until nobody wants that any more."""
        peer = self._device.peers.find(str(arguments["peer"]))
        service = check_service(arguments["service"])
        endpoint = parse_local_endpoint(self._device.reactor, str(arguments["endpoint"]))
        forward = Forward(self._device, peer, service, emit, self._device.reactor.seconds)
        await forward.listen(endpoint)
        self._forwards.append(forward)
        try:
            emit({"kind": "listening", "peer": str(peer), "address": forward.address})
            await Deferred()
        finally:
            self._forwards.remove(forward)
            await forward.stop()
        return {}

    def _exposed(self) -> list[dict[str, Any]]:
        return [self._told(exposure) for exposure in self._exposures.all()]

    def _told(self, exposure: Exposure) -> dict[str, Any]:
        return {
            "service": exposure.service,
            "endpoint": exposure.endpoint,
            "peers": [self._name(device_id) for device_id in exposure.peers],
            "problem": self._exposures.problem(exposure.service),
        }

    def _programs(self) -> list[dict[str, Any]]:
        return [
            {"service": listener.service, "peers": [str(peer) for peer in listener.peers or ()]}
            for listener in self._gate.listeners()
        ]

    def _name(self, device_id: DeviceID) -> str:
        return str(self._device.peers.get(device_id) or device_id)
