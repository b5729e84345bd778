"""What a device and a realm say to each other about themselves, and Send. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abst.packets import fields
from abst.packets.limits import (
    CIRCUIT_ID_BYTES,
    MAX_CODE_CHARACTERS,
    MAX_INVITATION_CHARACTERS,
    MAX_REASON_CHARACTERS,
    NONCE_BYTES,
    PROTOCOL_VERSION,
)
from abst.packets.packet import Packet


@dataclass(frozen=True, slots=True)
class Hello(Packet):
    """Device to realm: I am here; and again as heartbeat."""

    packet_id = 0
    title = "Hello"
    envelope = (fields.REQUEST,)
    body = (
        fields.device("device_id"),
        fields.count("version"),
        fields.text("invitation", MAX_INVITATION_CHARACTERS, required=False),
    )

    device_id: bytes
    version: int = PROTOCOL_VERSION
    invitation: str | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class BackHeartbeat(Packet):
    """Realm to device: the answer to every Hello, with every limit in force."""

    packet_id = 0
    title = "Back heartbeat"
    envelope = (fields.REQUEST,)
    body = (
        fields.count("version"),
        fields.seconds("heartbeat_seconds"),
        fields.limits("limits"),
        fields.Field(
            "observed_address",
            "array: str host, uint port",
            fields.is_observed_address,
            required=False,
        ),
        fields.binary("nonce", NONCE_BYTES),
    )

    version: int
    heartbeat_seconds: float
    limits: dict[str, float]
    nonce: bytes
    observed_address: list[Any] | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Send(Packet):
    """Device to realm, and unchanged realm to device: bytes for another device."""

    packet_id = 2
    title = "Send to another device"
    envelope = (
        fields.REQUEST,
        fields.device("source_device"),
        fields.device("target_device"),
        fields.Field("content", "bin", lambda value: isinstance(value, bytes)),
    )

    source_device: bytes
    target_device: bytes
    content: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Error(Packet):
    """A refusal, a drop, or the reason why a connection closes; or a device's no to a circuit.

    Attributes:
        code: one of ``errors.Code``, or a code of a newer version.
        reason: a sentence for people.
        about: the packet id that was refused.
        target_device: the target of what was refused.
        dropped: how many packets this error stands for.
        retry_after: seconds after which trying again makes sense.
        circuit: the circuit that it is about.
        peer_group: the group that it is about.
        epoch: the epoch in which that group is.
        request: the number that the refused packet carried.
    """

    packet_id = 31
    title = "Error"
    envelope = (fields.REQUEST,)
    body = (
        fields.text("code", MAX_CODE_CHARACTERS),
        fields.text("reason", MAX_REASON_CHARACTERS),
        fields.count("about", required=False),
        fields.device("target_device", required=False),
        fields.count("dropped", required=False),
        fields.seconds("retry_after", required=False),
        fields.binary("circuit", CIRCUIT_ID_BYTES, required=False),
        fields.device("peer_group", required=False),
        fields.count("epoch", required=False),
    )

    code: str
    reason: str
    about: int | None = None
    target_device: bytes | None = None
    dropped: int | None = None
    retry_after: float | None = None
    circuit: bytes | None = None
    peer_group: bytes | None = None
    epoch: int | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class OpenWindow(Packet):
    """Device to realm: let me be found under a number for a while, or not any more.

    Attributes:
        close: True closes the window that this device has.
    """

    packet_id = 13
    title = "Open pairing window"
    envelope = (fields.REQUEST,)
    body = (fields.flag("close", required=False),)

    close: bool | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class WindowOpened(Packet):
    """Realm to device: the number under which the device can be found, and for how long."""

    packet_id = 13
    title = "Pairing window opened"
    envelope = (fields.REQUEST,)
    body = (fields.count("number"), fields.seconds("seconds"))

    number: int
    seconds: float
    request: int | None = None


@dataclass(frozen=True, slots=True)
class FindWindow(Packet):
    """Device to realm: look for the device that has the window of this number."""

    packet_id = 14
    title = "Find pairing window"
    envelope = (fields.REQUEST,)
    body = (fields.count("number"),)

    number: int
    request: int | None = None


@dataclass(frozen=True, slots=True)
class WindowFound(Packet):
    """Realm to device: the device that has the window."""

    packet_id = 14
    title = "Pairing window found"
    envelope = (fields.REQUEST,)
    body = (fields.count("number"), fields.device("device_id"))

    number: int
    device_id: bytes
    request: int | None = None
