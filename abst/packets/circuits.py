"""How a circuit comes to be. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from abst.packets import fields
from abst.packets.limits import (
    CIRCUIT_ID_BYTES,
    TOKEN_BYTES,
)
from abst.packets.packet import Packet


@dataclass(frozen=True, slots=True)
class ConnectToDevice(Packet):
    """Device to realm: make a circuit between me and another device."""

    packet_id = 1
    title = "Connect to device"
    envelope = (fields.REQUEST, fields.device("source_device"), fields.device("target_device"))

    source_device: bytes
    target_device: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Circuit(Packet):
    """Realm to device, to each of the two: how to open this device's end of a circuit.

    Attributes:
        circuit: names the circuit in Errors about it.
        token: what the leg of this device begins with; good once, and for this device alone.
        device: the other device.
        dials: True for the device that has asked: it is the client of the TLS inside.
        seconds: how long the token is good.
        limits: what the realm lets one circuit and one device carry; 0 is no limit.
        request: the number of the packet that this answers; absent for the other device.
    """

    packet_id = 1
    title = "Circuit"
    envelope = (fields.REQUEST,)
    body = (
        fields.binary("circuit", CIRCUIT_ID_BYTES),
        fields.binary("token", TOKEN_BYTES),
        fields.device("device"),
        fields.flag("dials"),
        fields.seconds("seconds"),
        fields.limits("limits"),
    )

    circuit: bytes
    token: bytes
    device: bytes
    dials: bool
    seconds: float
    limits: dict[str, float]
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Leg(Packet):
    """Leg to realm: the first packet of a connection that becomes one end of a circuit."""

    packet_id = 1
    title = "Leg"
    body = (fields.binary("token", TOKEN_BYTES),)

    token: bytes
