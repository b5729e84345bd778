"""Peer groups at a realm. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from abst.packets import fields
from abst.packets.limits import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
)
from abst.packets.packet import Packet


@dataclass(frozen=True, slots=True)
class CreateGroup(Packet):
    """Device to realm: make a peer group, or move it to its next epoch.

    Attributes:
        epoch: 0 for a new group, else the number of the next epoch.
        key: the epoch's public key.
        proof: that the sender holds the epoch's private key.
        signature: by the key of the epoch before; absent for epoch 0.
    """

    packet_id = 3
    title = "Create peer group"
    envelope = (fields.REQUEST, fields.group())
    body = (
        fields.count("epoch"),
        fields.binary("key", PUBLIC_KEY_BYTES),
        fields.binary("proof", SIGNATURE_BYTES),
        fields.binary("signature", SIGNATURE_BYTES, required=False),
    )

    peer_group: bytes
    epoch: int
    key: bytes
    proof: bytes
    signature: bytes | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class GroupEpoch(Packet):
    """Realm to device: the epoch that a peer group is in from now on.

    Without ``request`` it tells a member that another one has moved the group: the receiver is not
    joined any more.
    """

    packet_id = 3
    title = "Peer group's epoch"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("epoch"), fields.binary("key", PUBLIC_KEY_BYTES))

    peer_group: bytes
    epoch: int
    key: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class JoinGroup(Packet):
    """Device to realm: count me in, I hold the group's key.

    Attributes:
        epoch: the epoch whose key it is.
        proof: that the sender holds the epoch's private key.
    """

    packet_id = 4
    title = "Join peer group"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("epoch"), fields.binary("proof", SIGNATURE_BYTES))

    peer_group: bytes
    epoch: int
    proof: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class GroupMembers(Packet):
    """Realm to device: who is in a peer group; without ``request``: who else has come.

    Attributes:
        devices: in the answer all who are here, the receiver too; else those who have come.
        limits: what the group may use at this realm; in the answer.
    """

    packet_id = 4
    title = "Peer group's members"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("epoch"), fields.devices(), fields.limits("limits", required=False))

    peer_group: bytes
    epoch: int
    devices: list[bytes]
    limits: dict[str, float] | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class HereInGroup(Packet):
    """Device to realm: tell the other members that I am still here."""

    packet_id = 5
    title = "I am here"
    envelope = (fields.group(),)

    peer_group: bytes


@dataclass(frozen=True, slots=True)
class StillHere(Packet):
    """Realm to device: members that have said that they are here."""

    packet_id = 5
    title = "Members that are here"
    envelope = (fields.group(),)
    body = (fields.devices(),)

    peer_group: bytes
    devices: list[bytes]


@dataclass(frozen=True, slots=True)
class GroupMessage(Packet):
    """Device to realm, and unchanged realm to every other member: bytes for a peer group."""

    packet_id = 6
    title = "Peer group message"
    envelope = (
        fields.device("source_device"),
        fields.group(),
        fields.Field("content", "bin", lambda value: isinstance(value, bytes)),
    )

    source_device: bytes
    peer_group: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class LeaveGroup(Packet):
    """Device to realm: count me out, until I join again."""

    packet_id = 7
    title = "Leave peer group"
    envelope = (fields.REQUEST, fields.group())

    peer_group: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class GroupLeft(Packet):
    """Realm to device: members that have left; with ``request``, the answer to the one that did."""

    packet_id = 7
    title = "Members that have left"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.devices(),)

    peer_group: bytes
    devices: list[bytes]
    request: int | None = None
